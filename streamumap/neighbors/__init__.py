"""The k-NN graph of all rows, and the exact ranks of a few rows' neighbours, by which recall and the map are measured.

A backend is a module with two functions:

    search(rows, ...) -> indices int32 (N, k), distances float32 (N, k), nearest first, the row itself in column 0,
                         -1 and inf where there is no neighbour
    count_closer(rows, sample, others, ...) -> int64 (S, m): how many rows are closer to sample[i] than others[i, j] is

`reference.py` defines the distances. `packed.py` searches rows that are mostly zeros through an inverted index (numba), `dense.py` dense rows by
overlapping cells, matrix products and refinement (BLAS and numba), `cuda.py` dense rows on a GPU, exhaustively (torch).
"""
