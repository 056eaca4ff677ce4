"""Plans: which backend does each stage, in blocks of how many rows, with how many bytes and seconds."""
