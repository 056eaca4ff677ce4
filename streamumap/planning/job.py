"""Jobs and plans as frozen data: what is to be mapped, and what each stage of a run will do and need."""

from dataclasses import dataclass, replace

from streamumap.machine.memory import Budget, Footprint, Machine
from streamumap.source import ToConvert
from streamumap.source.base import RowSource, SparseSource, index_dtype, stored_dtype
from streamumap.source.sae.rows import EncodedRows

MOST_ROWS = 2**31 - 1
"""Most rows of a map: k-NN graphs and edges have their numbers as int32, and the largest int32 is no row."""

SEARCH_ROWS = 1_000
"""Sampled rows on which a search measures whether it has the recall that is asked for."""

QUALITY_ROWS = 3_000
"""Sampled rows on which a finished graph and map are measured."""

ALL_ROWS = 10_000
"""Most rows of which all, and not QUALITY_ROWS of them, are measured."""

QUALITY_NEIGHBORS = 15
"""Neighbors of a row by which a map is measured, whatever `n_neighbors` is."""


def quality_rows(n_rows: int) -> int:
    """Return the number of rows on which a graph and a map are measured."""
    return n_rows if n_rows <= ALL_ROWS else QUALITY_ROWS


@dataclass(frozen=True)
class Job:
    """The rows that are to be mapped, as far as their source or a pass over them says.

    `n_nonzero`: values that are not zero. None before they are counted: the rows are then planned as dense. For a sparse
    source it is at first an upper bound.
    `sparse`: the source is a SparseSource.
    `active`: the mean of the values of a row that are not zero, where `n_nonzero` is a bound that is far above it, else None.
    `copied_bytes`: bytes on disk of the copy of an input that is converted, else 0.
    `raw_features`: features of the rows that an SAE encodes, 0 without an SAE.
    `knn_columns`: columns of a k-NN graph that the user gives, 0 where it is searched for.
    """

    n_rows: int
    n_features: int
    dtype: str
    n_nonzero: int | None = None
    sparse: bool = False
    copied_bytes: int = 0
    raw_features: int = 0
    knn_columns: int = 0
    n_left_out: int = 0  # rows of the input that are not among these
    n_edges: int = 0  # of the fuzzy graph, each in both directions; 0 until the graph exists
    placed: "Job | None" = None  # new rows that get positions on the map of these
    mapped: bool = False  # the map exists already; only `placed` is to be done
    active: float | None = None

    @property
    def itemsize(self) -> int:
        return stored_dtype(self.dtype).itemsize

    @property
    def matrix_bytes(self) -> int:
        """Bytes of the matrix with its zeros; of a sparse source, bytes of its pairs."""
        if self.sparse:
            return (self.n_nonzero or 0) * (index_dtype(self.n_features).itemsize + self.itemsize)
        return self.n_rows * self.n_features * self.itemsize


def job_of(source: RowSource | ToConvert) -> Job:
    """Return the job of a source, from what it says before a row is read."""
    n_nonzero = source.max_nonzero if isinstance(source, (SparseSource, ToConvert)) else None
    copied_bytes = source.n_bytes if isinstance(source, ToConvert) else 0
    inner = getattr(source, "given", source)
    raw_features = inner.raw.n_features if isinstance(inner, EncodedRows) else 0
    return Job(
        source.n_rows, source.n_features, source.dtype, n_nonzero, n_nonzero is not None, copied_bytes, raw_features
    )


def sampled_job(job: Job, size: int | None) -> Job:
    """Return the job of `size` of the rows; None stands for all. The number of their pairs is known only once they are read:
    until then it is bounded by that of all rows."""
    if size is None:
        return job
    n_nonzero = job.n_nonzero and min(job.n_nonzero, size * job.n_features)
    active = job.n_nonzero and job.n_nonzero / job.n_rows
    return replace(job, n_rows=size, n_nonzero=n_nonzero, n_left_out=job.n_rows - size, active=active)


def placing_job(job: Job) -> Job:
    """Return the job of a sample with the other rows as new rows that are placed on its map."""
    size = job.n_left_out
    n_nonzero = job.n_nonzero and min(job.n_nonzero, size * job.n_features)
    placed = Job(size, job.n_features, job.dtype, n_nonzero, job.sparse)
    return replace(job, placed=placed if size else None)


@dataclass(frozen=True)
class StagePlan:
    """One stage: its backend, its block sizes by name, and all bytes of the process while it runs."""

    name: str
    backend: str
    blocks: dict[str, int]
    predicted: Footprint


@dataclass(frozen=True)
class Plan:
    """The stages of a run in order, for a job, within a budget. `as_csr`: the rows are kept as CSR rows, without zeros, in a
    file if `csr_on_disk`."""

    job: Job
    budget: Budget
    machine: Machine
    stages: tuple[StagePlan, ...]
    as_csr: bool = False
    csr_on_disk: bool = False

    def __getitem__(self, name: str) -> StagePlan:
        return next(s for s in self.stages if s.name == name)

    def __contains__(self, name: str) -> bool:
        return any(s.name == name for s in self.stages)

    @property
    def device(self) -> str | None:
        """ "cuda:N", or None for a CPU run."""
        return self.machine.device.label if self.machine.device else None

    @property
    def peak(self) -> Footprint:
        """The most bytes that any stage needs, for host, device and disk apart."""
        return Footprint(
            *(max(getattr(s.predicted, f) for s in self.stages) for f in ("host_bytes", "device_bytes", "disk_bytes"))
        )
