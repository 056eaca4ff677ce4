"""The k-NN search on a GPU."""
