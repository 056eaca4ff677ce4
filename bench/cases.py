"""The data sets of the benchmarks, by name. Files are made once, in the scratch folder; docs/benchmarks.md says where the data come from.

debian                        the codes of real package descriptions, as a dense float16 .npy, with labels
like-0.1M .. like-3M          rows like those, dense float16, 3,072 features
like-0.1M-pairs .. like-10M-pairs      the same as TopK pairs
flux-pairs                    3,000,000 x 12,288 as TopK pairs, k = 32
flux-pca                      1,000,000 x 2,048, reduced to 128 principal components by every system, euclidean
clusters-3M                   3,000,000 x 3,072 in clusters: easy rows
curve-n, curve-d              seconds against rows (pairs, 0.1M to 10M) and against features (1M pairs, 3,072 to 24,576)
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from measures import dense_file, skip
from tree import ROOT

DEBIAN = Path(os.environ.get("STREAMUMAP_DATA", "")) / "debian"
"""The folder of the real rows, in the folder that STREAMUMAP_DATA names."""
K = 32
"""Non-zero values a row."""


@dataclass(frozen=True)
class Case:
    """One data set. `kind` is "real" or a command of tools/make_data.py; `reduce_dims` is the number of principal components."""

    name: str
    kind: str
    n_rows: int = 0
    n_features: int = 3072
    pairs: bool = False
    metric: str = "cosine"
    reduce_dims: int | None = None

    @property
    def float32_bytes(self) -> int:
        return self.n_rows * self.n_features * 4


SIZES = {"0.1M": 100_000, "0.3M": 300_000, "1M": 1_000_000, "3M": 3_000_000, "10M": 10_000_000}
WIDTHS = (3072, 6144, 12_288, 24_576)
ALL = (
    Case("debian", "real"),
    *(Case(f"like-{size}", "like", n) for size, n in SIZES.items() if n <= 3_000_000),
    *(Case(f"like-{size}-pairs", "like", n, pairs=True) for size, n in SIZES.items()),
    *(Case(f"like-1M-pairs-{width}", "like", 1_000_000, width, pairs=True) for width in WIDTHS[1:]),
    Case("flux-pairs", "like", 3_000_000, 12_288, pairs=True),
    Case("flux-pca", "clusters", 1_000_000, 2048, metric="euclidean", reduce_dims=128),
    Case("clusters-3M", "clusters", 3_000_000),
)
CASES = {case.name: case for case in ALL}
CURVES = {
    "curve-n": tuple(f"like-{size}-pairs" for size in SIZES),
    "curve-d": ("like-1M-pairs", *(f"like-1M-pairs-{width}" for width in WIDTHS[1:])),
}
"""Cases by curve. By default only streamumap runs on these, under one budget."""


def file_of(case: Case, data: Path, scratch: Path, device: str) -> Path:
    """The file of a case's rows, made if missing. Skips if it cannot be made."""
    if case.kind == "real":
        return dense_file(data, scratch)
    return made(case.kind, case.n_rows, case.n_features, K, case.pairs, data, scratch, device)


def made(
    kind: str, n_rows: int, n_features: int, active: int, pairs: bool, like: Path, scratch: Path, device: str
) -> Path:
    """The file of generated rows (for TopK pairs that of the indices), made by tools/make_data.py if missing."""
    out = scratch / f"{kind}-{n_rows}x{n_features}{f'x{active}' if kind == 'clusters' else ''}.npy"
    found = out.with_name(f"{out.stem}_indices.npy") if pairs else out
    if found.exists():
        return found
    sizes = ["--rows", str(n_rows), "--features", str(n_features), "--device", device.partition(":")[0]]
    if kind == "like":
        if not (like / "sae.json").is_file():
            skip(f"{like / 'sae.json'} is missing")
        arguments = ["like", str(like), str(out), *sizes, *(["--pairs"] if pairs else [])]
    else:
        arguments = ["clusters", str(out), *sizes, "--active", str(active)]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "make_data.py"), *arguments], stdout=sys.stderr)
    if done.returncode:
        sys.exit(f"make_data.py {' '.join(arguments)} ended with {done.returncode}")
    print(f"{found}: made in {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    return found


def width_of(folder: Path) -> int:
    """The features of the codes in a folder with sae.json. Skips if that is missing."""
    if not (folder / "sae.json").is_file():
        skip(f"{folder / 'sae.json'} is missing")
    return json.loads((folder / "sae.json").read_text())["d_sae"]
