"""Block sizes and bytes of each stage: its own formula, added to what stays in memory meanwhile."""

import os
from collections.abc import Callable, Iterable

from streamumap.errors import InputError
from streamumap.graph import footprint as graph_footprint
from streamumap.initial import OVERSAMPLING, SAMPLE_ROWS
from streamumap.layout.footprint import TOP, cuml_bytes, layout_bytes, start_bytes
from streamumap.memory import Budget, Device, Footprint, Machine
from streamumap.neighbors import footprint as knn
from streamumap.neighbors import packed_footprint as packed
from streamumap.params import Params
from streamumap.plans import QUALITY_NEIGHBORS, QUALITY_ROWS, Job, StagePlan
from streamumap.sae import footprint as encoding
from streamumap.source.base import DEVICE_DTYPES

LIBRARIES_BYTES = 200 * 10**6
"""RssAnon of numba with its compiler, scipy, pyarrow and matplotlib, on a first run."""

TORCH_HOST_BYTES = 1_500 * 10**6
"""RssAnon of torch with CUDA."""

CONTEXT_BYTES = 1_100 * 2**20
"""Device memory of a process with torch's modules, cuBLAS and its workspaces, and Triton, before any array."""

PARQUET_BYTES = 8 + 1 + 8
"""Of a row of embedding.parquet beside its position."""

PICTURE_BYTES = 4 << 20
"""On disk, of map.png and what else does not grow with the rows."""

POOL_SHARE = 0.05
"""What torch's pool loses to rounding, as a share of the arrays."""


TINY = "STREAMUMAP_FORCE_TINY_BUDGET"
"""Set to 1, every plan is the one of the smallest budget: what depends on where blocks end shows on small inputs."""

TINY_ROWS = 32


def tiny() -> bool:
    return os.environ.get(TINY) == "1"


def powers(largest: int, smallest: int) -> list[int]:
    """largest and the powers of two below it down to smallest, descending."""
    out = [largest]
    power = 1 << max(largest - 1, 1).bit_length()
    while power > smallest:
        power //= 2
        if smallest <= power < largest:
            out.append(power)
    return out


Bytes = Callable[[int], int]


