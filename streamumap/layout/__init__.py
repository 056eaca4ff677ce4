"""The layout: stochastic gradient descent on the fuzzy graph, in which every vertex moves along its own edges.

An epoch reads the old positions and writes new ones, without atomics: any number of threads and any split of the graph
into blocks give the same bytes. An edge of weight w fires in a share w / max(w) of the epochs. When it fires, its vertex
moves towards the neighbour and away from up to `negative_sample_rate` random vertices (McInnes, Healy, Melville 2018,
arXiv:1802.03426).

    schedule.py       constants, the curve, step sizes, and which edge fires when
    epochs.py         the state, the loop over epochs, and the `Backend` that runs one
    reference.py      the definition of an epoch, in NumPy; cpu.py (numba) and cuda.py (Triton) are fast and held to it
    out_of_sample.py  rows that join a finished map
    cuml.py           cuML's own layout
    sizes.py          the bytes that a layout takes
    init/             first positions
"""
