"""The k-NN graph of all rows, and the exact ranks of a few rows' neighbours, by which recall and the map are measured.

A backend is a module with two functions:

    search(rows, ...) -> indices int32 (N, k), distances float32 (N, k), nearest first, the row itself in column 0,
                         -1 and inf where there is no neighbour
    count_closer(rows, sample, others, ...) -> int64 (S, m): how many rows are closer to sample[i] than others[i, j] is

`reference.py` defines the distances. Three backends:

`packed/`    rows that are mostly zeros, on a CPU (numba): exact, through an inverted index; where they are many, cells of rows
             and joins find candidates, until the recall asked for is measured.
`dense.py`   dense rows on a CPU: cells and joins on small sketches of the rows propose, the rows themselves decide, until
             the recall asked for is measured; `exhaustive.py` where that is cheaper or needed (BLAS and numba). Its parts:
             `sketch.py`, `cells.py`, `propose.py`, `join.py`, `table.py`, `work.py`.
`cuda.py`    dense rows on a GPU: exact, chunk against chunk (torch and Triton).

`points.py` and `cuda/points.py` find nearest points of a map and ranks on it, by which the map is measured.

`footprint.py`, `csr_footprint.py` and `points_footprint.py` have the bytes of each, `zero.py` what all of them do with rows of zeros.
"""
