"""Opens rows once and measures every map of them in the same way, for all benchmarks.

All measures use samples drawn from a fixed seed. Neighbours are decided exactly, among all rows, in blocks of the plan's size.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from searches import open_setting

from streamumap import quality
from streamumap.machine import gpu
from streamumap.neighbors.metric import named
from streamumap.params import Params
from streamumap.planning.job import Plan
from streamumap.run import dispatch
from streamumap.source.views.normalized import DenseRows
from streamumap.writer.activation_writer import ActivationWriter

NEIGHBORS = 15
SAMPLE_ROWS = 3_000
TRIPLETS = 100_000
SEED = 7
BLOCK_BYTES = 64 * 2**20
"""Bytes of one block of distances or rows."""


@dataclass(frozen=True)
class Data:
    """The rows and the samples used to measure every map of them."""

    rows: dispatch.Rows
    plan: Plan
    params: Params
    labels: np.ndarray | None  # int64 (N,)
    sample: np.ndarray  # int64 (S,), ascending
    triplets: np.ndarray  # int64 (T, 3): a row and two others at different distances
    first_is_nearer: np.ndarray  # bool (T,)


def skip(reason: str) -> NoReturn:
    """Ends the program with exit code 0 and the reason why it measured nothing."""
    print(f"skipped: {reason}")
    sys.exit(0)


def dense_file(data: Path, folder: Path) -> Path:
    """Returns `data` if it is a file. For a folder of TopK pairs, writes them as a dense float16 .npy into `folder` and
    returns its path. Skips if a file is missing."""
    if data.is_file():
        return data
    needed = [data / name for name in ("topk_indices.npy", "topk_values.npy")]
    for path in needed:
        if not path.is_file():
            skip(f"{path} is missing")
    indices, values = (np.load(path, allow_pickle=False) for path in needed)
    sidecar = data / "sae.json"
    n_features = json.loads(sidecar.read_text())["d_sae"] if sidecar.is_file() else int(indices.max()) + 1
    made = folder / f"{data.name}.npy"
    if made.is_file():
        return made
    with ActivationWriter(made, n_features=n_features) as writer:
        for start in range(0, len(indices), 4096):
            part = slice(start, start + 4096)
            block = np.zeros((len(indices[part]), n_features), np.float16)
            at, column = np.nonzero(values[part])  # an explicit zero may stand anywhere
            block[at, indices[part][at, column]] = values[part][at, column]
            writer.append(block)
    return made


def read_labels(given: Path | None, data: Path) -> np.ndarray | None:
    """Labels as numbers, int64 (N,), from the lines of `given` or of labels.txt in the folder `data`; None without either."""
    path = given or data / "labels.txt"
    if given is None and not path.is_file():
        return None
    return np.unique(path.read_text(encoding="utf-8").splitlines(), return_inverse=True)[1]


def open_data(
    x: Any,
    params: Params,
    labels: np.ndarray | None = None,
    device: str = "cpu",
    n_features: int | None = None,
    kept: Path | None = None,
) -> Data:
    """Reads and checks the rows of `x` (a path or an array) as a run does, and draws the samples. `n_features`: the width of
    pairs. `kept`: a file with the triplets, written if it does not exist."""
    setting = open_setting(x, n_features, params.metric, params.n_neighbors, device, None)
    source = setting.rows.original
    if labels is not None and len(labels) != source.n_rows:
        sys.exit(f"labels: expected {source.n_rows} lines, one a row, found {len(labels)}")
    plan, _ = setting.plan(recall=params.recall)
    if kept and kept.exists():
        with np.load(kept, allow_pickle=False) as file:
            triplets, first_is_nearer = file["triplets"], file["first_is_nearer"]
    else:
        triplets, first_is_nearer = _triplets(DenseRows(source, unit=named(params.metric).unit))
    if kept and not kept.exists():
        np.savez(kept, triplets=triplets, first_is_nearer=first_is_nearer)
    sample = quality.sample_rows(source.n_rows, SAMPLE_ROWS, SEED)
    return Data(setting.rows, plan, params, labels, sample, triplets, first_is_nearer)


def measure(embedding: np.ndarray, data: Data, graph: np.ndarray | None = None) -> dict[str, float]:
    """Every measure of one map, float32 (N, C), by name: means over sampled rows, each with its standard error (NAME_error).

    Recall, continuity and torn share need a k-NN graph, int (N, k): a row's true neighbours are those of the graph that its
    exact ranks confirm. Label measures need labels."""
    n, parts = len(embedding), []
    on_map = dispatch.points(data.plan, embedding)
    near = on_map.nearest(data.sample, NEIGHBORS)
    others = np.zeros((len(near), 0), np.int64) if graph is None else others_of(graph, data.sample, graph.shape[1])
    inspected = np.concatenate([near, others], axis=1)
    size = data.plan["quality"].blocks["sample_rows"]
    for start in range(0, len(near), size):
        part = slice(start, start + size)
        parts.append(dispatch.count_closer(data.rows, data.plan, data.sample[part], inspected[part]))
    ranks = np.concatenate(parts)
    gpu.release()
    shares = {
        "trustworthiness": quality.trusts(ranks[:, :NEIGHBORS], n),
        "knn_preservation": quality.preservations(ranks[:, :NEIGHBORS]),
    }
    if graph is not None:
        shares |= _kept_on_map(on_map, embedding, data, others, ranks[:, NEIGHBORS:])
    if data.labels is not None:
        majority, share = _label_agreement(data.labels[near], data.labels[data.sample])
        shares |= {"label_majority": majority, "label_share": share, "silhouette": _silhouettes(embedding, data)}
    shares["triplet_accuracy"] = _right_triplets(embedding, data)
    out = {}
    for name, values in shares.items():
        values = values[np.isfinite(values)].astype(np.float64)
        out[name], out[f"{name}_error"] = float(values.mean()), float(values.std() / len(values) ** 0.5)
    return out | {"far_share": quality.far_share(embedding)}


def _kept_on_map(
    on_map: Any, embedding: np.ndarray, data: Data, others: np.ndarray, ranks: np.ndarray
) -> dict[str, np.ndarray]:
    """Recall of the graph, continuity and torn share of each sampled row, float (S,).

    `others` int64 (S, m) are its neighbours in the graph, `ranks` their exact ranks in the data."""
    is_true = (others >= 0) & (ranks < others.shape[1])
    gaps = quality.distances(embedding, data.sample, others)
    return {
        "knn_recall": quality.recalls(ranks, others),
        "continuity": quality.continuities(on_map.ranks(data.sample, others), is_true, len(embedding)),
        "torn_share": quality.torn_shares(gaps, is_true, quality.radius(embedding)),
    }


def curve_breaks(embedding: np.ndarray) -> dict[str, float]:
    """Counts the steps along a curve that are longer than 20 medians, and than half the radius. Rows are in order."""
    steps = np.sqrt(_squares(np.diff(embedding.astype(np.float64), axis=0)))
    half = 0.5 * quality.radius(embedding)
    return {"breaks": float((steps > 20 * np.median(steps)).sum()), "half_radius": float((steps > half).sum())}


def others_of(found: np.ndarray, sample: np.ndarray, k: int) -> np.ndarray:
    """The sampled rows' neighbours without the rows themselves, each once, in order, int64 (S, k - 1); -1 means none."""
    out = np.full((len(sample), k - 1), -1, np.int64)
    for place, row in enumerate(sample):
        others = [j for j in dict.fromkeys(found[row].tolist()) if j != row and 0 <= j < len(found)][: k - 1]
        out[place, : len(others)] = others
    return out


