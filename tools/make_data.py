"""Makes files of activations of any length for benchmarks, block by block.

    python tools/make_data.py clusters OUT.npy --rows N --features D --active k [--clusters C] [--dtype float16]
    python tools/make_data.py like DATA_DIR OUT.npy --rows N [--features D] [--pairs]

`clusters`: each cluster has k features with magnitudes. A row takes those of a random cluster, swaps a fifth of them
for features that the cluster does not have, and scales every magnitude at random. These rows are easier than real ones.

`like`: rows that behave like those of DATA_DIR (`minilm.npy`: embeddings, `sae.safetensors` and `sae.json`: a TopK
sparse autoencoder; docs/benchmarks.md says how to make them). A random embedding moves towards one of its 15 nearest by
at most SHARE of the way, and gets noise of at most NOISE times the length of that way, so that dense regions stay dense.
Both amounts are squares of uniform numbers, so that some rows come very close to others, as real ones do. The result is
scaled to a unit vector, as the embeddings are, and encoded:
x = (embedding - mean) / scale; TopK(ReLU((x - b_dec) @ W_enc.T + b_enc)).

The likeness was measured on 60,000 rows each of 63,666 package descriptions' codes (384 -> 3,072, k = 32) and of this
tool's, with exact cosine neighbours; quantiles at 10, 50 and 90%:

                              real                     like
    d1, to the nearest        0.055  0.215  0.447      0.039  0.205  0.479
    d15, to the 15th          0.292  0.491  0.654      0.261  0.487  0.679
    d1 / d15                  0.132  0.490  0.812      0.108  0.470  0.830
    shared                    0.538                    0.619    share of a row's 15 among its nearest row's 15
    mutual                    0.496                    0.438    share of a row's 15 that have it among their 15
    d1 under 0.001            0.05%                    0        near-duplicates
    neighbour of no row       1.6%                     5.3%     rows in no other row's 15
    recall                    0.627  0.843  0.895      0.629  0.869  0.918    1, 8 and 32 of 256 k-means cells searched

`--features D`, m times the autoencoder's width, gives wider rows: feature f of a row becomes one of its m copies, the
same one for all rows that began with embeddings of the same row number // GROUP_ROWS. This keeps neighbourhoods: at
D = 12,288 the medians are 0.210, 0.534 and 0.446, shared is 0.634, and 68% of the features are in use.
`--pairs` writes OUT_indices.npy (uint16; uint32 if D > 65,536) and OUT_values.npy (float16), (N, k) both, indices
ascending in a row.

Each block of BLOCK_ROWS rows has its own generator, for any --rows. So the same seed and options give the same bytes on
the same machine and device (another number of threads or another processor may change the last bits of products), a
longer file begins with a shorter one's rows, and memory does not depend on --rows. The CPU and the GPU draw different
rows. A file gets its name when it is complete. Exit code 2: a wrong option or no data; 4: a file cannot be written.
"""

import argparse
import contextlib
import io
import json
import os
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

BLOCK_ROWS = 4096
SWAPPED = 0.2  # share of a cluster's features that a row swaps
SPREAD = 0.3  # standard deviation of the logarithm of a magnitude
SHARE = 0.5  # largest part of the way to a neighbour
NOISE = 1.3  # largest noise, in lengths of that way
LEAST_NOISE = 0.05  # in standard deviations of the embeddings; without it equal embeddings would give equal rows
N_NEAREST = 15
GROUP_ROWS = 16_384
NEEDED = ("minilm.npy", "sae.safetensors", "sae.json")
WRITERS = min(8, os.cpu_count() or 1)
STORED = {"float16": torch.float16, "float32": torch.float32, "uint16": torch.int16, "uint32": torch.int32}
"""The torch dtype for each dtype of a file; unsigned integers keep their bits in signed ones."""


class WrongInput(Exception):
    """A wrong option or wrong data, as one sentence for the user."""


@dataclass(frozen=True)
class Output:
    path: Path
    dtype: str
    width: int

    @property
    def row_bytes(self) -> int:
        return self.width * np.dtype(self.dtype).itemsize


Blocks = Callable[[torch.Generator], tuple[Tensor, ...]]
"""Makes BLOCK_ROWS rows for each output, in its STORED dtype, from a generator."""


def generator(seed: int, name: str | int, device: str) -> torch.Generator:
    """The generator of one block, or of what all blocks share."""
    digest = blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def normal(gen: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=gen, device=gen.device)


def uniform(gen: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=gen, device=gen.device)


def choice(gen: torch.Generator, n: int, *shape: int) -> Tensor:
    return torch.randint(n, shape, generator=gen, device=gen.device)


