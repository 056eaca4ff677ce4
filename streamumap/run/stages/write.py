"""The write stage: embedding.parquet, map.png and run.json."""

from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import BinaryIO

import numpy as np

from streamumap.run.run import Run
from streamumap.run.stages.out_of_sample import say_who_has_no_place
from streamumap.source.scan.result import Scan


def preload_drawing() -> None:
    """Imports the drawing library in a thread, half a second, while the main thread waits for a device."""
    from streamumap.show.sheet import load

    Thread(target=load).start()


def write(run: Run, found: Scan, embedding: np.ndarray, distortion: np.ndarray) -> dict:
    """Writes the files and returns the content of run.json. `distortion` float32 (N,): that of the mapped rows."""
    if run.new is not None:
        embedding = run.work.read("embedding")
        say_who_has_no_place(run, run.new, embedding[run.new.kept.rows])
    with run.stage("write", 2, "files") as (advance, result), ThreadPoolExecutor(1) as beside:
        table = beside.submit(
            run.work.publish, "embedding.parquet", lambda file: _write_table(run, file, embedding, distortion, found)
        )
        if run.params.n_components >= 2:
            run.work.publish("map.png", lambda file: _draw(run, file, embedding, found))
        advance(1)
        table.result()
        advance(1)
        result.append(str(run.work.path))
    finished = run.report(found)
    run.work.publish_json("run.json", finished)
    run.work.finish()
    return finished


def _write_table(run: Run, file: BinaryIO, embedding: np.ndarray, distortion: np.ndarray, found: Scan) -> None:
    """`embedding` has a row for every row of the input where rows beside the sample got a position, else for every mapped row."""
    from streamumap.show import table

    kept, first, placed = run.kept, run.kept.numbers_back(found.duplicate_of), None
    is_zero = kept.back(found.is_zero, False)
    if run.new is None:
        embedding = kept.back(embedding, np.nan)
    else:
        placed = run.new.kept.back(np.ones(run.new.found.n_rows, bool), False)
        is_zero |= run.new.kept.back(run.new.found.is_zero, False)
    table.write_parquet(
        file, embedding, is_zero, kept.back(first, -1), run.inputs.meta, placed, kept.back(distortion, np.nan)
    )


def _draw(run: Run, file: BinaryIO, embedding: np.ndarray, found: Scan) -> None:
    from streamumap.show.figure import Picture
    from streamumap.show.png import draw
    from streamumap.show.saved_run import describe

    title, subtitle = describe(run.report(found))
    size_px = run.plan["write"].blocks["size_px"]
    draw(embedding, file, picture=Picture(title=title, subtitle=subtitle, size_px=size_px))
