"""The fuzzy graph: k-NN distances become weights in (0, 1], symmetrised block by block into a CSR matrix on disk.

The weights are umap-learn's (McInnes, Healy, Melville 2018, UMAP, arXiv:1802.03426, algorithm 3).

    reference.py   the definition, in NumPy
    build.py       the graph on a CPU, a block of rows at a time; cpu.py is its arithmetic, in numba
    cuda.py        the graph on a GPU, in torch
    files.py       the files of a graph, and blocks of its rows
    components.py  connected components and degrees
    sizes.py       the bytes that the graph takes
"""
