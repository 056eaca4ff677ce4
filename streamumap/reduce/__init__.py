"""Linear reductions of streamed rows: principal and independent components."""
