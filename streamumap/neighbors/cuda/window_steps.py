"""A round of the search while the device holds only a window of the rows.

The steps are those of `approximate.py`, each done for one group of parts after the other: the tiles of a group are compared with those of its
window, and neighbors of neighbors are measured where both rows are in the window. The lists of all rows lie in files by place, those before and
those after a step. A window is chosen anew for each step: at first by the means of parts, then by the lists.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Advance, no_advance
from streamumap.machine.ahead import read_ahead
from streamumap.neighbors.cuda.approximate import join
from streamumap.neighbors.cuda.arranged import Arranged
from streamumap.neighbors.cuda.join import JOINS, no_neighbors
from streamumap.neighbors.cuda.look import LOOKED, SHARES, Looking, look, reach_of_round
from streamumap.neighbors.cuda.probe import TILE
from streamumap.neighbors.cuda.reach import Reach
from streamumap.neighbors.cuda.round import Round
from streamumap.neighbors.cuda.tiles import make_tiles
from streamumap.neighbors.cuda.window import Window, groups, met_parts, nearest_parts, windows
from streamumap.store.blockfile import BlockFile
from streamumap.store.checkpoint import Arrays, Checkpoint

Find = Callable[[range], tuple[Tensor, Tensor]]
"""find(group): the lists of its rows, places int32 and what is measured float32 (n, width)."""


@dataclass(frozen=True)
class Lists:
    """The files of the lists of all rows by place: `found` int32 (N, width), places, and `distances` float32 (N, width)."""

    found: BlockFile
    distances: BlockFile

    @classmethod
    def create(cls, checkpoint: Checkpoint, name: str, n_rows: int, width: int) -> "Lists":
        """Make the files, or open those that the checkpoint has."""
        found = checkpoint.create(f"{name}-found", (n_rows, width), np.int32)
        return cls(found, checkpoint.create(f"{name}-distances", (n_rows, width), np.float32))

    def write(self, start: int, found: np.ndarray, distances: np.ndarray) -> None:
        self.found.write(start, found)
        self.distances.write(start, distances)


def search_windows(
    arranged: Arranged, this: Round, nobody: np.ndarray, checkpoint: Checkpoint, advance: Advance
) -> Lists:
    """Find lists of all rows, nearest first. `nobody` bool (N,): places of rows that are nobody's neighbors. Advances by N rows for each
    step."""
    _forget_others(checkpoint, this.number)
    steps = _steps(checkpoint, this.number)
    todo, before = groups(arranged.parts.bounds, this.group_rows), None
    for step, saved in enumerate(steps):
        if not saved.begun and any(later.begun for later in steps[step + 1 :]):
            continue  # it was done, and its files are not needed any more
        begin = saved.resume({}).get("group", 0)
        if step and before is None and begin < len(todo):  # what it was made of is gone
            for any_step in steps:
                any_step.forget()
            return search_windows(arranged, this, nobody, checkpoint, advance)
        lists = Lists.create(saved, f"neighbors-round{this.number}-step{step}", len(arranged.numbers), this.width)
        if before is None:
            look = partial(_look, arranged, this, nobody, advance=advance)
            _write_groups(look, arranged.parts.bounds, todo, begin, lists, saved)
        else:
            joined = partial(_join, arranged, this, before, advance=advance)
            _write_groups(joined, arranged.parts.bounds, todo, begin, lists, saved)
            del joined
            steps[step - 1].forget()
        before = lists
    assert before is not None
    return before


def _forget_others(checkpoint: Checkpoint, number: int) -> None:
    """Remove the lists of other rounds, whose neighbors are in the graph, and those of this one that another search has left."""
    for other in range(len(SHARES)):
        steps = _steps(checkpoint, other)
        if other != number or not any(step.begun for step in steps):
            for step in steps:
                step.forget()


def _steps(checkpoint: Checkpoint, number: int) -> list[Checkpoint]:
    return [checkpoint.of(f"round{number}-step{step}") for step in range(1 + JOINS)]


def _write_groups(
    find: Find, bounds: np.ndarray, todo: list[range], begin: int, lists: Lists, saved: Checkpoint
) -> None:
    """Find the lists of all groups from number `begin` on. Those of a group are written while those of the next are found."""
    with ThreadPoolExecutor(1) as writer:
        written: Future = writer.submit(lambda: None)

        def state() -> tuple[Arrays, Arrays]:
            written.result()
            return {}, {}

        for at, group in enumerate(todo[begin:], begin):
            found = [array.cpu().numpy() for array in find(group)]
            written.result()
            written = writer.submit(lists.write, int(bounds[group.start]), *found)
            keep = saved.done if at + 1 < len(todo) else saved.save
            keep(state, group=at + 1)
        written.result()


def _look(arranged: Arranged, this: Round, nobody: np.ndarray, group: range, advance: Advance) -> tuple[Tensor, Tensor]:
    """Find the nearest by sketches of the rows of a group: places int32 and what is measured float32 (n, width)."""
    parts, n_rows = arranged.parts, len(arranged.numbers)
    count = nearest_parts(parts, group, TILE * LOOKED << 2 * this.number)
    own_rows = int(parts.bounds[group.stop] - parts.bounds[group.start])
    found, distances = no_neighbors(own_rows, parts.middles.device, this.width)
    reach: Reach | None = None
    for number, others in enumerate(windows(parts.bounds, group, count, this.window_rows)):
        window = Window(parts, group, others)
        codes, near = arranged.kept.brought(window.runs, arranged.projection, this.chunk_rows)
        tiles = make_tiles(codes, window.sent(nobody), *window.cells(arranged, codes))
        del codes
        n_asking = int((tiles.order[::TILE] < window.n_own).sum())
        if reach is None:
            among = parts.centres, len(tiles) * n_rows // len(window.place)
            reach = reach_of_round(tiles, this.number, n_asking, among)
        first = n_asking if number else 0
        how = Looking(near, reach, this.chunk_rows, this.n_proposed, first, window.place)
        look(how, tiles, found, distances, no_advance if number else advance)
        del window, near, tiles, how
    return found, distances


def _join(arranged: Arranged, this: Round, before: Lists, group: range, advance: Advance) -> tuple[Tensor, Tensor]:
    """Merge the neighbors of neighbors into the lists of a group: places int32 and what is measured float32 (n, width)."""
    bounds, device = arranged.parts.bounds, arranged.parts.middles.device
    start, stop = int(bounds[group.start]), int(bounds[group.stop])
    own, distances = (torch.from_numpy(file.read(start, stop)).to(device) for file in (before.found, before.distances))
    count = met_parts(arranged.parts, own)
    for number, others in enumerate(windows(bounds, group, count, this.window_rows)):
        window = Window(arranged.parts, group, others)
        _join_in(window, arranged, this, before, own, distances, no_advance if number else advance)
    return own, distances


def _join_in(
    window: Window, arranged: Arranged, this: Round, before: Lists, own: Tensor, distances: Tensor, advance: Advance
) -> None:
    """Merge the neighbors of neighbors that are in a window into the lists of its group, in place."""
    lists = torch.empty((len(window.place), this.width), dtype=torch.int32, device=own.device)
    row = 0
    for places in read_ahead(before.found.read, window.runs):
        lists[row : row + len(places)] = window.here(torch.from_numpy(places).to(own.device))
        row += len(places)
    near, both = arranged.kept.measures(window.runs), (own, distances)
    join(near, lists, this.chunk_rows, both, both, advance, window.places)
