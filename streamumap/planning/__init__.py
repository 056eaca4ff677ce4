"""Plans say which backend does each stage, in blocks of how many rows, and predict the bytes and seconds that it takes."""
