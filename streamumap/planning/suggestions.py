"""What stands around a plan: what the same job takes elsewhere, which budget binds, the smallest that works, and what
makes the job smaller. Pure integers, no input or output."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from streamumap.layout.sizes import cuml_bytes
from streamumap.machine.memory import Budget, Machine
from streamumap.params import Params
from streamumap.planning.job import Job, Plan, sampled_job
from streamumap.planning.planner import make_plan, smallest_budget
from streamumap.planning.timing import Expected, expected_seconds

GB = 10**9

CARD_SIZES_GB = (16, 24, 32, 40, 48, 80, 96, 141, 192)

OVERHEAD = (2, 3)
"""What UMAP in memory takes beside its matrix, in matrices: a rule of thumb of those who run it."""

CUML_CONTEXT_BYTES = 1_200 * 10**6
CUML_GRAPH_BYTES = 656
"""Of a row, beside its values as float16: with these two the formula gives what cuML 26.10 was measured to take on a GPU,
4.6 GB at 500,000 x 3,072 and 21.6 GB at 3,000,000 x 3,072. Other widths were not measured."""

PCA_QUALITY = "512 of 3,072 dimensions keep 64% of the 15 nearest, 256 49%, 128 36% (measured on synthetic codes)"
"""The recall of a run is measured in the rows as they came, so that it says what PCA cost."""

SAMPLE_SHARE = 10
ACTIVE = 32
NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Cards:
    """So many GPUs of one size."""

    count: int
    size_gb: int


@dataclass(frozen=True)
class InMemoryNeeds:
    """A conventional run: the matrix, and 2 to 3 times it beside. cuML: a float32 copy in host memory, and its larger stage
    on the device."""

    low_bytes: int
    high_bytes: int
    cuml_host_bytes: int
    cuml_device_bytes: int


@dataclass(frozen=True)
class Suggestion:
    """One way to make the job smaller: bytes as they would be with it. `quality`: what is known of its cost."""

    name: str
    how: str
    matrix_bytes: int
    in_memory: InMemoryNeeds
    smallest: Budget
    quality: str


@dataclass(frozen=True, kw_only=True)
class Outlook(Plan):
    """A plan and what stands around it. `binding`: for each option, the stages that a larger one would give larger blocks;
    `seconds`: for each stage that was measured on a machine like this one."""

    in_memory: InMemoryNeeds
    smallest: Budget
    binding: dict[str, tuple[str, ...]]
    seconds: dict[str, Expected]
    suggestions: tuple[Suggestion, ...]

    @property
    def levers(self) -> tuple[Suggestion, ...]:
        """`suggestions` by the name that version 0.1 and `plan --json` give them."""
        return self.suggestions


def outlook(job: Job, params: Params, budget: Budget, machine: Machine) -> Outlook:
    """Raises DoesNotFit as `make_plan` does."""
    plan = make_plan(job, params, budget, machine)
    return Outlook(
        plan.job, plan.budget, plan.machine, plan.stages, plan.as_csr, plan.csr_on_disk,
        in_memory=in_memory_needs(job, params), smallest=smallest_budget(job, params, machine), binding=_binding(plan, params),
        seconds=expected_seconds(plan, params), suggestions=tuple(_suggestions(job, params, machine)),
    )  # fmt: skip


def in_memory_needs(job: Job, params: Params) -> InMemoryNeeds:
    """Neither of them takes pairs: rows are counted with their zeros."""
    n, d = job.n_rows, job.n_features
    dense_bytes, width = n * d * job.itemsize, min(d, params.reduce_dims) if params.reduce != "none" else d
    searching = n * (width * 2 + CUML_GRAPH_BYTES)
    on_device = CUML_CONTEXT_BYTES + max(searching, cuml_bytes(n, params.n_neighbors))
    low, high = (dense_bytes * (1 + share) for share in OVERHEAD)
    return InMemoryNeeds(low, high, n * d * 4, on_device)


def cards(n_bytes: int) -> tuple[Cards, ...]:
    """For each size of GPU, how many of them have so many bytes together."""
    return tuple(Cards(-(-n_bytes // (size * GB)), size) for size in CARD_SIZES_GB)


def fewest_cards(n_bytes: int) -> tuple[Cards, ...]:
    """Of these the smallest size for each number of cards, the fewest first."""
    least: dict[int, Cards] = {}
    for found in cards(n_bytes):
        least.setdefault(found.count, found)
    return tuple(least[count] for count in sorted(least))


def as_json(found: Outlook) -> dict:
    """For programs. Cards: how many of each size hold a conventional run, and the device part of cuML's."""
    memory = found.in_memory
    sizes = {"low": memory.low_bytes, "high": memory.high_bytes, "cuml": memory.cuml_device_bytes}
    values = asdict(found)
    return {
        "job": values["job"] | {"matrix_bytes": found.job.matrix_bytes},
        "budget": values["budget"],
        "peak": asdict(found.peak),
        "in_memory": values["in_memory"]
        | {"cards": {name: [asdict(c) for c in cards(n)] for name, n in sizes.items()}},
        "stages": [
            stage | {"expected": values["seconds"].get(stage["name"]), "bound_by": _bound_by(found, stage["name"])}
            for stage in values["stages"]
        ],
        "smallest_budget": values["smallest"],
        "levers": values["suggestions"],
    }


