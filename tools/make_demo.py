"""Makes the data files of streamumap.demo, with the same bytes every time.

    python tools/make_demo.py DATA_DIR

DATA_DIR is the folder `debian` of docs/benchmarks.md. It holds topk_indices.npy (N, k) uint16, topk_values.npy (N, k) float16,
labels.txt and names.txt (one line a row; a name ends at ": "), and sae.json (`d_sae` is the number of features).
"""

import json
import sys
from collections import defaultdict
from hashlib import blake2b
from pathlib import Path

import numpy as np

N_ROWS = 9_600  # keeps the files under 1.5 MB; they are not compressed, since zlib versions differ in their bytes
SEED = 42
NEEDED = ("topk_indices.npy", "topk_values.npy", "labels.txt", "names.txt", "sae.json")


def shares(sizes: dict[str, int], n_rows: int) -> dict[str, int]:
    """The number of rows of each stratum: its share of n_rows by largest remainders, and at least one."""
    total = sum(sizes.values())
    exact = {name: n_rows * size / total for name, size in sizes.items()}
    rows = {name: max(1, int(share)) for name, share in exact.items()}
    by_remainder = sorted(sizes, key=lambda name: (rows[name] - exact[name], name))
    for name in by_remainder[: max(0, n_rows - sum(rows.values()))]:
        rows[name] += 1
    return rows


def sample(labels: list[str], n_rows: int, seed: int) -> np.ndarray:
    """Row numbers of a sample stratified by label, ascending. A hash chooses, since a generator's stream may change."""
    strata = defaultdict(list)
    for row, label in enumerate(labels):
        strata[label].append(row)
    quota = shares({label: len(rows) for label, rows in strata.items()}, n_rows)
    chosen: list[int] = []
    for label, rows in strata.items():
        chosen += sorted(rows, key=lambda row: blake2b(f"{seed} {row}".encode()).digest())[: quota[label]]
    return np.array(sorted(chosen))


def make(data_dir: Path, out_dir: Path, n_rows: int = N_ROWS) -> None:
    """Writes codes.npz, labels.txt and names.txt into out_dir."""
    labels = (data_dir / "labels.txt").read_text(encoding="utf-8").splitlines()
    names = [line.split(": ", 1)[0] for line in (data_dir / "names.txt").read_text(encoding="utf-8").splitlines()]
    indices, values = (np.load(data_dir / f"topk_{part}.npy", allow_pickle=False) for part in ("indices", "values"))
    assert len(labels) == len(names) == len(indices) == len(values), "the files have different numbers of rows"
    rows = sample(labels, n_rows, SEED)
    n_features = np.int64(json.loads((data_dir / "sae.json").read_text())["d_sae"])
    np.savez(out_dir / "codes.npz", indices=indices[rows], values=values[rows], n_features=n_features)
    for file, lines in (("labels.txt", labels), ("names.txt", names)):
        (out_dir / file).write_text("".join(lines[row] + "\n" for row in rows), encoding="utf-8", newline="\n")


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    data_dir = Path(sys.argv[1])
    missing = [name for name in NEEDED if not (data_dir / name).is_file()]
    if missing:
        found = f"did not find {', '.join(missing)}"
        print(f"{data_dir}: expected {', '.join(NEEDED)}, {found}; nothing was changed.", file=sys.stderr)
        return 2
    make(data_dir, Path(__file__).resolve().parent.parent / "streamumap" / "demo")
    return 0


if __name__ == "__main__":
    sys.exit(main())
