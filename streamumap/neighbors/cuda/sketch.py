"""Sketches of all rows: at most 256 numbers of one byte each that nearly keep distances.

As on a CPU (`dense/sketch.py`) some numbers are the strongest components of a sample (subspace iteration: Halko, Martinsson, Tropp 2011), the
others a random projection of the rest (Johnson & Lindenstrauss 1984). Here all rows share one unit, and a random rotation makes all numbers
carry about as much, so that tensor cores compare whole numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from streamumap.events import Advance, no_advance
from streamumap.neighbors.cuda.sizes import SAMPLE_ROWS
from streamumap.neighbors.cuda.sizes import SKETCH as WIDTH

COMPONENTS = 64
"""Components among the numbers. The nearest 64 by sketches among 3,000,000 codes hold 0.988 of 15 neighbors with 64 components of 256 numbers,
0.984 with none, 0.984 with 128, 0.898 with components alone (2,000 rows)."""

OVERSAMPLING = 16
ITERATIONS = 4
CLIP = 3.5
"""Largest number that a byte holds, in standard deviations of the numbers of a typical row."""

FAR = 1e6
"""Largest value of a sampled row, relative to that of a typical row, beyond which it is clipped while components are chosen."""

TOGETHER = 16
"""Candidates that are measured together."""

NORM_SHIFT = 7
"""Bits by which squared norms and products of sketches are shifted: twice a product is below 2^24, so they still fit 32 bits."""

NEVER = 1 << 30
"""The squared norm given to rows that are nobody's neighbors."""


