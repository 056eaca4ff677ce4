"""Encodes rows by a sparse autoencoder, from its checkpoint. The dense code matrix is never made."""
