"""Rows that are mostly zeros, kept without their zeros."""
