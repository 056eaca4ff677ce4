"""What is measured of the map, and its files."""

from streamumap.neighbors import footprint as knn
from streamumap.plans import QUALITY_NEIGHBORS, QUALITY_ROWS, StagePlan
from streamumap.stage_plans.fitting import Fitting, powers
from streamumap.stage_plans.fixed import WRITING_BYTES
from streamumap.stage_plans.neighbors import counting, device_rows, ranking


def quality(f: Fitting, cell_rows: int) -> StagePlan:
    """`cell_rows`: of dense neighbours on a CPU."""
    job, c = f.job, f.params.n_components
    if f.gpu:
        points = job.n_rows * c * 4 * 5  # the map, and what its outliers are counted with
        size = min(QUALITY_ROWS, job.n_rows)
        return f.solve(
            "quality", "cuda", "block_rows", powers(min(job.n_rows, 16_384), 256), lambda b: points + ranking(f, QUALITY_NEIGHBORS, b),
            lambda b: max(device_rows(f) + counting(f, QUALITY_NEIGHBORS, b), knn.nearest_points(size, QUALITY_NEIGHBORS, b)),
        )  # fmt: skip
    tree = job.n_rows * (c * 16 + 40)
    sizes = powers(cell_rows, min(cell_rows, 64)) if job.n_nonzero is None else powers(min(job.n_rows, 65_536), 256)
    return f.solve(
        "quality", "dense" if job.n_nonzero is None else "packed", "block_rows", sizes,
        lambda b: tree + ranking(f, QUALITY_NEIGHBORS, b),
    )  # fmt: skip


def write(f: Fitting) -> StagePlan:
    job, c = f.original, f.params.n_components
    n = job.placed.n_rows if job.mapped and job.placed else job.n_rows + job.n_left_out
    libraries = 0 if f.gpu else WRITING_BYTES
    return f.solve("write", "pyarrow", "size_px", [1600, 800, 400], lambda b: libraries + n * (c * 4 + 52) + 60 * b * b)