def sizes(data: Data) -> dict[str, int]:
    """The sizes of the samples of `measure`; triplets with equal distances are left out."""
    return {"neighbors": NEIGHBORS, "sample_rows": len(data.sample), "triplets": len(data.triplets), "seed": SEED}


def _label_agreement(near: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the majority label of each row's neighbours is its own, and the share of neighbours with its own label.

    `near` (S, k) are labels of neighbours, `own` (S,) of rows. Of equal majorities the nearer one counts."""
    votes = (near[:, :, None] == near[:, None, :]).sum(2)
    winner = np.take_along_axis(near, votes.argmax(1)[:, None], 1)[:, 0]
    return winner == own, (near == own[:, None]).mean(1)


def _silhouettes(embedding: np.ndarray, data: Data) -> np.ndarray:
    """Silhouette (Rousseeuw 1987) of each sampled row on the map, against all rows: float64 (S,)."""
    labels = data.labels
    assert labels is not None
    order = np.argsort(labels, kind="stable")
    found, first, count = np.unique(labels[order], return_index=True, return_counts=True)
    points, out = embedding[order].astype(np.float64), np.empty(len(data.sample))
    step = max(1, BLOCK_BYTES // (16 * len(points)))
    for start in range(0, len(out), step):
        rows = data.sample[start : start + step]
        squares = sum((embedding[rows, c, None] - points[:, c]) ** 2 for c in range(points.shape[1]))
        sums = np.add.reduceat(np.sqrt(squares), first, axis=1)
        own = np.searchsorted(found, labels[rows])
        every = np.arange(len(rows))
        inside = sums[every, own] / np.maximum(count[own] - 1, 1)
        means = sums / count
        means[every, own] = np.inf
        outside = means.min(1)
        out[start : start + step] = np.where(count[own] > 1, (outside - inside) / np.maximum(inside, outside), 0.0)
    return out


def _triplets(rows: DenseRows) -> tuple[np.ndarray, np.ndarray]:
    """Draws random triplets of different rows, (T, 3), drops those with equal distances, and tells whether the first of the
    other two is nearer, (T,)."""
    n, random = rows.n_rows, np.random.Generator(np.random.Philox(key=[SEED, 0x7A]))
    row, first, second = (
        random.integers(n, size=TRIPLETS),
        random.integers(n - 1, size=TRIPLETS),
        random.integers(n - 2, size=TRIPLETS),
    )
    second += second >= first
    triplets = np.stack([row, (row + 1 + first) % n, (row + 1 + second) % n], axis=1)
    block = max(1, BLOCK_BYTES // (6 * 4 * rows.n_features))
    excess = np.concatenate([_excess(rows, triplets[start : start + block]) for start in range(0, TRIPLETS, block)])
    return triplets[excess != 0], excess[excess != 0] < 0


def _excess(rows: DenseRows, triplets: np.ndarray) -> np.ndarray:
    """Distance to the first of the other rows minus that to the second, up to a scale; for cosine from products of rows of
    length 1."""
    needed = np.unique(triplets)
    taken = rows.take(needed)
    row, first, second = (taken[np.searchsorted(needed, triplets[:, i])] for i in range(3))
    if rows.unit:
        return np.einsum("ij,ij->i", row, second, dtype=np.float64) - np.einsum(
            "ij,ij->i", row, first, dtype=np.float64
        )
    return _squares(row - first) - _squares(row - second)


def _right_triplets(embedding: np.ndarray, data: Data) -> np.ndarray:
    """Whether the map keeps the order of a triplet's distances, bool (T,)."""
    row, first, second = (embedding[data.triplets[:, i]].astype(np.float64) for i in range(3))
    return (_squares(row - first) < _squares(row - second)) == data.first_is_nearer


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
