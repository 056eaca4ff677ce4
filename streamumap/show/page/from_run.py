"""The page of a run: all its columns, the names of its rows, their strongest features, its clusters."""

from pathlib import Path

from streamumap.events import Listener, Note, ignore
from streamumap.show import annotations
from streamumap.show.annotations import NO_OPTIONS, ShowOptions
from streamumap.show.page.data import Label, Page, PageData, page_data
from streamumap.show.page.html import MOST_BYTES, write_page
from streamumap.show.saved_run import open_run


def view_run(
    path: Path,
    out: Path,
    options: ShowOptions = NO_OPTIONS,
    with_features: bool = True,
    listener: Listener = ignore,
) -> Path:
    """Writes the page of the run in the folder `path` as one file. Raises InputError, OutputError."""
    _, left_out = write_page(page_of(path, options, with_features, listener), out)
    for kind in left_out:
        listener(
            Note(
                "warning",
                f"{out}: {kind} are left out: with them it would be over {MOST_BYTES // 10**6} MB; --serve shows them.",
            )
        )
    return out


def page_of(path: Path, options: ShowOptions, with_features: bool, listener: Listener) -> PageData:
    """Reads what the page of a run shows. Features are left out where the input is gone. Raises InputError."""
    run = open_run(path)
    labels, names = annotations.labels_of(run, options), annotations.names_of(run, options)
    features = annotations.top_features_of(run, options, listener) if with_features else None
    cluster_column, clusters = annotations.clusters_of(run, names, features, listener)
    columns = annotations.columns_of(run, options, listener, labels, cluster_column, every=True)
    only_distortion = not options.colors and columns[:1] and columns[0].name == annotations.DISTORTION
    marks = [Label(c.text, c.x, c.y, c.level) for c in clusters]
    first = -1 if only_distortion else 0
    return page_data(run.embedding, Page(run.title, run.facts, columns, names, features, marks, first))
