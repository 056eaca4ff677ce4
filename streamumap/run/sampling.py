"""Samples of rows: uniform, with the shares of strata kept, or named by the user."""

from pathlib import Path

import numpy as np

from streamumap.errors import InputError
from streamumap.show.columns import read_lines


def sampled(n_rows: int, size: int | None, stratify: Path | None, seed: int) -> np.ndarray | None:
    """The rows that `--sample` and `--stratify` ask for: int64, ascending, or None for all. Raises InputError.

    `stratify`: a text file with a label for each of the `n_rows` rows; or with fewer lines, which are then the numbers of
    the rows to map.
    """
    if size is None and stratify is None:
        return None
    if size is not None and not 3 <= size <= n_rows:
        raise InputError(
            f"--sample: expected 3 to {n_rows}, the rows of the input, found {size}; give one in this range."
        )
    if stratify is None:
        assert size is not None
        return uniform(n_rows, size, seed)
    lines = read_lines("--stratify", stratify)
    if len(lines) < n_rows:
        return _named(stratify, lines, n_rows, size)
    if len(lines) > n_rows or size is None:
        expected = (
            f"{n_rows} labels, one a row, or fewer row numbers" if len(lines) > n_rows else "--sample beside labels"
        )
        raise InputError(f"--stratify: {stratify}: expected {expected}, found {len(lines)} lines; give it so.")
    codes = lines.dictionary_encode().indices.to_numpy()
    if size < int(codes.max()) + 1:
        raise InputError(
            f"--stratify: {stratify}: expected at most {size} labels, as --sample has rows, found {int(codes.max()) + 1}; "
            "raise --sample."
        )
    return stratified(codes, size, seed)


def uniform(n_rows: int, size: int, seed: int) -> np.ndarray:
    """Draws `size` of `n_rows` rows, all equally likely."""
    return np.sort(_random(seed, 0).choice(n_rows, size, replace=False)).astype(np.int64)


def stratified(codes: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Draws `size` rows, uniformly within each stratum. `codes` integers (N,): the stratum of each row, from 0, none empty."""
    wanted = shares(np.bincount(codes), size)
    by_stratum, first = np.argsort(codes, kind="stable"), 0
    chosen = []
    for stratum, (count, take) in enumerate(zip(np.bincount(codes).tolist(), wanted.tolist(), strict=True)):
        members = by_stratum[first : first + count]
        chosen.append(members[_random(seed, 1 + stratum).choice(count, take, replace=False)])
        first += count
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def shares(counts: np.ndarray, size: int) -> np.ndarray:
    """Divides `size` rows among strata of `counts` int64 (S,) rows; returns int64 (S,).

    Every stratum gets at least one row. The others get their share of the rest, to within one row; the largest remainders are rounded
    up."""
    assert len(counts) <= size <= counts.sum()
    small = np.zeros(len(counts), bool)
    while True:
        left, total = size - int(small.sum()), int(counts[~small].sum())
        too_small = ~small & (counts * left < total)
        if not too_small.any():
            break
        small |= too_small
    out = np.where(small, 1, counts * left // max(total, 1))
    remainders = np.where(small, -1, counts * left % max(total, 1))
    out[np.argsort(-remainders, kind="stable")[: size - int(out.sum())]] += 1
    return out


def _named(path: Path, lines, n_rows: int, size: int | None) -> np.ndarray:
    texts = [text.strip() for text in lines.to_pylist()]
    bad = next((text for text in texts if not (text.isdecimal() and len(text) < 19 and int(text) < n_rows)), None)
    if bad is not None:
        raise InputError(
            f"--stratify: {path}: expected {n_rows} labels, one a row, or row numbers from 0 to {n_rows - 1}, found "
            f"{len(texts)} lines, one of them {bad[:40]!r}; give one of the two."
        )
    rows = np.unique(np.array(texts, np.int64))
    if len(rows) < len(texts) or len(rows) < 3 or size not in (None, len(rows)):
        expected = f"{size} different row numbers, as --sample says" if size else "at least 3 row numbers, each once"
        raise InputError(
            f"--stratify: {path}: expected {expected}, found {len(texts)}, {len(rows)} different; give as many."
        )
    return rows


def _random(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, 2**40 + stream]))