class StagePlanner:
    """Adds up stage after stage; `missing` collects what does not fit."""

    def __init__(self, job: Job, params: Params, budget: Budget, machine: Machine, packed_on_disk: bool):
        self.job, self.params, self.budget, self.machine = job, params, budget, machine
        self.original = job
        self.gpu: Device | None = machine.device
        self.missing: list[tuple[str, int]] = []
        self.packs, self.packed_on_disk = job.n_nonzero is not None, packed_on_disk
        self.device_base = 0
        self.host_base = LIBRARIES_BYTES + (TORCH_HOST_BYTES if self.gpu else 0)
        point_bytes = params.n_components * 4
        row_bytes = params.n_neighbors * 8 + 3 * point_bytes + PARQUET_BYTES  # the graph; map, checkpoint, table
        self.disk = self.kept_bytes = job.copied_bytes + (job.n_rows + job.n_left_out) * row_bytes + PICTURE_BYTES

    def stages(self) -> list[StagePlan]:
        out = [self._read()]
        if self.params.reduce != "none":
            out.append(self._reduce())
        neighbors = self._neighbors()
        out += [
            neighbors,
            self._graph(),
            self._start(),
            self._layout(),
            self._quality(neighbors.blocks.get("cell_rows", min(self.job.n_rows, 4096))),
            self._write(),
        ]
        return out

    def _solve(self, name, backend, block, sizes: Iterable[int], host: Bytes, device: Bytes | None = None) -> StagePlan:
        """`_fit` where one block size is free; `host` and `device` are functions of it."""
        on_device = None if device is None else (lambda shape: device(shape[block]))
        return self._fit(name, backend, [{block: size} for size in sizes], lambda shape: host(shape[block]), on_device)

    def _fit(self, name, backend, shapes: list[dict[str, int]], host, device=None) -> StagePlan:
        """The first of `shapes` (block sizes, the largest first) that fits both budgets; the last where none does, and
        what it would need."""
        for shape in shapes[-1:] if tiny() else shapes:
            need_host = self.host_base + host(shape)
            arrays = device(shape) if device is not None else 0
            need_device = max(self.device_base, CONTEXT_BYTES + int(arrays * (1 + POOL_SHARE)) if arrays else 0)
            host_fits = need_host <= self.budget.host_bytes
            device_fits = self.budget.device_bytes is None or need_device <= self.budget.device_bytes
            if host_fits and device_fits:
                break
        else:
            if not host_fits:
                self.missing.append(("host", need_host))
            if not device_fits:
                self.missing.append(("device", need_device))
        if need_device:
            self.device_base = CONTEXT_BYTES
        return StagePlan(name, backend, shape, Footprint(need_host, need_device, self.disk))

    def _read(self) -> StagePlan:
        from streamumap.source.scan import device_scan_footprint

        job = self.job
        on_device = self.gpu is not None and job.dtype in DEVICE_DTYPES and not job.sparse
        block_bytes = (64 if on_device else 32) * 2**20
        sizes = powers(max(1, min(job.n_rows, block_bytes // max(job.n_features * job.itemsize, 1))), 1)
        encodes = self.gpu is not None and bool(job.raw_features)

        def scanning(block_rows: int) -> tuple[int, int]:
            if on_device:
                sizes = job.n_rows, job.n_features, job.itemsize, job.n_nonzero
                return device_scan_footprint(*sizes, block_rows)
            return self._scanning(block_rows), encoding.cuda(job.raw_features, job.n_features) if encodes else 0

        stage = self._solve(
            "read", "cuda" if on_device else "numpy", "block_rows", sizes,
            lambda b: max(scanning(b)[0] + self._packing(b), self._encoding()),
            (lambda b: scanning(b)[1]) if on_device or encodes else None,
        )  # fmt: skip
        self.host_base += job.n_rows * 9 + self._packed_bytes()
        return stage

    def _scanning(self, block_rows) -> int:
        from streamumap.source.scan import pairs_scan_footprint, scan_footprint

        job = self.job
        if job.sparse:
            return pairs_scan_footprint(job.n_rows, job.n_features)
        return scan_footprint(job.n_rows, job.n_features, job.itemsize, block_rows)

    def _encoding(self) -> int:
        job = self.job
        if not job.raw_features:
            return 0
        return (encoding.cuda_host if self.gpu else encoding.cpu)(job.n_rows, job.raw_features, job.n_features)

    def _packing(self, block_rows) -> int:
        block_bytes = 0 if self.job.sparse else block_rows * self.job.n_features * self.job.itemsize
        return self._packed_bytes() + block_bytes

    def _packed_bytes(self) -> int:
        """Of the packed rows that stay in memory."""
        job = self.job
        if job.n_nonzero is None:
            return 0
        from streamumap.source.packed import packed_footprint

        host, disk = packed_footprint(
            job.n_rows, job.n_features, job.n_nonzero, job.itemsize, on_disk=self.packed_on_disk
        )
        self.disk = max(self.disk, disk + self.kept_bytes)
        return host

    def _reduce(self) -> StagePlan:
        from streamumap import reduce

        job, dims = self.job, min(self.params.reduce_dims, self.job.n_features, self.job.n_rows)
        sizes = powers(max(1, min(job.n_rows, 8192)), 16)
        self.disk += job.n_rows * dims * 4
        stage = self._solve(
            "reduce", "cuda" if self.gpu else "numpy", "block_rows", sizes,
            lambda b: reduce.footprint(job.n_features, dims, b) + b * job.n_features * 8,
            (lambda b: reduce.device_footprint(job.n_features, dims, b, 4)) if self.gpu else None,
        )  # fmt: skip
        self.job = Job(job.n_rows, dims, "float32")
        return stage

    def _neighbors(self) -> StagePlan:
        ways = {
            "given": self._neighbors_given,
            "packed": self._neighbors_packed,
            "dense": self._neighbors_dense,
            "cuda": self._neighbors_cuda,
            "cuvs": self._neighbors_cuvs,
        }
        return ways[self._neighbors_backend()]()

    def _neighbors_backend(self) -> str:
        """Rows of which the zeros are not counted yet are planned as dense, whatever is asked for."""
        wanted = self.params.neighbors
        if self.job.knn_columns:
            return "given"
        if wanted in ("cuda", "cuvs") and not self.gpu:
            raise InputError(
                f"--neighbors: {wanted} needs a GPU and this is a CPU run; use --neighbors auto or --device cuda."
            )
        if wanted in ("packed", "dense") and self.gpu:
            raise InputError(
                f"--neighbors: {wanted} searches on the CPU and this is a GPU run; use --neighbors auto or --device cpu."
            )
        if self.gpu:
            return "cuvs" if wanted == "cuvs" else "cuda"
        return "packed" if self.packs else "dense"

    def _neighbors_given(self) -> StagePlan:
        """Nothing is searched: the graph is copied, and its recall measured."""
        job, k = self.job, self.params.n_neighbors
        return self._solve(
            "neighbors", "given", "block_rows", powers(min(job.n_rows, 16_384), min(job.n_rows, 64)),
            lambda b: max(knn.given(job.knn_columns, job.n_features, k, b), self._ranking(k - 1, b)),
            (lambda b: self._device_rows() + self._counting(k - 1, b)) if self.gpu else None,
        )  # fmt: skip

    def _neighbors_packed(self) -> StagePlan:
        """By cells where there are enough rows and they fit, else all with all."""
        job, k, threads = self.job, self.params.n_neighbors, self.machine.n_cores
        n_nonzero = job.n_nonzero or 0
        exhaustive = self.params.recall >= 1 or job.n_rows <= packed.EXHAUSTIVE_ROWS
        shapes = [
            {"query_rows": query, "batch_rows": batch}
            for batch in ([0] if exhaustive else [packed.BATCH_ROWS, 0])
            for query in powers(min(job.n_rows, 8192), 64)
        ]

        def host(shape: dict[str, int]) -> int:
            return packed.search(
                job.n_rows, job.n_features, n_nonzero, k, **shape, n_sample=QUALITY_ROWS, n_threads=threads
            )

        stage = self._fit("neighbors", "packed", shapes, host)
        if stage.blocks["batch_rows"]:
            self.host_base += packed.COMPILED_BYTES
        return stage

    def _neighbors_dense(self) -> StagePlan:
        """The graph found so far is measured in between, by blocks of no more rows than a cell has."""
        job, k, threads = self.job, self.params.n_neighbors, self.machine.n_cores
        n, d = job.n_rows, job.n_features
        least = min(n, knn.dense_least_rows(k))
        return self._solve(
            "neighbors", "dense", "cell_rows", [*powers(min(n, 4096), least), least],
            lambda b: max(knn.dense(n, d, job.itemsize, k, b, threads), knn.dense_held(n, d, k, b) + self._counting_dense(k - 1, b)),
        )  # fmt: skip

    def _counting_dense(self, n_others, block_rows) -> int:
        """Ranks are counted in the rows as they came, reduced or not."""
        rows = self.original
        return knn.dense_count_closer(
            min(QUALITY_ROWS, rows.n_rows), n_others, rows.n_features, rows.itemsize, block_rows
        )

    def _ranking(self, n_others, block_rows) -> int:
        """Host bytes of `backends.count_closer`."""
        job = self.job
        if self.gpu:
            return 2 * block_rows * self.original.n_features * self.original.itemsize
        if job.n_nonzero is None:
            return self._counting_dense(n_others, block_rows)
        return packed.count_closer(job.n_rows, job.n_nonzero, QUALITY_ROWS, n_others, block_rows, self.machine.n_cores)

    def _counting(self, n_others, block_rows) -> int:
        size = min(QUALITY_ROWS, self.job.n_rows)
        if self.packs:
            return knn.count_closer_packed(size, n_others, block_rows)
        return knn.count_closer(size, n_others, self.original.n_features, block_rows)

    def _neighbors_cuda(self) -> StagePlan:
        """All rows on the device where they fit, else as many query rows as do. What is approximate may end with all with
        all, so both are counted."""
        job, k = self.job, self.params.n_neighbors
        approximate = not knn.cuda_is_exhaustive(job.n_rows, job.n_features, k, self.params.recall)
        shapes = [
            {"query_rows": query, "other_rows": other, "chunk_rows": other if approximate else 0}
            for query in powers(min(job.n_rows, 131_072) if self.packs else job.n_rows, min(job.n_rows, 2_048))
            for other in (65_536, 16_384, 4_096, 1_024)
        ]

        def host(shape: dict[str, int]) -> int:
            staged = 0 if self.packs else shape["other_rows"]
            return knn.cuda_host(job.n_rows, job.n_features, knn.cuda_itemsize(job.dtype), k, staged)

        def device(shape: dict[str, int]) -> int:
            query, other = shape["query_rows"], shape["other_rows"]
            search = knn.cuda_device(job.n_features, job.dtype, k, query, other, resident=query == job.n_rows)
            if approximate:
                blocks = shape["chunk_rows"], query, other
                way = knn.cuda_approximate(job.n_rows, job.n_features, k, job.dtype, self.packs, *blocks)
                search = max(search, way)
            return self._device_rows() + max(search, self._counting(k - 1, other))

        return self._fit("neighbors", "cuda", shapes, host, device)

    def _neighbors_cuvs(self) -> StagePlan:
        """cuVS first, which wants all rows on both sides; then its neighbours are measured."""
        job, k = self.job, self.params.n_neighbors
        n, d = job.n_rows, job.n_features
        shapes = [
            {"query_rows": query, "other_rows": other}
            for query in powers(min(n, 131_072) if self.packs else n, min(n, 2_048))
            for other in (65_536, 16_384, 4_096, 1_024)
        ]

        def host(shape: dict[str, int]) -> int:
            staged = 0 if self.packs else 2 * min(shape["other_rows"], n) * d * knn.cuda_itemsize(job.dtype)
            return knn.cuvs_host(n, d, k) + staged

        def device(shape: dict[str, int]) -> int:
            blocks = shape["query_rows"], shape["other_rows"]
            measuring = knn.cuvs_measuring(n, d, k, job.dtype, self.packs, *blocks)
            counting = self._counting(k - 1, shape["other_rows"])
            return max(knn.cuvs_device(n, d, k), self._device_rows() + max(measuring, counting))

        return self._fit("neighbors", "cuvs", shapes, host, device)

    def _device_rows(self) -> int:
        """Of packed rows that stay on the device."""
        job = self.job
        if job.n_nonzero is None:
            return 0
        return knn.cuda_packed_rows(job.n_rows, job.n_features, job.n_nonzero, job.dtype)

    def _graph(self) -> StagePlan:
        n, k = self.job.n_rows, self.params.n_neighbors
        self.disk += graph_footprint.disk_bytes(n, k)
        if self.gpu:
            return self._solve(
                "graph", "cuda", "block_edges", powers(min(2 * n * k, graph_footprint.MOST_EDGES), min(2 * n * k, n)),
                lambda b: graph_footprint.cuda_host(n, k, b), lambda b: graph_footprint.cuda(n, k, b),
            )  # fmt: skip
        return self._solve(
            "graph", "numba", "block_rows", powers(n, min(n, 4096)), lambda b: graph_footprint.build(n, k, b)
        )

    def _start(self) -> StagePlan:
        """PCA: the sample and its centred copy; while all rows are projected, a block for each core."""
        job = self.job
        if self.params.init == "auto" and job.n_rows > 2 * TOP:
            return self._start_levels()
        if self.params.init not in ("auto", "pca"):
            return self._start_without_rows()
        per_row = job.n_features * 4 if job.n_nonzero is None else int(job.n_nonzero / job.n_rows * 8 * knn.UNEVEN) + 8
        fixed = job.n_features * 40 * 8 + job.n_rows * self.params.n_components * 24
        dense_row = job.n_features * 4
        block_rows = max(1, min(job.n_rows, 128 * 2**20 // dense_row if self.gpu else 16 * 2**20 // per_row))
        if tiny():
            block_rows = min(block_rows, TINY_ROWS)
        sizes = powers(min(job.n_rows, SAMPLE_ROWS), min(job.n_rows, 256))
        if self.gpu:
            on_device = block_rows * (3 * job.n_features * knn.cuda_itemsize(job.dtype) + dense_row)
            pinned = 0 if self.packs else 2 * block_rows * job.n_features * job.itemsize
            stage = self._solve(
                "start",
                "cuda",
                "sample_rows",
                sizes,
                lambda b: fixed + int(b * per_row * 2.5) + pinned,
                lambda b: self._device_rows() + on_device,
            )
        else:
            blocks = self.machine.n_cores * block_rows * per_row * 3
            stage = self._solve(
                "start", "numpy", "sample_rows", sizes, lambda b: fixed + max(int(b * per_row * 2.5), blocks)
            )
        stage.blocks["block_rows"] = block_rows
        return stage

    def _start_levels(self) -> StagePlan:
        """Multilevel; `sample_rows` at a time, the rows that the coarsest level stands for come for their PCA."""
        job, c, on_device = self.job, self.params.n_components, self.gpu and self.params.layout != "cpu"
        per_row = job.n_features * 4 if job.n_nonzero is None else int(job.n_nonzero / job.n_rows * 8 * knn.UNEVEN) + 8
        shapes = [
            {"block_rows": block_rows, "sample_rows": sample_rows}
            for sample_rows in powers(2 * TOP, 256)
            for block_rows in powers(job.n_rows, min(job.n_rows, 1024))
        ]

        def levels(block_rows: int) -> int:
            return start_bytes(job.n_rows, c, block_rows, 2 * job.n_rows * (self.params.n_neighbors - 1))

        def host(shape: dict[str, int]) -> int:
            """Where a device does the work: seeds, cells and positions on their way, and a block."""
            top = int(shape["sample_rows"] * per_row * 2.5) + (job.n_features * 40 + 2 * TOP * c * 3) * 8
            at_hand = levels(shape["block_rows"])
            return top + (job.n_rows * (24 + 2 * c * 4) + at_hand - levels(0) if on_device else at_hand)

        device = (lambda shape: levels(shape["block_rows"])) if on_device else None
        return self._fit("start", "cuda" if on_device else "numba", shapes, host, device)

    def _start_without_rows(self) -> StagePlan:
        """Random or given positions; spectral: the whole graph as a scipy matrix, and five sets of float64 vectors."""
        n, c = self.job.n_rows, self.params.n_components
        positions = n * c * 24
        if self.params.init == "spectral":
            positions += 2 * n * (self.params.n_neighbors - 1) * (4 + 2 + 4 + 4) + n * (c + OVERSAMPLING) * 8 * 5
        return self._solve("start", "numpy", "block_rows", [n], lambda b: positions)

    def _layout(self) -> StagePlan:
        n, c, k = self.job.n_rows, self.params.n_components, self.params.n_neighbors
        backend = self.params.layout
        if backend == "auto":
            backend = "cuda" if self.gpu else "cpu"
        if backend != "cpu" and not self.gpu:
            raise InputError(
                f"--layout: {backend} needs a GPU and this is a CPU run; use --layout cpu or --device cuda."
            )
        if backend == "cuml":
            return self._solve(
                "layout", "cuml", "block_rows", [n], lambda b: n * (k * 8 + c * 12), lambda b: cuml_bytes(n, k)
            )
        edges = 2 * n * (k - 1)

        def needed(block_rows: int) -> int:
            return layout_bytes(n, c, block_rows, edges)

        return self._solve(
            "layout",
            backend,
            "block_rows",
            powers(n, min(n, 1024)),
            needed,
            needed if backend == "cuda" else lambda b: 0,
        )

    def _quality(self, cell_rows: int) -> StagePlan:
        """`cell_rows`: of dense neighbours on a CPU."""
        job, c = self.job, self.params.n_components
        tree = job.n_rows * (c * 16 + 40)
        if self.gpu:
            return self._solve(
                "quality", "cuda", "block_rows", powers(min(job.n_rows, 16_384), 256),
                lambda b: tree + self._ranking(QUALITY_NEIGHBORS, b), lambda b: self._device_rows() + self._counting(QUALITY_NEIGHBORS, b),
            )  # fmt: skip
        sizes = powers(cell_rows, min(cell_rows, 64)) if job.n_nonzero is None else powers(min(job.n_rows, 65_536), 256)
        return self._solve(
            "quality", "dense" if job.n_nonzero is None else "packed", "block_rows", sizes,
            lambda b: tree + self._ranking(QUALITY_NEIGHBORS, b),
        )  # fmt: skip

    def _write(self) -> StagePlan:
        n, c = self.original.n_rows + self.original.n_left_out, self.params.n_components
        return self._solve("write", "pyarrow", "size_px", [1600, 800, 400], lambda b: n * (c * 4 + 40) + 165 * b * b)
