"""Makes the tables of layouts, curves and true neighbours, as Markdown, from layout.jsonl and truth.jsonl."""

from collections.abc import Iterable

import numpy as np
from results import lines_of, table

NAMES = {
    "debian": "debian: 63,666 x 3,072 codes, cosine",
    "minilm.npy": "minilm: 63,666 x 384 embeddings, cosine",
    "fashion.npy": "Fashion-MNIST: 70,000 x 784, euclidean",
    "wink.npy": "word vectors: 341,479 x 100, cosine",
    "like-1M.npy": "like-1M: 1,000,000 x 3,072 codes, cosine",
    "like-3M.npy": "like-3M: 3,000,000 x 3,072 codes, cosine",
}
MEASURES = {
    "continuity": "continuity@14", "torn_share": "torn", "trustworthiness": "trustworthiness@15", "knn_preservation": "preservation@15",
    "label_share": "labels", "silhouette": "silhouette", "triplet_accuracy": "triplets",
}  # fmt: skip
INITS = ("auto", "pca", "spectral", "random")


def maps() -> str:
    """The layout alone on one graph: the mean of each measure over seeds, and the standard error of one map's measure."""
    lines = []
    for data in NAMES:
        found = [r for r in lines_of("layout") if r["parameters"].get("data") == data and "continuity_error" in r]
        for system in dict.fromkeys(r["system"] for r in found if _is_default(r)):
            lines.append(_map_line(NAMES[data], system, _last([r for r in found if r["system"] == system])))
    return table(["rows", "system", "epochs", "maps", *MEASURES.values()], lines)


def tears() -> str:
    """Steps along curves longer than 20 medians / than half the map's radius, as means over seeds."""
    lines = []
    for data in ("line", "ring", "trajectory"):
        for init in INITS:
            found = [r for r in lines_of("layout") if r["parameters"].get("data") == data and r.get("init") == init]
            row = [data, init]
            for system in ("streamumap", "umap-learn"):
                maps_of_it = _last([r for r in found if r["system"] == system])
                row.append(
                    " / ".join(f"{np.mean([r[name] for r in maps_of_it]):.1f}" for name in ("breaks", "half_radius"))
                )
            lines.append(row)
    return table(["rows", "start", "streamumap", "umap-learn"], lines)


def truth() -> str:
    """Recall against float64 neighbours and the error of the recall in run.json, over all dtypes and numbers of rows."""
    found = lines_of("truth")
    lines = []
    for device in dict.fromkeys(r["device"] for r in found):
        for name in dict.fromkeys(_cell(r) for r in found):
            cells = [r for r in found if _cell(r) == name and r["device"] == device]
            if cells:
                gap = max(abs(r["said"] - r["true"]) for r in cells)
                where = "GPU" if device.startswith("cuda") else "CPU"
                warned = sum(bool(r["warnings"]) for r in cells)
                lines.append(
                    [name, cells[0]["metric"], where, str(len(cells)), f"{min(r['true'] for r in cells):.4f}", f"{gap:.4f}", str(warned)]
                )  # fmt: skip
    return table(
        ["rows", "metric", "device", "runs", "lowest recall", "largest error of the reported recall", "with a warning"],
        lines,
    )


def _cell(record: dict) -> str:
    """The name of a cell; older lines call sparse rows packed."""
    return record["cell"].replace("packed", "sparse")


def _is_default(record: dict) -> bool:
    return record.get("init", "auto") == "auto" and not record["parameters"].get("constants")


def _last(records: Iterable[dict]) -> list[dict]:
    """The newest record of each seed."""
    newest: dict[int, dict] = {}
    for r in records:
        newest[r.get("seed", 0)] = r
    return list(newest.values())


def _map_line(name: str, system: str, records: list[dict]) -> list[str]:
    cells = []
    for measure in MEASURES:
        if measure not in records[0]:
            cells.append("")
            continue
        value, error = (np.mean([r[key] for r in records]) for key in (measure, f"{measure}_error"))
        cells.append(f"{value:.4f} ± {error:.4f}")
    return [name, system.removesuffix(", default"), str(records[0]["epochs"]), str(len(records)), *cells]