def dense(indices: Tensor, values: Tensor, n_features: int, dtype: str) -> Tensor:
    rows = torch.zeros(len(indices), n_features, dtype=STORED[dtype], device=indices.device)
    return rows.scatter_(1, indices, values.to(rows.dtype))


# clusters


def prime_to(n: int) -> int:
    """The largest prime up to n."""
    return next(p for p in range(n, 1, -1) if all(p % q for q in range(2, int(p**0.5) + 1)))


def templates(gen: torch.Generator, n_clusters: int, n_features: int, n_active: int) -> tuple[Tensor, Tensor]:
    """The clusters: (features int64, ascending, magnitudes float32), both (C, k)."""
    features = [
        uniform(gen, min(BLOCK_ROWS, n_clusters - start), n_features).topk(n_active).indices.sort().values
        for start in range(0, n_clusters, BLOCK_ROWS)
    ]
    return torch.cat(features), magnitudes(gen, n_clusters, n_active)


def magnitudes(gen: torch.Generator, *shape: int) -> Tensor:
    """Positive float32 values with a long tail, like those of a TopK code."""
    return 0.03 + 0.07 * torch.empty(shape, device=gen.device).exponential_(generator=gen)


def cluster_rows(gen: torch.Generator, features: Tensor, sizes: Tensor, n_features: int) -> tuple[Tensor, Tensor]:
    """BLOCK_ROWS rows of `templates`: (indices int64, ascending, values float32 > 0), both (B, k).

    The swapped-in features are o, o + s, o + 2s, ... modulo a prime, so none repeats. Each row draws o and s, which count
    among the features that the cluster does not have.
    """
    n_clusters, n_active = features.shape
    cluster = choice(gen, n_clusters, BLOCK_ROWS)
    own, p = features[cluster], prime_to(n_features - n_active)
    start, step = choice(gen, p, BLOCK_ROWS, 1), 1 + choice(gen, p - 1, BLOCK_ROWS, 1)
    places = torch.arange(n_active, device=own.device)
    rank = (start + step * places) % p
    other = rank + torch.searchsorted(own - places, rank, right=True)
    swapped = uniform(gen, BLOCK_ROWS, n_active) < SWAPPED
    values = torch.where(swapped, magnitudes(gen, BLOCK_ROWS, n_active), sizes[cluster])
    values *= torch.exp(SPREAD * normal(gen, BLOCK_ROWS, n_active))
    indices, order = torch.where(swapped, other, own).sort()
    return indices, values.gather(1, order).clamp(1e-3, 6e4)


def clusters(args: argparse.Namespace) -> tuple[list[Output], Blocks]:
    if args.active < 1 or args.clusters < 1 or args.features < 4 * args.active:
        found = f"{args.features} features, {args.active} active, {args.clusters} clusters"
        raise WrongInput(
            f"--features: expected at least 4 for each active one, and 1 cluster, found {found}; change one."
        )
    shared = templates(generator(args.seed, "templates", args.device), args.clusters, args.features, args.active)

    def block(gen: torch.Generator) -> tuple[Tensor, ...]:
        return (dense(*cluster_rows(gen, *shared, args.features), args.features, args.dtype),)

    return [Output(args.out, args.dtype, args.features)], block


# like


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Reads float32 arrays by name. The format is the header's length (uint64), the header (JSON), the bytes."""
    numpy_dtype = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
    data = path.read_bytes()
    try:
        start = 8 + struct.unpack_from("<Q", data)[0]
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        out = {}
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            flat = np.frombuffer(data[start + first : start + last], numpy_dtype[entry["dtype"]])
            out[name] = flat.reshape(entry["shape"]).astype(np.float32)
        return out
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise WrongInput(
            f"{path}: expected tensors of floats in the safetensors format, found {error!r}; get it again."
        ) from error


