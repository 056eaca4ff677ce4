"""What a plan is: frozen facts, no arithmetic beyond sums."""

from dataclasses import dataclass, replace

from streamumap.machine.memory import Budget, Footprint, Machine
from streamumap.source import ToConvert
from streamumap.source.base import RowSource, SparseSource, index_dtype, stored_dtype
from streamumap.source.sae.rows import EncodedRows

SEARCH_ROWS = 1_000
"""Sampled rows on which a search measures whether it has the recall that is asked for."""

QUALITY_ROWS = 3_000
"""Sampled rows on which a finished graph and map are measured; all rows where there are no more than ALL_ROWS."""

ALL_ROWS = 10_000

QUALITY_NEIGHBORS = 15


def quality_rows(n_rows: int) -> int:
    """How many rows a graph and a map are measured on."""
    return n_rows if n_rows <= ALL_ROWS else QUALITY_ROWS


@dataclass(frozen=True)
class Job:
    """What the source says. `n_nonzero` None: not known before the rows are read once; they are then planned as
    dense. `sparse`: the source is a SparseSource; `n_nonzero` is then never None, and at first no more than a bound.
    `copied_bytes`: on disk, of an input that is converted. `raw_features`: the width of rows that an SAE encodes.
    `knn_columns`: of a k-NN graph that is given; 0: none is."""

    n_rows: int
    n_features: int
    dtype: str
    n_nonzero: int | None = None
    sparse: bool = False
    copied_bytes: int = 0
    raw_features: int = 0
    knn_columns: int = 0
    n_left_out: int = 0  # rows of the input beside these
    n_edges: int = 0  # of the fuzzy graph, each in both directions; 0: it is not there yet
    placed: "Job | None" = None  # rows that are placed on the map of these
    mapped: bool = False  # that map is there already

    @property
    def itemsize(self) -> int:
        return stored_dtype(self.dtype).itemsize

    @property
    def matrix_bytes(self) -> int:
        """With its zeros; of a sparse source, of its pairs."""
        if self.sparse:
            return (self.n_nonzero or 0) * (index_dtype(self.n_features).itemsize + self.itemsize)
        return self.n_rows * self.n_features * self.itemsize


def job_of(source: RowSource | ToConvert) -> Job:
    """What the source says before a row is read."""
    n_nonzero = source.max_nonzero if isinstance(source, (SparseSource, ToConvert)) else None
    copied_bytes = source.n_bytes if isinstance(source, ToConvert) else 0
    inner = getattr(source, "given", source)
    raw_features = inner.raw.n_features if isinstance(inner, EncodedRows) else 0
    return Job(
        source.n_rows, source.n_features, source.dtype, n_nonzero, n_nonzero is not None, copied_bytes, raw_features
    )


def sampled_job(job: Job, size: int | None) -> Job:
    """What is left of a job where only `size` of its rows are mapped; None: all. How many pairs those have is not known
    before they are read, only that they have no more than all."""
    if size is None:
        return job
    n_nonzero = job.n_nonzero and min(job.n_nonzero, size * job.n_features)
    return replace(job, n_rows=size, n_nonzero=n_nonzero, n_left_out=job.n_rows - size)


def placing_job(job: Job) -> Job:
    """The job of a sample on whose map the other rows are placed."""
    size = job.n_left_out
    n_nonzero = job.n_nonzero and min(job.n_nonzero, size * job.n_features)
    placed = Job(size, job.n_features, job.dtype, n_nonzero, job.sparse)
    return replace(job, placed=placed if size else None)


@dataclass(frozen=True)
class StagePlan:
    """One stage: who does it, in blocks of how many rows, and all bytes of the process while it runs."""

    name: str
    backend: str
    blocks: dict[str, int]
    predicted: Footprint


@dataclass(frozen=True)
class Plan:
    job: Job
    budget: Budget
    machine: Machine
    stages: tuple[StagePlan, ...]
    as_csr: bool = False  # rows without their zeros
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
        return Footprint(
            *(max(getattr(s.predicted, f) for s in self.stages) for f in ("host_bytes", "device_bytes", "disk_bytes"))
        )
