"""Rows seen in another way: selected, centred, scaled, normalised, or on a device."""
