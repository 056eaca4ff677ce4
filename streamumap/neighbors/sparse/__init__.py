"""The k-NN search in rows that are mostly zeros, on a CPU."""
