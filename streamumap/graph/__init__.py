"""The fuzzy simplicial set: k-NN distances -> weights in (0, 1], symmetrised block by block into a CSR matrix.

`reference.py` is the definition in plain NumPy, `cpu.py` the fast version in numba, `build.py` the stage that streams
blocks through it.
Weights are umap-learn's (McInnes, Healy, Melville 2018, UMAP, arXiv:1802.03426, algorithm 3).
"""