@dataclass(frozen=True)
class Projection:
    """A projection that makes sketches: rows less `centre` float32 (D,), times `along` float32 (D, width), rounded."""

    centre: Tensor
    along: Tensor

    def codes(self, rows, chunk_rows: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (first, sketches int8 (n, width)) of every chunk of `rows`, a DeviceRows."""
        for first, part in rows.projected(self.centre, self.along, chunk_rows):
            yield first, _as_codes(part)

    def all_codes(self, rows, chunk_rows: int, advance: Advance = no_advance) -> Tensor:
        """Make the sketches of all `rows`: int8 (N, width). Advances by N rows."""
        codes = torch.empty((rows.n_rows, self.along.shape[1]), dtype=torch.int8, device=rows.device)
        for first, part in self.codes(rows, chunk_rows):
            codes[first : first + len(part)] = part
            advance(len(part))
        return codes

    def of(self, rows: Tensor, unit: bool) -> Tensor:
        """Make the sketches of `rows` (n, D), at length 1 with `unit`: int8 (n, width)."""
        rows = rows.float()
        if unit:
            rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return _as_codes((rows - self.centre) @ self.along)


def make_sketches(rows, seed: int, chunk_rows: int, advance: Advance) -> Tensor:
    """Make sketches of `rows`, a DeviceRows: int8 (N, width). Advances by N rows."""
    return learn_projection(rows, seed, chunk_rows).all_codes(rows, chunk_rows, advance)


def learn_projection(rows, seed: int, chunk_rows: int) -> Projection:
    """Learn the projection from a sample of `rows`, which has `take`, `n_rows`, `metric` and `device` of a DeviceRows."""
    random = np.random.Generator(np.random.Philox(key=[seed, 2**32]))
    size = min(rows.n_rows, SAMPLE_ROWS, max(chunk_rows, 256))
    sample = rows.take(np.sort(random.choice(rows.n_rows, size, replace=False)).astype(np.int64)).float()
    if rows.metric.unit:
        norms = sample.norm(dim=1, keepdim=True)
        sample = (sample / norms)[norms[:, 0] > 0]
    centre = sample.mean(0) if rows.metric.unit else sample.median(0).values
    sample -= centre
    unit = _typical(torch.maximum(sample.amax(1), -sample.amin(1)))
    sample = sample.div_(unit).clamp_(-FAR, FAR)
    along = _projection(sample, random, rows.device)
    spread = _typical((sample @ along).norm(dim=1)) / along.shape[1] ** 0.5
    along *= 127 / (CLIP * spread) / unit
    return Projection(centre, along.contiguous())


def _as_codes(numbers: Tensor) -> Tensor:
    return numbers.round_().clamp_(-127, 127).nan_to_num_().to(torch.int8)


class Sketches:
    """Distances between rows by their sketches: a `device_rows.Measures`."""

    def __init__(self, codes: Tensor):
        self.codes = codes

    def measure(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Measure squared distances of sketches, whole numbers."""
        out = torch.empty(candidates.shape, dtype=torch.float32, device=self.codes.device)
        _measure[(len(queries),)](
            self.codes, queries, candidates, out, candidates.shape[1], WIDTH=self.codes.shape[1], TOGETHER=TOGETHER
        )
        return out


def squared_norms(codes: Tensor) -> Tensor:
    """Sum the squares of each code: int32 (n,), shifted by NORM_SHIFT."""
    out = torch.empty(len(codes), dtype=torch.int32, device=codes.device)
    for at in range(0, len(codes), 1 << 18):
        out[at : at + (1 << 18)] = (codes[at : at + (1 << 18)].int() ** 2).sum(1, dtype=torch.int32) << NORM_SHIFT
    return out


def _typical(sizes):
    """Compute the median of sizes that are not 0: thousands of equal rows may lie at the centre."""
    sizes = sizes[sizes > 0]
    return sizes.median() if len(sizes) else sizes.new_ones(())


def _projection(sample, random, device):
    """Make the projection float32 (D, width), which keeps lengths on average."""
    n_features = sample.shape[1]

    def gauss(*shape):
        return torch.from_numpy(random.standard_normal(shape, dtype=np.float32)).to(device)

    width = max(32, min(WIDTH, 1 << (n_features - 1).bit_length()))
    turn = torch.linalg.qr(gauss(width, width))[0]
    if n_features <= width:
        return turn[:n_features]
    components = min(COMPONENTS, width // 4)
    basis = torch.linalg.qr(gauss(n_features, components + OVERSAMPLING))[0]
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(sample.T @ (sample @ basis))[0]
    along = sample @ basis
    strongest = torch.linalg.eigh(along.T @ along)[1].flip(1)[:, :components]
    basis = basis @ strongest
    rest = gauss(n_features, width - components)
    rest = torch.linalg.qr(rest - basis @ (basis.T @ rest))[0]
    left = (sample**2).sum() - ((sample @ basis) ** 2).sum()
    kept = ((sample @ rest) ** 2).sum()
    stretch = torch.sqrt(left.clamp_min(0) / kept.clamp_min(torch.finfo(torch.float32).tiny))
    return torch.cat([basis, rest * stretch], 1) @ turn


@triton.jit
def _measure(codes, queries, candidates, out, n_candidates, WIDTH: tl.constexpr, TOGETHER: tl.constexpr):
    q = tl.program_id(0).to(tl.int64)
    i = tl.load(queries + q).to(tl.int64)
    number = tl.arange(0, WIDTH)
    ours = tl.load(codes + i * WIDTH + number).to(tl.int32)
    for first in range(0, n_candidates, TOGETHER):
        column = first + tl.arange(0, TOGETHER)
        j = tl.load(candidates + q * n_candidates + column, mask=column < n_candidates, other=-1).to(tl.int64)
        theirs = tl.load(codes + j[:, None] * WIDTH + number[None, :], mask=(j >= 0)[:, None], other=0).to(tl.int32)
        apart = ours[None, :] - theirs
        d = tl.sum(apart * apart, 1).to(tl.float32)
        d = tl.where((j >= 0) & (j != i), d, float("inf"))
        tl.store(out + q * n_candidates + column, d, mask=column < n_candidates)
