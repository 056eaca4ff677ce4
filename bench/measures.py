"""What all benchmarks share: rows opened once, the same measures for every map of them, and the record that a result is
written as.

All measures are on samples drawn from a fixed seed; what is a neighbour is decided exactly, among all rows, in blocks
that the plan chose.
"""

import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from searches import open_setting
from tree import ROOT

from streamumap import quality
from streamumap.machine import gpu, memory
from streamumap.neighbors.metric import named
from streamumap.params import Params
from streamumap.planning.job import Plan
from streamumap.run import dispatch
from streamumap.source.views.normalized import DenseRows
from streamumap.writer.activation_writer import ActivationWriter

RESULTS = ROOT / "bench" / "results"
PACKAGES = (
    "streamumap",
    "numpy",
    "scipy",
    "numba",
    "torch",
    "triton",
    "umap-learn",
    "pynndescent",
    "cuml-cu13",
    "cuvs-cu13",
    "fastumap",
    "torchdr",
)

NEIGHBORS = 15
SAMPLE_ROWS = 3_000
TRIPLETS = 100_000
SEED = 7
BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Data:
    """Rows, and the samples on which every map of them is measured."""

    rows: dispatch.Rows
    plan: Plan
    params: Params
    labels: np.ndarray | None  # int64 (N,)
    sample: np.ndarray  # int64 (S,), ascending
    triplets: np.ndarray  # int64 (T, 3): a row and two others, one of which is nearer to it
    first_is_nearer: np.ndarray  # bool (T,)


def skip(reason: str) -> NoReturn:
    print(f"skipped: {reason}")
    sys.exit(0)


def dense_file(data: Path, folder: Path) -> Path:
    """`data` itself where it is a file; for a folder of TopK pairs a dense float16 .npy made of them in `folder`. Skips
    where they miss."""
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
    """int64 (N,): the lines of `given`, or of labels.txt where `data` is a folder that has it, numbered; None where
    there are none."""
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
    """Reads, checks and packs the rows of `x` (a path or an array) as a run does, and draws the samples. `n_features`: of
    pairs. `kept`: a file of triplets, written where it is not there."""
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
    """Every measure of one map, float32 (N, C), by name, each mean over sampled rows followed by its standard error
    (NAME_error). Recall, continuity and torn share only with a k-NN graph, int (N, k): a row's true neighbours are those of
    the graph that its exact ranks confirm. Label measures only with labels."""
    n, parts = len(embedding), []
    on_map = dispatch.points(data.plan, embedding)
    near = on_map.nearest(data.sample, NEIGHBORS)
    others = np.zeros((len(near), 0), np.int64) if graph is None else others_of(graph, data.sample, graph.shape[1])
    looked_at = np.concatenate([near, others], axis=1)
    size = data.plan["quality"].blocks["sample_rows"]
    for start in range(0, len(near), size):
        part = slice(start, start + size)
        parts.append(dispatch.count_closer(data.rows, data.plan, data.sample[part], looked_at[part]))
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
    """Row by row: recall of the graph, and what the map does with the true neighbours among `others` int64 (S, m), whose exact
    ranks in the rows are `ranks`."""
    is_true = (others >= 0) & (ranks < others.shape[1])
    gaps = quality.distances(embedding, data.sample, others)
    return {
        "knn_recall": quality.recalls(ranks, others),
        "continuity": quality.continuities(on_map.ranks(data.sample, others), is_true, len(embedding)),
        "torn_share": quality.torn_shares(gaps, is_true, quality.radius(embedding)),
    }


def curve_breaks(embedding: np.ndarray) -> dict[str, float]:
    """For rows in order along a curve: steps between successive points longer than 20 medians, and than half the radius."""
    steps = np.sqrt(_squares(np.diff(embedding.astype(np.float64), axis=0)))
    half = 0.5 * quality.radius(embedding)
    return {"breaks": float((steps > 20 * np.median(steps)).sum()), "half_radius": float((steps > half).sum())}


def others_of(found: np.ndarray, sample: np.ndarray, k: int) -> np.ndarray:
    """int64 (S, k - 1): the sampled rows' neighbours without the rows themselves, each once, in order; -1: none."""
    out = np.full((len(sample), k - 1), -1, np.int64)
    for place, row in enumerate(sample):
        others = [j for j in dict.fromkeys(found[row].tolist()) if j != row and 0 <= j < len(found)][: k - 1]
        out[place, : len(others)] = others
    return out


def sizes(data: Data) -> dict[str, int]:
    """How large the samples of `measure` are; triplets with equal distances are left out."""
    return {"neighbors": NEIGHBORS, "sample_rows": len(data.sample), "triplets": len(data.triplets), "seed": SEED}


def facts() -> dict[str, Any]:
    """Where, when and with what a result was measured. Exits where the package is another than this tree's."""
    changed = _git("status", "--porcelain", "--", "streamumap", "bench", ":!bench/results")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD") + ("+" if changed else ""),
        "machine": {"cpu": _cpu(), "cores": memory.n_cores(), "gpu": [device.name for device in memory.devices()]},
        "versions": {"python": platform.python_version()}
        | {name: version for name in PACKAGES if (version := _version(name))},
    }


def append(name: str, record: dict[str, Any], folder: Path = RESULTS) -> None:
    """One more line of NAME.jsonl in bench/results, or another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def print_table(header: list[str], lines: list[list[str]]) -> None:
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    for line in [header, *lines]:
        print(
            "  ".join(
                [
                    line[0].ljust(widths[0]),
                    *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)),
                ]
            )
        )


def _label_agreement(near: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels of neighbours (S, k) and rows (S,) -> whether the majority is right (of equal counts the nearer one), and the
    share that is right, row by row."""
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
    """Random triplets of different rows, (T, 3), without those whose two distances are equal; and whether the first
    other is the nearer."""
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
    """Distance to the first other less that to the second, up to a scale. Rows of length 1 (cosine): from their
    products."""
    needed = np.unique(triplets)
    taken = rows.take(needed)
    row, first, second = (taken[np.searchsorted(needed, triplets[:, i])] for i in range(3))
    if rows.unit:
        return np.einsum("ij,ij->i", row, second, dtype=np.float64) - np.einsum(
            "ij,ij->i", row, first, dtype=np.float64
        )
    return _squares(row - first) - _squares(row - second)


def _right_triplets(embedding: np.ndarray, data: Data) -> np.ndarray:
    """Whether the map has the nearer of two others nearer, bool (T,)."""
    row, first, second = (embedding[data.triplets[:, i]].astype(np.float64) for i in range(3))
    return (_squares(row - first) < _squares(row - second)) == data.first_is_nearer


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", rows, rows, dtype=np.float64)


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
