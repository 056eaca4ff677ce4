"""Linear reductions of streamed rows: PCA and ICA."""
