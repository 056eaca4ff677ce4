"""The data of a page: a description as JSON, and blocks of bytes that the page reads as it needs them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from streamumap.show.colors import Coded, code, ends
from streamumap.show.columns import Column, TopFeatures
from streamumap.show.figure import Mark
from streamumap.show.palette import DARK, LIGHT, Theme
from streamumap.show.raster import View, fit_view

PAGE_ROWS = 4096
"""Rows in one block of names or features."""
WIDEST = 16
"""Side of the quantised square, in sides of the view. Rows farther out are drawn on its edge, so that they do not cost the
others their resolution."""
STEPS = 65_535
"""Steps of a position across the quantised square."""


@dataclass(frozen=True)
class Label(Mark):
    """A name on the map; a name of level 1 is shown from twice the first zoom on."""

    level: int = 0


@dataclass(frozen=True)
class Page:
    """The contents of a page beside the positions.

    names: a pyarrow array of N strings. first: the number of the column that colours the map at first; with -1, or
    without columns, colour says how dense the rows are.
    """

    title: str = ""
    facts: str = ""
    columns: Sequence[Column] = ()
    names: Any = None
    features: TopFeatures | None = None
    labels: Sequence[Label] = ()
    first: int = 0


@dataclass(frozen=True)
class PageData:
    """`meta` is JSON-able; `blocks` are made when they are asked for."""

    meta: dict[str, Any]
    blocks: dict[str, Callable[[], bytes]]

    def without(self, kind: str) -> "PageData":
        """A copy without the "names" or the "features"."""
        blocks = {name: make for name, make in self.blocks.items() if not name.startswith(kind + "-")}
        return replace(self, meta=self.meta | {kind: None}, blocks=blocks)


def page_data(embedding: np.ndarray, page: Page) -> PageData:
    """The data of the page of a map, (N, 2 or more) float32."""
    view = fit_view(embedding)
    box = _box(embedding, view)
    low, high, missing, n_far = _quantise(embedding, box)
    coded = [code(column) for column in page.columns]
    notes = [f"Rows without a position: {view.n_missing:,}."] if view.n_missing else []
    notes += [f"Rows farther out, drawn at the edge: {n_far:,}."] if n_far else []
    meta = {
        "title": page.title,
        "facts": page.facts,
        "notes": notes,
        "rows": len(embedding),
        "pageRows": PAGE_ROWS,
        "view": {"left": view.left, "bottom": view.bottom, "side": view.side},
        "box": dict(zip(("left", "bottom", "side"), box, strict=True)),
        "first": min(page.first, len(coded) - 1),
        "columns": [_column_meta(column, f"column-{i}") for i, column in enumerate(coded)],
        "names": page.names is not None,
        "features": None if page.features is None else _features_meta(page.features),
        "labels": [{"text": mark.text, "x": mark.x, "y": mark.y, "level": mark.level} for mark in page.labels],
        "themes": {"light": _theme(LIGHT), "dark": _theme(DARK)},
    }
    blocks: dict[str, Callable[[], bytes]] = {
        "low": low.tobytes,
        "high": high.tobytes,
        "missing": missing.astype("<u4").tobytes,
    }
    blocks |= {f"column-{i}": column.codes.tobytes for i, column in enumerate(coded)}
    for number in range(-(-len(embedding) // PAGE_ROWS)):
        rows = slice(number * PAGE_ROWS, (number + 1) * PAGE_ROWS)
        if page.names is not None:
            blocks[f"names-{number}"] = partial(_names_block, page.names, rows)
        if page.features is not None:
            blocks[f"features-{number}"] = partial(_features_block, page.features, rows)
    return PageData(meta, blocks)


def _box(embedding: np.ndarray, view: View) -> tuple[float, float, float]:
    """Left, bottom and side of the square in which positions are quantised: around all rows, at most WIDEST views wide."""
    points = embedding[np.isfinite(embedding[:, :2]).all(axis=1), :2].astype(np.float64)
    if not len(points):
        return view.left, view.bottom, view.side
    reach = (WIDEST - 1) / 2 * view.side
    least = np.maximum(points.min(axis=0), (view.left - reach, view.bottom - reach))
    most = np.minimum(points.max(axis=0), (view.left + view.side + reach, view.bottom + view.side + reach))
    side = float((most - least).max()) or view.side
    return float(least[0]), float(least[1]), side


def _quantise(embedding: np.ndarray, box: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The lower and the upper bytes of x, then of y, (2, N) uint8 each; the rows without a position; the number of rows
    outside the box."""
    low, high = (np.zeros((2, len(embedding)), np.uint8) for _ in range(2))
    outside = np.zeros(len(embedding), bool)
    finite = np.isfinite(embedding[:, :2]).all(axis=1)
    for axis in range(2):
        steps = (np.where(finite, embedding[:, axis], box[axis]).astype(np.float64) - box[axis]) * (STEPS / box[2])
        outside |= (steps < -0.5) | (steps > STEPS + 0.5)
        words = np.round(np.clip(steps, 0, STEPS)).astype(np.uint16)
        low[axis], high[axis] = words & 255, words >> 8
    return low, high, np.flatnonzero(~finite), int(outside.sum())


def _column_meta(column: Coded, block: str) -> dict[str, Any]:
    kind = "numbers" if column.labels is None else "labels"
    low, high = ends(column)
    return {
        "name": column.name,
        "kind": kind,
        "data": block,
        "labels": list(column.labels or ()),
        "counts": list(column.counts),
        "grey": column.n_grey,
        "rarer": column.n_rarer,
        "none": column.n_none,
        "layered": column.layered,
        **({"low": column.low, "high": column.high, "ends": [low, high]} if kind == "numbers" else {}),
    }


def _theme(theme: Theme) -> dict[str, Any]:
    return {
        "page": theme.page,
        "ink": theme.ink,
        "faint_ink": theme.faint_ink,
        "other": theme.other,
        "palette": list(theme.palette),
        "ramp": list(theme.ramp),
    }


def _names_block(names: Any, rows: slice) -> bytes:
    """Names, one a line; line ends within a name become spaces."""
    import pyarrow as pa
    import pyarrow.compute as pc

    part = names.slice(rows.start, rows.stop - rows.start).cast(pa.string()).fill_null("")
    part = pc.replace_substring(part, "\n", " ")
    return pc.binary_join(pa.ListArray.from_arrays([0, len(part)], part), "\n")[0].as_py().encode()


def _features_meta(features: TopFeatures) -> dict[str, Any]:
    return {"top": features.ids.shape[1], "largest": features.largest, "wide": features.ids.dtype.itemsize == 4}


def _features_block(features: TopFeatures, rows: slice) -> bytes:
    """The numbers of the features, then their activations as bytes b, which stand for (b / 255)² of the largest one."""
    ids, values = features.ids[rows], features.values[rows]
    levels = np.ceil(255 * np.sqrt(np.maximum(values, 0) / features.largest)).clip(0, 255).astype(np.uint8)
    return ids.astype(ids.dtype.newbyteorder("<")).tobytes() + levels.tobytes()
