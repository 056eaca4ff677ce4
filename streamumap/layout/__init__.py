"""The layout: stochastic gradient descent on the fuzzy graph, every vertex pulling along its own edges.

Each epoch reads the positions of the one before and writes new ones, so there are no atomics and the bytes are the same
for any number of threads and any split of the graph into blocks. An edge of weight w fires in a share w / max(w) of the
epochs; each time, its vertex moves towards the neighbour and away from `negative_sample_rate` random vertices (McInnes,
Healy, Melville 2018, arXiv:1802.03426).

`reference.py` says what one epoch is; `cpu.py` (numba) and `cuda.py` (Triton) do it fast; `run.py` holds the state and
the loop. `levels.py` makes the first positions from the graph, level by level,
`spectral.py` along its eigenvectors.
"""