@dataclass(frozen=True)
class Encoder:
    """The encoder of a TopK sparse autoencoder: weights (D, d) and vectors, float32."""

    weights: Tensor
    bias: Tensor
    centre: Tensor
    mean: Tensor
    scale: Tensor
    n_active: int

    def __call__(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes (B, d): (indices int64, ascending, values float32 >= 0), both (B, k)."""
        x = (embeddings - self.mean) / self.scale - self.centre
        values, indices = torch.relu(x @ self.weights.T + self.bias).topk(self.n_active)
        indices, order = indices.sort()
        return indices, values.gather(1, order)


def load(folder: Path, device: str) -> tuple[Tensor, Encoder]:
    """Loads (the stored embeddings as float32 (n, d), the encoder). Raises WrongInput if a file is missing or does not
    fit."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise WrongInput(
            f"{folder}: expected {', '.join(NEEDED)}, did not find {', '.join(missing)}; give the folder that has them."
        )
    try:
        k = json.loads((folder / "sae.json").read_text())["k"]
        embeddings = torch.from_numpy(np.load(folder / "minilm.npy", allow_pickle=False).astype(np.float32))
        sae = {
            name: torch.from_numpy(array).to(device)
            for name, array in read_safetensors(folder / "sae.safetensors").items()
        }
        encoder = Encoder(*(sae[name] for name in ("W_enc", "b_enc", "b_dec", "mean", "scale")), n_active=k)
        encoder(embeddings[:1].to(device))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WrongInput(
            f"{folder}: expected embeddings and a TopK autoencoder for them, found {error!r}; get them again."
        ) from error
    return embeddings.to(device), encoder


class Nearest:
    """Finds the N_NEAREST most similar of some unit rows, exactly, and keeps them for the next time."""

    def __init__(self, rows: Tensor):
        self.rows = rows
        self.found = torch.full((len(rows), N_NEAREST), -1, device=rows.device)

    def __call__(self, wanted: Tensor) -> Tensor:
        """Row numbers (B,) -> row numbers int64 (B, N_NEAREST), nearest first, the row itself left out."""
        new = wanted[self.found[wanted, 0] < 0].unique()
        for part in new.split(1024):
            similarity = self.rows[part] @ self.rows.T
            similarity.scatter_(1, part[:, None], -torch.inf)
            self.found[part] = similarity.topk(N_NEAREST).indices
        return self.found[wanted]


def like_rows(
    gen: torch.Generator, nearest: Nearest, spread: Tensor, encoder: Encoder
) -> tuple[Tensor, Tensor, Tensor]:
    """BLOCK_ROWS rows: (row number of the embedding each began with (B,), indices and values as from Encoder)."""
    base = choice(gen, len(nearest.rows), BLOCK_ROWS)
    other = nearest(base).gather(1, choice(gen, N_NEAREST, BLOCK_ROWS, 1))[:, 0]
    way = nearest.rows[other] - nearest.rows[base]
    noise = LEAST_NOISE * spread.norm() + NOISE * uniform(gen, BLOCK_ROWS, 1) ** 2 * way.norm(dim=1, keepdim=True)
    moved = nearest.rows[base] + SHARE * uniform(gen, BLOCK_ROWS, 1) ** 2 * way
    moved += noise * spread / spread.norm() * normal(gen, *moved.shape)
    return base, *encoder(torch.nn.functional.normalize(moved))


def copies(n_groups: int, n_features: int, n_copies: int) -> np.ndarray:
    """The feature of the wider code that stands for feature f in group g, by a hash of both, int64 (G, D)."""
    x = np.arange(n_groups, dtype=np.uint64)[:, None] << np.uint64(32) | np.arange(n_features, dtype=np.uint64)
    for shift, factor in (
        (30, 0xBF58476D1CE4E5B9),
        (27, 0x94D049BB133111EB),
    ):  # the mixer of SplitMix64 (Steele et al. 2014)
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    return np.arange(n_features) + n_features * (x % np.uint64(n_copies)).astype(np.int64)


