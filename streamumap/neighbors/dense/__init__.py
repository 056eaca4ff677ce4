"""The k-NN search in dense rows, on a CPU."""
