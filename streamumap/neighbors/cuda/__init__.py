"""Nearest neighbours on a GPU, with torch and Triton."""
