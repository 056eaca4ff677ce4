"""Scans all rows in one pass for the facts that `embed` and `inspect` need."""

from functools import partial

from streamumap.events import Advance, no_advance
from streamumap.source.base import RowSource, SparseSource
from streamumap.source.pieces import over_rows
from streamumap.source.scan.describe import Hashing, describe
from streamumap.source.scan.result import Scan
from streamumap.source.scan.totals import Totals
from streamumap.store.checkpoint import NO_CHECKPOINT, Checkpoint


def scan(
    source: RowSource, block_rows: int, advance: Advance = no_advance, checkpoint: Checkpoint = NO_CHECKPOINT
) -> Scan:
    """Reads all rows once, `block_rows` at a time. Advances by rows. The result does not depend on the number of threads.

    Rows are compared by a 64-bit key of two multilinear hashes (Lemire & Kaser, "Strongly universal string hashing is
    fast", 2012: 32-bit lanes, random 64-bit multipliers, the high 32 bits of the sum). Two different rows share
    a key with probability 2^-64; some two among 3 million do with 2.4e-7.
    """
    return _read(source, block_rows, advance, checkpoint).finish(source.dtype)


def _read(source: RowSource, block_rows: int, advance: Advance, checkpoint: Checkpoint) -> Totals:
    totals = Totals(source.n_rows, source.n_features, source.dtype)
    totals.resume(checkpoint.resume(*totals.state(source.n_rows)))
    work = partial(describe, dtype=source.dtype, hashing=Hashing.of(source.n_features, source.dtype))
    sparse = isinstance(source, SparseSource)
    for piece in over_rows(source, block_rows, work, no_advance, totals.row):
        totals.add(piece)
        advance(len(piece.keys))
        if sparse or totals.row % block_rows == 0:
            checkpoint.done(totals.state, **totals.counts())
    return totals
