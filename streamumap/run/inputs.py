"""Inputs: everything that a request names, opened and checked before a row is read."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from streamumap.errors import InputError
from streamumap.neighbors.given import GivenGraph, open_graph
from streamumap.params import Params
from streamumap.planning.job import Job, job_of, placing_job, sampled_job
from streamumap.request import Request
from streamumap.run import dispatch
from streamumap.run.sampling import sampled
from streamumap.show.meta import Meta
from streamumap.source import Reading, RowSource, ToConvert, open_source


@dataclass(frozen=True)
class Inputs:
    """`source`: the rows. `sample`: numbers of the rows to map, int64, or None for all. `knn`: a k-NN graph given by the user.
    `meta`: columns for embedding.parquet. `origin`: how run.json says where the rows came from."""

    source: RowSource | ToConvert
    sample: np.ndarray | None = None
    knn: GivenGraph | None = None
    meta: Meta | None = None
    origin: dict = field(default_factory=dict)

    def job(self, place_rest: bool) -> Job:
        """The job of the plan, as far as it is known before the rows are read."""
        job = replace(job_of(self.source), knn_columns=self.knn.n_columns if self.knn else 0)
        job = sampled_job(job, None if self.sample is None else len(self.sample))
        return placing_job(job) if place_rest else job

    def close(self) -> None:
        if self.knn is not None:
            self.knn.close()
        self.source.close()


def open_inputs(request: Request) -> Inputs:
    """Raises InputError where something is missing, is not what it should be, or does not go with the rest."""
    dispatch.check_installed(request.params)
    source = open_source(request.input, request.reading)
    try:
        meta = None if request.meta is None else Meta(request.meta, source.n_rows)
        stratify = None if request.stratify is None else Path(request.stratify)
        sample = sampled(source.n_rows, request.sample, stratify, request.params.seed)
        if request.place_rest and sample is None:
            raise InputError(
                "--place-rest: expected --sample or --stratify, found neither; say which rows the others are placed beside."
            )
        if request.knn is not None and sample is not None:
            raise InputError(
                "--knn: expected a graph of the rows on the map, found one of all rows beside a sample; leave one out."
            )
        knn = open_knn(request.knn, request.params, source.n_rows)
    except BaseException:
        source.close()
        raise
    origin = {"path": request.path, "reading": (request.reading or Reading()).to_json()}
    return Inputs(source, sample, knn, meta, origin)


def open_knn(knn: Any, p: Params, n_rows: int) -> GivenGraph | None:
    """The k-NN graph that the user gives, or None. Raises InputError where it cannot be used."""
    if knn is None:
        return None
    for option, value, default in (("neighbors", p.neighbors, "auto"), ("reduce", p.reduce, "none")):
        if value != default:
            raise InputError(
                f"--{option}: {value} says how neighbours are searched, and --knn gives them; leave one of the two out."
            )
    graph = open_graph(knn, n_rows)
    try:
        graph.check_width(min(p.n_neighbors, n_rows))
    except BaseException:
        graph.close()
        raise
    return graph
