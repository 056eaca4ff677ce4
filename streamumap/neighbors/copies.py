"""Rows that are there by the dozen: all of a copy's neighbours are copies, and any of them will do.

A search gives those with the lowest numbers, or, where it is approximate, those that it came by: cliques of copies with
hardly an edge between them, which the layout throws apart. As in `zero.py`, they get a graph that is drawn as a blob.
"""

import numpy as np

from streamumap.neighbors.zero import join_zero_rows


def join_copies(indices: np.ndarray, distances: np.ndarray, duplicate_of: np.ndarray) -> None:
    """Gives each row with k - 1 copies or more some of these as neighbours, in place: `indices` int32 (N, k), `distances`
    float32 (N, k). `duplicate_of` int64 (N,): the first row like this one, -1 where there is none before it.

    Rows that are not alike as they were searched, as the distances say, keep what was found.
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
