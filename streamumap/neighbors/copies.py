"""Neighbors for rows that occur dozens of times: all neighbors of such a row are copies of it, and any of the copies will do.

A search finds the copies with the lowest numbers, or any, where it is approximate: cliques of copies with hardly an edge between
them, which the layout pushes apart. As in `zero.py`, they get a graph that is drawn as a blob instead.
"""

import numpy as np

from streamumap.neighbors.zero import join_zero_rows


def join_copies(indices: np.ndarray, distances: np.ndarray, duplicate_of: np.ndarray) -> None:
    """Give each row with at least k - 1 copies some of them as its neighbors, in place.

    `indices` int32 (N, k), `distances` float32 (N, k); `duplicate_of` int64 (N,): the first row equal to this one, -1 where no earlier row
    is. Rows that the search did not see as equal (their distances are not 0) keep their neighbors.
    """
    later = np.flatnonzero(duplicate_of >= 0)
    first = duplicate_of[later]
    n_later = np.bincount(first, minlength=1)
    many = n_later[first] + 1 >= indices.shape[1]
    later, first = later[many], first[many]
    later = later[np.argsort(first, kind="stable")]
    groups = np.unique(first)
    for one, others in (
        zip(groups, np.split(later, np.cumsum(n_later[groups])[:-1]), strict=True) if len(groups) else ()
    ):
        copies = np.concatenate([[one], others]).astype(np.int32)
        if (distances[copies, -1] == 0).mean() > 0.5:
            join_zero_rows(indices, distances, copies)
