"""Answer what a user asks beside a plan: what the same job needs elsewhere, which budget limits it, the smallest budget that
works, and how to make the job smaller. Pure integers, no input or output."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from streamumap.layout.sizes import cuml_bytes
from streamumap.machine.memory import NO_LIMIT, Budget, Machine
from streamumap.params import Params
from streamumap.planning.job import Job, Plan, sampled_job
from streamumap.planning.planner import make_plan, smallest_budget
from streamumap.planning.timing import Expected, expected_seconds, total_seconds

GB = 10**9

CARD_SIZES_GB = (16, 24, 32, 40, 48, 80, 96, 141, 192)

OVERHEAD = (2, 3)
"""Memory that a conventional UMAP takes beside its matrix, low and high, in matrices: a rule of thumb of those who run it."""

CUML_CONTEXT_BYTES = 1_200 * 10**6
CUML_GRAPH_BYTES = 656
"""Device bytes of cuML for a row, beside its values as float16. With CUML_CONTEXT_BYTES they give what cuML 26.10 was measured
to take, 4.6 GB at 500,000 x 3,072 and 21.6 GB at 3,000,000 x 3,072. Other widths were not measured."""

PCA_QUALITY = "512 of 3,072 dimensions keep 64% of the 15 nearest, 256 49%, 128 36% (measured on synthetic codes)"
"""Cost of PCA. The recall of a run says it too: it is measured among the rows as they came, not the reduced ones."""

SAMPLE_SHARE = 10
"""The suggested sample is one row of this many."""

ACTIVE = 32
"""Values of a row that are not zero, where nothing is known: k of common TopK SAEs."""


@dataclass(frozen=True)
class Cards:
    """A number of GPUs of one size."""

    count: int
    size_gb: int


@dataclass(frozen=True)
class InMemoryNeeds:
    """Bytes of a run that holds all rows in memory. Conventional, low to high: the matrix and 2 to 3 times as much beside it.
    cuML: a float32 copy on the host, and its larger stage on the device."""

    low_bytes: int
    high_bytes: int
    cuml_host_bytes: int
    cuml_device_bytes: int


@dataclass(frozen=True)
class Suggestion:
    """One way to make the job smaller, with the bytes that the job would then have. `quality`: what is known of its cost."""

    name: str
    how: str
    matrix_bytes: int
    in_memory: InMemoryNeeds
    smallest: Budget
    quality: str


@dataclass(frozen=True, kw_only=True)
class Outlook(Plan):
    """A plan and what a user asks beside it. `binding`: for each option, the stages that get larger blocks if it is raised.
    `seconds`: for each stage that was measured on a machine like this one. `chosen`: what the rows are, where the input holds more."""

    in_memory: InMemoryNeeds
    smallest: Budget
    binding: dict[str, tuple[str, ...]]
    seconds: dict[str, Expected]
    suggestions: tuple[Suggestion, ...]
    chosen: str | None = None

    @property
    def levers(self) -> tuple[Suggestion, ...]:
        """`suggestions` by the name that version 0.1 and `plan --json` give them."""
        return self.suggestions


def outlook(job: Job, params: Params, budget: Budget, machine: Machine) -> Outlook:
    """Plan a job and add what a user asks beside the plan. Raises DoesNotFit as `make_plan` does."""
    plan = make_plan(job, params, budget, machine)
    return Outlook(
        plan.job, plan.budget, plan.machine, plan.stages, plan.as_csr, plan.csr_on_disk,
        in_memory=in_memory_needs(job, params), smallest=smallest_budget(job, params, machine), binding=_binding(plan, params),
        seconds=expected_seconds(plan, params), suggestions=tuple(_suggestions(job, params, machine)),
    )  # fmt: skip


def in_memory_needs(job: Job, params: Params) -> InMemoryNeeds:
    """Count the bytes of a run elsewhere. No one else takes pairs: rows are counted with their zeros."""
    n, d = job.n_rows, job.n_features
    dense_bytes, width = n * d * job.itemsize, min(d, params.reduce_dims) if params.reduce != "none" else d
    searching = n * (width * 2 + CUML_GRAPH_BYTES)
    on_device = CUML_CONTEXT_BYTES + max(searching, cuml_bytes(n, params.n_neighbors))
    low, high = (dense_bytes * (1 + share) for share in OVERHEAD)
    return InMemoryNeeds(low, high, n * d * 4, on_device)


def cards(n_bytes: int) -> tuple[Cards, ...]:
    """Return, for each size of GPU, the number of cards that have `n_bytes` together."""
    return tuple(Cards(-(-n_bytes // (size * GB)), size) for size in CARD_SIZES_GB)


def fewest_cards(n_bytes: int) -> tuple[Cards, ...]:
    """Return `cards` with only the smallest size for each number, the fewest first."""
    least: dict[int, Cards] = {}
    for option in cards(n_bytes):
        least.setdefault(option.count, option)
    return tuple(least[count] for count in sorted(least))


def as_json(plan: Outlook) -> dict:
    """Return the outlook as JSON for programs, with the cards that hold a conventional run, and the device part of cuML's. A
    `host_bytes` of the budget of None: no limit."""
    memory, device = plan.in_memory, plan.machine.device
    sizes = {"low": memory.low_bytes, "high": memory.high_bytes, "cuml": memory.cuml_device_bytes}
    values = asdict(plan)
    return {
        "array": plan.chosen,
        "job": values["job"] | {"matrix_bytes": plan.job.matrix_bytes},
        "device": device
        and {"name": device.name, "total_bytes": device.total_bytes or None, "elsewhere": device.elsewhere},
        "budget": values["budget"] | ({} if plan.budget.limits_host else {"host_bytes": None}),
        "peak": asdict(plan.peak),
        "in_memory": values["in_memory"]
        | {"cards": {name: [asdict(c) for c in cards(n)] for name, n in sizes.items()}},
        "stages": [
            stage | {"expected": values["seconds"].get(stage["name"]), "bound_by": _bound_by(plan, stage["name"])}
            for stage in values["stages"]
        ],
        "seconds": total_seconds(plan, plan.seconds),
        "smallest_budget": values["smallest"],
        "levers": values["suggestions"],
    }


def _bound_by(plan: Outlook, stage: str) -> list[str]:
    return [option for option, stages in plan.binding.items() if stage in stages]


def _binding(plan: Plan, params: Params) -> dict[str, tuple[str, ...]]:
    """Find, for each budget option, the stages that are planned otherwise without that limit."""
    budget = plan.budget
    wider = {budget.host_option: replace(budget, host_bytes=NO_LIMIT)} if budget.limits_host else {}
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
    """List the suggestions that change something for this job."""

    def suggest(name: str, how: str, job: Job, params: Params, quality: str, width: int | None = None) -> Suggestion:
        dense = replace(job, n_features=width or job.n_features, dtype="float32" if width else job.dtype)
        matrix_bytes = job.n_rows * width * 4 if width else job.matrix_bytes
        needs = in_memory_needs(dense, params)
        return Suggestion(name, how, matrix_bytes, needs, smallest_budget(job, params, machine), quality)

    n, d = job.n_rows, job.n_features
    if job.itemsize > 2:
        cost = "every value keeps 11 significant bits (bfloat16: 8); the cost in neighbours was not measured"
        yield suggest("half precision", "store float16", replace(job, dtype="float16"), params, cost)
    dims = 512 if d <= 4096 else 1024
    if params.reduce == "none" and d > dims:
        reduced = replace(params, reduce="pca", reduce_dims=dims)
        yield suggest("PCA", f"--reduce pca --reduce-dims {dims}", job, reduced, PCA_QUALITY, dims)
    if n >= 1000:
        size = n // SAMPLE_SHARE
        sample = replace(sampled_job(job, size), n_nonzero=job.n_nonzero and job.n_nonzero // SAMPLE_SHARE)
        cost = "neighbours come from a tenth of the rows; the others get no position, or one with --place-rest"
        yield suggest("sampling", f"--sample {size}", sample, params, cost)
    if not job.sparse and d >= 4 * ACTIVE:
        yield _suggest_pairs(job, params, machine)


def _suggest_pairs(job: Job, params: Params, machine: Machine) -> Suggestion:
    active = -(-job.n_nonzero // job.n_rows) if job.n_nonzero else ACTIVE
    pairs = replace(job, n_nonzero=job.n_rows * active, sparse=True)
    cost = "none: nothing is lost"
    if not job.n_nonzero:
        cost += f", where no row has more than {active} values that are not zero"
    needs, smallest = in_memory_needs(job, params), smallest_budget(pairs, params, machine)
    return Suggestion("TopK pairs", f"ActivationWriter(active={active})", pairs.matrix_bytes, needs, smallest, cost)
