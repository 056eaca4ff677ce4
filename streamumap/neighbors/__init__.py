"""The k-NN graph of all rows, and exact ranks of the neighbors of a few rows, by which recall and maps are measured.

`metric.py` has the distances, `protocol.py` what a backend is given and gives back, `reference.py` what is right, in plain NumPy.

`dense/`    rows with few zeros, on a CPU (numba and BLAS)
`sparse/`   rows that are mostly zeros, on a CPU (numba)
`cuda/`     both, on a GPU (torch and Triton)
`cuvs.py`   both, on a GPU, by NVIDIA's cuVS
`given.py`  a graph that the user brings

A backend has its sizes and its bytes in a file of its own, `sizes.py` or `*_sizes.py`, which planning imports without the backend.
`table.py` is what `dense` and `sparse` share in numba; `zero.py` and `copies.py` give rows of zeros and copies their neighbors;
`points.py` and `cuda/points.py` look up neighbors on a finished map.
"""
