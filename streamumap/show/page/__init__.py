"""A map as a page: one HTML file that needs no network, or the same page served on this machine for larger data."""
