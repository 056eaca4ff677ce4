"""The systems that bench/layout.py compares: streamumap with any constants, umap-learn and cuML, each on one given graph."""

import argparse
import dataclasses
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from unittest import mock

import numpy as np
from layout_graph import Setup, our_start, settings

from streamumap.graph.files import WEIGHT_ONE
from streamumap.layout import epochs, schedule
from streamumap.layout.init import levels, pca


@dataclass(frozen=True)
class System:
    """`lay_out(start, seed, n_epochs)` returns positions, float32 (N, C). `constants` are those changed by --try.
    `start(seed, init)` returns first positions; None means ours."""

    name: str
    n_epochs: int
    lay_out: Callable[[np.ndarray, int, int], np.ndarray]
    constants: dict[str, float] = field(default_factory=dict)
    start: Callable[[int, str], np.ndarray] | None = None


def systems(setup: Setup, options: argparse.Namespace, cuml_umap) -> Iterator[System]:
    """Yields the systems one after the other, each already compiled."""
    n, device = setup.graph.n_rows, setup.data.plan.device
    small = np.zeros((n, 2), np.float32)
    for constants in [{}, *options.candidates]:
        with backend_with(constants, device) as backend:
            for dims in options.dims:
                ours(setup, backend, np.resize(small, (n, dims)), 0, 10, until=1)
            said = ", ".join(f"{name} {value:g}" for name, value in constants.items())
            for n_epochs in options.epochs or [schedule.DEFAULT_EPOCHS]:
                yield System(f"streamumap {said}".strip(), n_epochs, partial(ours, setup, backend), constants)
    if options.alone:
        return
    their_epochs = options.epochs or [500 if n <= 10_000 else 200]
    if device and cuml_umap:
        cuml(setup, cuml_umap, small, 0, 1)
        for n_epochs in their_epochs:
            yield System("cuML", n_epochs, partial(cuml, setup, cuml_umap))
    if importlib.util.find_spec("umap") is None:
        print("umap-learn is skipped: it is not installed")
        return
    umap_learn(setup, small, 0, 1)
    for n_epochs in their_epochs:
        if "own" in options.their_starts:
            yield System("umap-learn", n_epochs, partial(umap_learn, setup), start=partial(umap_learns_start, setup))
        if "ours" in options.their_starts:
            yield System("umap-learn, our start", n_epochs, partial(umap_learn, setup))


@contextmanager
def changed(constants: dict[str, float]) -> Iterator[None]:
    """Changes constants of schedule.py and levels.py inside the block. Exits for a name that neither has."""
    with ExitStack() as stack:
        for name, value in constants.items():
            holders = [module for module in (schedule, levels) if hasattr(module, name)]
            if not holders:
                sys.exit(f"--try: expected a constant of layout/schedule.py or layout/init/levels.py, found {name}")
            for module in holders:
                stack.enter_context(mock.patch.object(module, name, type(getattr(module, name))(value)))
        yield


@contextmanager
def backend_with(constants: dict[str, float], device: str | None) -> Iterator[epochs.Backend]:
    """The layout backend with other constants. numba freezes ATTRACTION when it compiles, and its cache does not notice a
    change, so the module is loaded a second time with its own cache."""
    with changed(constants):
        if device:
            from streamumap.layout import cuda

            with mock.patch.object(cuda, "ATTRACTION", schedule.ATTRACTION):
                yield epochs.cuda_backend(device)
        elif "ATTRACTION" in constants:
            from numba import config

            spec = importlib.util.find_spec("streamumap.layout.cpu")
            assert spec and spec.loader
            module = importlib.util.module_from_spec(spec)
            with tempfile.TemporaryDirectory() as cache, mock.patch.object(config, "CACHE_DIR", cache):
                spec.loader.exec_module(module)
                yield dataclasses.replace(epochs.cpu_backend(), epoch=module.epoch)
        else:
            yield epochs.cpu_backend()


def ours(
    setup: Setup, backend: epochs.Backend, start: np.ndarray, seed: int, n_epochs: int, until: int | None = None
) -> np.ndarray:
    """Our layout from `start`, up to epoch `until` (all epochs by default), float32 (N, C)."""
    block = setup.graph.block(0, setup.graph.n_rows)
    until = n_epochs if until is None else until
    return epochs.run(
        epochs.LayoutState(start), until, [lambda: block], settings(setup, seed, n_epochs), backend
    ).positions


def umap_learn(setup: Setup, start: np.ndarray, seed: int, n_epochs: int) -> np.ndarray:
    """umap-learn's loop on our graph, called as its simplicial_set_embedding does: without edges too light to fire, and
    moving both ends of an edge."""
    from umap.layouts import optimize_layout_euclidean
    from umap.umap_ import make_epochs_per_sample

    s, block = settings(setup, seed, n_epochs), setup.graph.block(0, setup.graph.n_rows)
    weights = block.weights.astype(np.float32) / WEIGHT_ONE
    kept = weights >= weights.max() / max(n_epochs, 1)
    head = np.repeat(np.arange(len(start), dtype=np.int32), np.diff(block.indptr))[kept]
    limits = np.iinfo(np.int32)
    state = np.random.RandomState(seed).randint(limits.min + 1, limits.max - 1, 3).astype(np.int64)
    positions = start.copy()
    return optimize_layout_euclidean(
        positions, positions, head, block.targets[kept], n_epochs, len(start), make_epochs_per_sample(weights[kept], n_epochs),
        s.a, s.b, state, s.repulsion_strength, s.learning_rate, s.negative_sample_rate, parallel=True, move_other=True,
    )  # fmt: skip


def umap_learns_start(setup: Setup, seed: int, init: str) -> np.ndarray:
    """First positions, float32 (N, 2), made and scaled to 0..10 as umap-learn's simplicial_set_embedding does."""
    import scipy.sparse
    from umap.spectral import spectral_layout

    n, random = setup.graph.n_rows, np.random.RandomState(seed)
    if init == "random":
        start = random.uniform(-10, 10, (n, 2))
    else:
        if init == "pca":
            start = our_start(setup, seed, init).astype(np.float64)
        else:
            block = setup.graph.block(0, n)
            weights = block.weights.astype(np.float32) / WEIGHT_ONE
            graph = scipy.sparse.csr_matrix((weights, block.targets, block.indptr), shape=(n, n))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about eigenvectors that do not converge
                start = spectral_layout(np.zeros((n, 1), np.float32), graph, 2, random)
        start = start * (10 / np.abs(start).max()) + random.normal(scale=1e-4, size=start.shape)
    return pca.given(start, seed)


def cuml(setup: Setup, umap, start: np.ndarray, seed: int, n_epochs: int) -> np.ndarray:
    """cuML's fuzzy graph and layout from our k-NN graph. It also wants rows but uses only their number, so it gets the
    start as rows."""
    p = setup.data.params
    model = umap(
        n_neighbors=p.n_neighbors, n_components=start.shape[1], n_epochs=n_epochs, min_dist=p.min_dist, spread=p.spread, init=start,
        precomputed_knn=(setup.indices.astype(np.int64), setup.distances), output_type="numpy",
    )  # fmt: skip
    return np.asarray(model.fit_transform(start))


def import_cuml(device: str):
    """Imports cuML's UMAP before torch loads its own CUDA libraries. Returns None on a CPU and, with a message, if cuML is
    missing."""
    if device == "cpu":
        return None
    try:
        from cuml.manifold import UMAP
    except ImportError as error:
        print(f"cuML is skipped: {error}")
        return None
    return UMAP
