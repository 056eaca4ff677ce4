"""The nearest rows of one chunk for each of some queries: exact, whatever the rows.

A matrix product proposes candidates and differences of two rows decide. The error of a product is bounded relative to the two squared
norms, which tells for which queries it may have missed a neighbor. There are three tries, each for the queries that the one before left
in doubt: products of the rows as stored, float32 products of rows minus their mean, all differences.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from streamumap.neighbors.cuda.distances import all_pairs, centred, measure, row_squares
from streamumap.neighbors.cuda.sizes import AGAIN_VALUES, GROUP, MARGIN, TILE_ROWS

EPS = torch.finfo(torch.float32).eps
TF32_SLACK = 2.0**-9
"""Upper bound on the error of |a|^2 + |b|^2 - 2ab with TF32 products, relative to |a|^2 + |b|^2: each factor is off by up to 2^-10."""

Scored = tuple[Tensor, Tensor | None, Tensor | float]
"""Scores float32 (n, m), `floor` float32 (n,) and `factor`: a squared distance is at least floor - 2 * factor * score. No floor: the scores
are exact."""


@dataclass(frozen=True)
class Chunk:
    """Rows on the device: `rows` (n, D) as kept, their `scale` float32 (n,) as of `DeviceRows`, `squares` float32 (n,): their squared norms,
    scaled, and `numbers` int64 (n,)."""

    rows: Tensor
    scale: Tensor
    squares: Tensor
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at) -> "Chunk":
        return Chunk(self.rows[at], self.scale[at], self.squares[at], self.numbers[at])


@dataclass(frozen=True)
class Rule:
    """Which rows may be neighbors. `unit`: rows are compared at length 1; then `non_negative`: rows that share no feature are no neighbors,
    and `zero_apart`: nor are a zero row and another, which are otherwise at a right angle."""

    unit: bool
    non_negative: bool
    zero_apart: bool


def as_chunk(first: int, rows: Tensor, scale: Tensor, unit: bool) -> Chunk:
    """Make a chunk of rows on the device from number `first` on."""
    squares = (scale > 0).float() if unit else row_squares(rows)
    return Chunk(rows, scale, squares, torch.arange(first, first + len(rows), device=rows.device))


def slack(n_features: int) -> float:
    """Bound the error of |a|^2 + |b|^2 - 2ab in float32, relative to |a|^2 + |b|^2. Roundings of a long sum go either way: 4 sqrt(D) of them is
    thirty times the error of independent ones (Higham & Mary 2019)."""
    return EPS * max(64.0, 4 * n_features**0.5)


def merge_chunk(queries: Chunk, others: Chunk, first: int, found: Tensor, squares: Tensor, rule: Rule) -> None:
    """Merge the nearest of `others`, whose numbers begin at `first`, into the lists of the queries, `found` int32 and `squares` float32 (n, w),
    in place. A query is not among its neighbors."""
    doubtful = torch.zeros(len(queries), dtype=torch.bool, device=found.device)
    for at in range(0, len(queries), TILE_ROWS):
        tile = slice(at, at + TILE_ROWS)
        doubtful[tile] = _merge(queries[tile], others, first, found[tile], squares[tile], rule, _by_products)
    left = doubtful.nonzero().squeeze(1)
    step = max(GROUP, AGAIN_VALUES // queries.rows.shape[1] // GROUP * GROUP)
    for rows in left.split(TILE_ROWS):
        by_float32 = partial(_by_float32, centre=_centre(queries[rows]))
        for at in range(0, len(others), step):
            again = queries, others[at : at + step], first + at, found, squares, rule
            still = _merge_again(*again, by_float32, rows)
            _merge_again(*again, _by_differences, still)


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Set how float32 matrices are multiplied meanwhile: "high" is TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _merge_again(queries, others, first, found, squares, rule, score: Callable[..., Scored], rows: Tensor) -> Tensor:
    """Merge anew for the queries at `rows` int64 (n,), whose lists first drop their entries among the others; return which are still in
    doubt."""
    if len(rows) == 0:
        return rows
    lists, measured = found[rows], squares[rows]
    seen = (lists >= first) & (lists < first + len(others))
    lists.masked_fill_(seen, -1)
    measured.masked_fill_(seen, torch.inf)
    doubtful = _merge(queries[rows], others, first, lists, measured, rule, score)
    found[rows], squares[rows] = lists, measured
    return rows[doubtful]


def _merge(queries, others, first, found, squares, rule, score: Callable[..., Scored]) -> Tensor:
    """Measure the best by score and merge them into the lists, in place; return which queries may have missed a neighbor, bool (n,)."""
    scores, floor, factor = score(queries, others, rule)
    _leave_out(scores, queries, others, first, rule)
    width = found.shape[1]
    best, candidates = _largest(scores, min(width + MARGIN, len(others)))
    candidates = torch.where(best == -torch.inf, -1, candidates.int())
    new = measure(queries.rows, queries.scale, others.rows, others.scale, candidates, rule.unit)
    if rule.unit and rule.non_negative:
        new.masked_fill_(new >= 2, torch.inf)
    numbers = torch.where(new < torch.inf, candidates + first, -1)
    merged, order = torch.sort(torch.cat([squares, new], 1), dim=1, stable=True)
    squares.copy_(merged[:, :width])
    found.copy_(torch.cat([found, numbers], 1).gather(1, order[:, :width]))
    if floor is None or best.shape[1] == len(others):
        return torch.zeros(len(queries), dtype=torch.bool, device=found.device)
    least = best[:, -1]
    if score is _by_products and rule.unit and rule.non_negative:
        least = least.masked_fill(
            least <= 0, -torch.inf
        )  # a sum of nothing but zeros is sharp: all others share nothing
    doubtful = ~(floor - 2 * factor * least >= squares[:, -1])
    if rule.unit:
        doubtful &= queries.squares > 0  # a zero row has zero rows, none of which is nearer than another
    return doubtful


def _leave_out(scores, queries, others, first, rule):
    """Set the scores of the query itself, and of rows that are no neighbors of it, to -inf."""
    itself = queries.numbers - first
    inside = (itself >= 0) & (itself < len(others))
    itself = itself.clamp(0, len(others) - 1)[:, None]
    scores.scatter_(1, itself, torch.where(inside[:, None], -torch.inf, scores.gather(1, itself)))
    if rule.unit and rule.zero_apart:
        scores.masked_fill_((queries.scale == 0)[:, None] ^ (others.scale == 0)[None, :], -torch.inf)


def _by_products(queries: Chunk, others: Chunk, rule: Rule) -> Scored:
    """Score by products of rows as they are kept: the fastest that the device has."""
    scores = _scores(queries.rows, others.rows)
    coarse = queries.rows.dtype == others.rows.dtype == torch.float32 and torch.get_float32_matmul_precision() == "high"
    part = TF32_SLACK if coarse and scores.is_cuda else slack(queries.rows.shape[1])
    if rule.unit:
        floor = torch.full_like(queries.scale, 2 - 2 * part)
        return scores.mul_(others.scale[None, :]), floor, queries.scale
    return scores.sub_((0.5 - 0.5 * part) * others.squares[None, :]), (1 - part) * queries.squares, 1.0


def _by_float32(queries: Chunk, others: Chunk, rule: Rule, centre: Tensor) -> Scored:
    """Score by float32 products of rows less a centre: far from the origin the norms would swallow the digits."""
    part = slack(queries.rows.shape[1])
    ours, squares, *_ = centred(queries.rows, centre, rule.unit)
    theirs, other_squares, *_ = centred(others.rows, centre, rule.unit)
    with precision("highest"):
        scores = ours @ theirs.T
    scores.sub_((0.5 - 0.5 * part) * other_squares[None, :])
    floor = (1 - part) * squares
    if rule.unit:
        right_angle = 0.5 * floor - 1
        scores = torch.where((others.scale == 0)[None, :], right_angle[:, None], scores)
    return scores, floor, 1.0


def _by_differences(queries: Chunk, others: Chunk, rule: Rule) -> Scored:
    return all_pairs(queries.rows, queries.scale, others.rows, others.scale).mul_(-0.5), None, 1.0


def _centre(queries: Chunk) -> Tensor:
    """Compute the mean of the queries times their scale: float32 (D,)."""
    return queries.scale @ queries.rows.float() / len(queries)


def _scores(queries, others):
    """Multiply rows: float32 (n, m). Half precision is multiplied as stored, with sums in float32."""
    if queries.dtype == others.dtype != torch.float32 and queries.is_cuda:
        return torch.mm(queries, others.T, out_dtype=torch.float32)
    return queries.float() @ others.float().T


def _largest(scores, n):
    """Find (values, columns) of the n largest of each row, the largest first."""
    n_groups = scores.shape[1] // GROUP
    if scores.shape[1] % GROUP or n_groups <= n:
        return scores.topk(n, dim=1)
    groups = scores.view(len(scores), n_groups, GROUP).amax(2).topk(n, dim=1, sorted=False).indices
    columns = (groups[:, :, None] * GROUP + torch.arange(GROUP, device=scores.device)).flatten(1)
    values, at = scores.gather(1, columns).topk(n, dim=1)
    return values, columns.gather(1, at)