def like(args: argparse.Namespace) -> tuple[list[Output], Blocks]:
    embeddings, encoder = load(args.data_dir, args.device)
    width = len(encoder.weights)
    n_features = args.features or width
    if n_features < width or n_features % width:
        raise WrongInput(f"--features: expected a multiple of {width}, found {n_features}; choose one.")
    if len(embeddings) <= N_NEAREST:
        raise WrongInput(
            f"{args.data_dir}: minilm.npy: expected more than {N_NEAREST} rows, found {len(embeddings)}; get more."
        )
    nearest, spread = Nearest(torch.nn.functional.normalize(embeddings)), embeddings.std(0)
    table = torch.from_numpy(copies(-(-len(embeddings) // GROUP_ROWS), width, n_features // width)).to(args.device)
    index_dtype = "uint16" if n_features <= 1 << 16 else "uint32"

    def block(gen: torch.Generator) -> tuple[Tensor, ...]:
        base, indices, values = like_rows(gen, nearest, spread, encoder)
        indices, order = table[base // GROUP_ROWS].gather(1, indices).sort()
        values = values.gather(1, order)
        if args.pairs:
            return indices.to(STORED[index_dtype]), values.half()
        return (dense(indices, values, n_features, "float16"),)

    if not args.pairs:
        return [Output(args.out, "float16", n_features)], block
    stem = str(args.out).removesuffix(".npy")
    pairs = ((f"{stem}_indices.npy", index_dtype), (f"{stem}_values.npy", "float16"))
    return [Output(Path(path), dtype, encoder.n_active) for path, dtype in pairs], block


# files


def begin(file: io.FileIO, output: Output, n_rows: int) -> int:
    """Writes the header, reserves the space, and returns the header's length."""
    head = io.BytesIO()
    shape = {
        "descr": np.dtype(output.dtype).newbyteorder("<").str,
        "fortran_order": False,
        "shape": (n_rows, output.width),
    }
    np.lib.format.write_array_header_1_0(head, shape)
    os.posix_fallocate(file.fileno(), 0, len(head.getvalue()) + n_rows * output.row_bytes)
    write_at(file, np.frombuffer(head.getvalue(), np.uint8), 0)
    return len(head.getvalue())


def write_at(file: io.FileIO, data: np.ndarray, offset: int) -> None:
    """Writes all of `data`, uint8 (n,), at `offset`."""
    done = 0
    while done < len(data):
        done += os.pwrite(file.fileno(), data.data[done:], offset + done)


def buffers(outputs: list[Output], on_gpu: bool) -> list[Tensor]:
    shapes = [((BLOCK_ROWS, output.width), STORED[output.dtype]) for output in outputs]
    return [torch.empty(shape, dtype=dtype, pin_memory=on_gpu) for shape, dtype in shapes]


def write(outputs: list[Output], n_rows: int, made: Iterator[tuple[Tensor, ...]], on_gpu: bool) -> None:
    """Writes the blocks to `path + ".partial"` with several threads, then renames the files."""
    partial = [output.path.with_name(output.path.name + ".partial") for output in outputs]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(path, "wb", buffering=0)) for path in partial]
        heads = [begin(file, output, n_rows) for file, output in zip(files, outputs, strict=True)]
        pool = stack.enter_context(ThreadPoolExecutor(WRITERS))
        ring = deque((buffers(outputs, on_gpu), []) for _ in range(WRITERS + 1))
        for start, block in zip(range(0, n_rows, BLOCK_ROWS), made, strict=False):
            room, waiting = ring.popleft()
            for job in waiting:
                job.result()
            jobs = []
            for file, head, output, rows, new in zip(files, heads, outputs, room, block, strict=True):
                rows.copy_(new)
                data = rows[: n_rows - start].numpy().reshape(-1).view(np.uint8)
                jobs.append(pool.submit(write_at, file, data, head + start * output.row_bytes))
            ring.append((room, jobs))
        for _, waiting in ring:
            for job in waiting:
                job.result()
    for path, output in zip(partial, outputs, strict=True):
        os.replace(path, output.path)


# command line


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = top.add_subparsers(required=True)
    kind = kinds.add_parser("clusters", help="clustered TopK codes")
    kind.set_defaults(plan=clusters)
    kind.add_argument("out", type=Path, metavar="OUT.npy")
    kind.add_argument("--features", type=int, required=True)
    kind.add_argument("--active", type=int, required=True, help="non-zero values a row")
    kind.add_argument("--clusters", type=int, default=1000, help="default %(default)s")
    kind.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="default %(default)s")
    add_common(kind)
    kind = kinds.add_parser("like", help="codes like those of real embeddings")
    kind.set_defaults(plan=like)
    kind.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    kind.add_argument("out", type=Path, metavar="OUT.npy")
    kind.add_argument("--features", type=int, help="a multiple of the autoencoder's width; default: that width")
    kind.add_argument("--pairs", action="store_true", help="write TopK pairs instead of dense rows")
    add_common(kind)
    return top


def add_common(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("--rows", type=int, required=True)
    kind.add_argument("--seed", type=int, default=42, help="default %(default)s")
    kind.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default %(default)s")


def run(args: argparse.Namespace) -> None:
    """Makes the files. Raises WrongInput, or OSError if a file cannot be written."""
    if args.rows < 1:
        raise WrongInput(f"--rows: expected at least 1, found {args.rows}; give a number of rows.")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise WrongInput("--device: expected a GPU that torch can use, found none; leave the option out.")
    outputs, block = args.plan(args)
    n_blocks = -(-args.rows // BLOCK_ROWS)
    made = (block(generator(args.seed, number, args.device)) for number in range(n_blocks))
    write(outputs, args.rows, made, args.device == "cuda")


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        run(args)
    except WrongInput as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"{error.filename or args.out}: expected to write it, found '{error.strerror}'; choose another place.",
            file=sys.stderr,
        )
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
