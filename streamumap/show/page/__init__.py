"""A map as a page: one HTML file without a network, or the same page on this machine for data that is too big for one."""
