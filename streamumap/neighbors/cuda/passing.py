"""The approximate search while rows pass by the device: it holds a window of them (`window.py`), and all else lies in files.

Each round arranges all rows anew (`arranged.py`) and searches (`window_steps.py`). What it finds is merged into the graph; of dense rows,
after the rows themselves have measured what sketches have found.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import numpy as np
import torch
from torch import Tensor

from streamumap.neighbors.cuda.arranged import Arranged, arrange
from streamumap.neighbors.cuda.decide import measure_chunk
from streamumap.neighbors.cuda.dense_rows import DenseOnDevice
from streamumap.neighbors.cuda.distances import from_measured
from streamumap.neighbors.cuda.join import merge, no_neighbors
from streamumap.neighbors.cuda.kept_rows import Keeper, KeptPairs, KeptSketches
from streamumap.neighbors.cuda.look import SHARES
from streamumap.neighbors.cuda.passing_rows import PassingRows
from streamumap.neighbors.cuda.round import Round
from streamumap.neighbors.cuda.sizes import FETCHED_ROWS, PROPOSED, arranged_rows, list_width, passing_width
from streamumap.neighbors.cuda.window_steps import Lists, search_windows
from streamumap.neighbors.protocol import ComparedRows, KnnGraph, SearchRequest
from streamumap.store.checkpoint import Checkpoint

Rows = PassingRows | DenseOnDevice


@contextmanager
def passing(rows: ComparedRows, chunk_rows: int) -> Iterator[Rows]:
    """Bring rows to their device as they are asked for, at most `chunk_rows` dense ones at a time. Raises InputError where a GPU does not have
    the metric."""
    rows.metric.check("cuda")
    assert rows.device
    if rows.csr is not None:
        yield PassingRows(rows.csr, rows.metric, rows.device)
        return
    with closing(DenseOnDevice(rows.source, rows.metric, chunk_rows, rows.device)) as brought:
        yield brought


def search_passing(rows: Rows, request: SearchRequest, reached: Callable[[np.ndarray], bool], graph: KnnGraph) -> bool:
    """Fill the graph, except column 0. Returns whether `reached(neighbors of the sampled rows)` accepts it; False where even the last round
    is not enough."""
    rounds = request.checkpoint.of("rounds")
    done = rounds.resume(graph._asdict())
    for number in range(done.get("round", 0), len(SHARES)):
        _merge_round(rows, request, number, done.pop("row", 0), rounds, graph)
        if reached(graph.indices[request.sample, 1:]):
            return True
        rounds.save(lambda: (graph._asdict(), {}), round=number + 1)
    return False


def _merge_round(
    rows: Rows, request: SearchRequest, number: int, begin: int, rounds: Checkpoint, graph: KnnGraph
) -> None:
    """Merge what round `number` finds into the graph, of dense rows from number `begin` on: they come in order, and take long."""
    for numbers, neighbors, near in _round(rows, request, number, begin):
        _keep(graph, rows, request.rows.non_negative, numbers, neighbors, near)
        if isinstance(rows, DenseOnDevice):
            rounds.done(lambda: (graph._asdict(), {}), round=number, row=int(numbers[-1]) + 1)
        del numbers, neighbors, near


def _round(rows: Rows, request: SearchRequest, number: int, begin: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield what round `number` finds as `_measured` does, of dense rows from number `begin` on."""
    blocks, scratch = request.blocks, request.checkpoint.of("passing")
    is_sparse = isinstance(rows, PassingRows)
    this = Round(
        number, request.seed + (number << 32), blocks["group_rows"], blocks["window_rows"], blocks["chunk_rows"],
        passing_width(request.k, is_sparse), PROPOSED * list_width(request.k),
    )  # fmt: skip
    kept: Keeper = KeptPairs(rows, scratch) if isinstance(rows, PassingRows) else KeptSketches(rows, scratch)
    arranging_rows = arranged_rows(this.window_rows) if is_sparse else blocks["other_rows"]
    arranged = arrange(kept, this, arranging_rows, request.advance)
    nobody = (request.is_zero & rows.metric.unit)[arranged.numbers]
    lists = search_windows(arranged, this, nobody, request.checkpoint, request.advance)
    if isinstance(rows, DenseOnDevice):
        yield from _decided(rows, request, lists, arranged, begin)
    else:
        yield from _measured(rows, lists, arranged)


def _measured(rows: Rows, lists: Lists, arranged: Arranged) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the numbers of some rows int32 (n,), their neighbors int32 and what is measured float32 (n, w)."""
    numbers = torch.from_numpy(arranged.numbers).to(rows.device)
    for start in range(0, len(numbers), FETCHED_ROWS):
        stop = min(start + FETCHED_ROWS, len(numbers))
        places, near = (
            torch.from_numpy(file.read(start, stop)).to(rows.device) for file in (lists.found, lists.distances)
        )
        yield numbers[start:stop], _numbered(numbers, places), near


def _decided(
    rows: DenseOnDevice, request: SearchRequest, lists: Lists, arranged: Arranged, begin: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield as `_measured` does, of dense rows from number `begin` on, in order, whose candidates the rows themselves measure."""
    candidates = _candidates(rows, lists, arranged)
    for start in range(begin, rows.n_rows, request.blocks["query_rows"]):
        part = candidates[start : start + request.blocks["query_rows"]].to(rows.device)
        numbers = torch.arange(start, start + len(part), dtype=torch.int32, device=rows.device)
        yield numbers, part, measure_chunk(rows, part, start, request.blocks["other_rows"])
        request.advance(len(part))


def _candidates(rows: Rows, lists: Lists, arranged: Arranged) -> Tensor:
    """Gather the candidates of all rows on the host: int32 (N, width)."""
    out = torch.empty((rows.n_rows, lists.found.shape[1]), dtype=torch.int32)
    for numbers, neighbors, _ in _measured(rows, lists, arranged):
        out.index_copy_(0, numbers.cpu().long(), neighbors.cpu())
    return out


def _numbered(numbers: Tensor, places: Tensor) -> Tensor:
    """Find the rows at these places, int32, -1 for none."""
    return torch.where(places >= 0, numbers[places.clamp_min(0).long()], -1)


def _keep(graph: KnnGraph, rows: Rows, non_negative: bool, numbers: Tensor, neighbors: Tensor, near: Tensor) -> None:
    """Merge the neighbors of some rows into the graph, without edges between non-negative rows at a right angle."""
    if rows.metric.unit and non_negative:
        neighbors, near = torch.where(near < 1, neighbors, -1), torch.where(near < 1, near, torch.inf)
    at = numbers.cpu().long()
    whole = [torch.from_numpy(array) for array in graph]
    kept = [array[at].to(rows.device) for array in whole]
    lists = no_neighbors(len(at), rows.device, list_width(graph.indices.shape[1]))
    queries = torch.arange(len(at), dtype=torch.int32, device=rows.device)
    for array, part in zip(lists, kept, strict=True):
        array[:, : part.shape[1] - 1] = part[:, 1:]
    merge(queries, neighbors.contiguous(), from_measured(near, rows.metric), *lists, *lists)
    for array, part, merged in zip(whole, kept, lists, strict=True):
        part[:, 1:] = merged[:, : part.shape[1] - 1]
        array.index_copy_(0, at, part.cpu())
