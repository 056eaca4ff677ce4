"""Views of rows: selected, centred, scaled, normalised, transposed, or on a device."""
