"""Sparse autoencoders: checkpoints in, codes out. The code matrix is never made."""
