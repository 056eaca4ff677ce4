"""Nearest neighbours of sparse rows on a CPU."""
