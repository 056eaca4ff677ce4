"""One pass over all rows that finds their facts: counts, extremes, zero rows, duplicates, broken values."""