def _bound_by(found: Outlook, stage: str) -> list[str]:
    return [option for option, stages in found.binding.items() if stage in stages]


def _binding(plan: Plan, params: Params) -> dict[str, tuple[str, ...]]:
    budget = plan.budget
    wider = {budget.host_option: replace(budget, host_bytes=NO_LIMIT)}
    if budget.device_bytes is not None:
        wider = {"--budget": replace(budget, device_bytes=NO_LIMIT), **wider}
    return {option: tuple(_changed(plan, make_plan(plan.job, params, b, plan.machine))) for option, b in wider.items()}


def _changed(plan: Plan, other: Plan) -> Iterable[str]:
    for ours, theirs in zip(plan.stages, other.stages, strict=True):
        if (ours.backend, ours.blocks) != (theirs.backend, theirs.blocks):
            yield ours.name
    if (plan.as_csr, plan.csr_on_disk) != (other.as_csr, other.csr_on_disk):
        yield "packed rows"


def _suggestions(job: Job, params: Params, machine: Machine) -> Iterable[Suggestion]:
    """Those that change something here."""

    def suggest(name: str, how: str, job: Job, params: Params, quality: str, width: int | None = None) -> Suggestion:
        dense = replace(job, n_features=width or job.n_features, dtype="float32" if width else job.dtype)
        matrix_bytes = job.n_rows * width * 4 if width else job.matrix_bytes
        needs = in_memory_needs(dense, params)
        return Suggestion(name, how, matrix_bytes, needs, smallest_budget(job, params, machine), quality)

    n, d = job.n_rows, job.n_features
    if job.itemsize > 2:
        kept = "every value keeps 11 significant bits (bfloat16: 8); the cost in neighbours was not measured"
        yield suggest("half precision", "store float16", replace(job, dtype="float16"), params, kept)
    dims = 512 if d <= 4096 else 1024
    if params.reduce == "none" and d > dims:
        reduced = replace(params, reduce="pca", reduce_dims=dims)
        yield suggest("PCA", f"--reduce pca --reduce-dims {dims}", job, reduced, PCA_QUALITY, dims)
    if n >= 1000:
        fewer = n // SAMPLE_SHARE
        part = replace(sampled_job(job, fewer), n_nonzero=job.n_nonzero and job.n_nonzero // SAMPLE_SHARE)
        left_out = (
            "neighbours are of rows ten times as sparse; the others have no place, with --place-rest one among these"
        )
        yield suggest("sampling", f"--sample {fewer}", part, params, left_out)
    if not job.sparse and d >= 4 * ACTIVE:
        yield _pairs(job, params, machine)


def _pairs(job: Job, params: Params, machine: Machine) -> Suggestion:
    active = -(-job.n_nonzero // job.n_rows) if job.n_nonzero else ACTIVE
    pairs = replace(job, n_nonzero=job.n_rows * active, sparse=True)
    known = "none: nothing is lost"
    quality = known if job.n_nonzero else f"{known}, where no row has more than {active} values that are not zero"
    how = f"ActivationWriter(active={active})"
    return Suggestion(
        "TopK pairs",
        how,
        pairs.matrix_bytes,
        in_memory_needs(job, params),
        smallest_budget(pairs, params, machine),
        quality,
    )
