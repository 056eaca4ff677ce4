"""Nearest neighbours of dense rows on a CPU."""
