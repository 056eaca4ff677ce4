"""StreamUMAP: the scikit-learn estimator."""

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from streamumap.engine import embed
from streamumap.errors import InputError
from streamumap.events import Event, Listener, Note
from streamumap.params import Params
from streamumap.request import Request
from streamumap.run.finished import finished_map
from streamumap.source import Reading, open_source
from streamumap.source.views.row_selection import RowSelection
from streamumap.transform import transform


class StreamUMAP(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """UMAP of rows that need not fit in memory, with umap-learn's parameter names.

    Parameters are those of `params.Params` (`random_state` is its seed), and:

    budget, host_budget : sizes such as "40GB", or None for 80% of what is free. Hard caps, see the README.
    device : "auto", "cpu", "cuda" or "cuda:N".
    out : folder of the run, kept and continued; None: a temporary one, removed.
    init : a name or a path, see `params.Params`; or float (N, n_components), a position for each row, scaled and shaken as umap-learn does.
    dtype : "bfloat16" where the input keeps it as V2, uint16 or int16.
    precomputed_knn : a k-NN graph to use instead of searching for one: (indices, distances), each the path of a .npy
        file, an array or a memory map with a row for each row of X.

    Attributes after `fit`: `embedding_` float32 (N, n_components), `run_` the content of run.json, `n_features_in_`.
    """

    def __init__(
        self,
        n_neighbors=15,
        n_components=2,
        metric="euclidean",
        n_epochs=None,
        learning_rate=1.0,
        init="auto",
        min_dist=0.1,
        spread=1.0,
        set_op_mix_ratio=1.0,
        local_connectivity=1.0,
        repulsion_strength=1.0,
        negative_sample_rate=5,
        random_state=42,
        *,
        neighbors="auto",
        layout="auto",
        reduce="none",
        reduce_dims=512,
        recall=0.95,
        budget=None,
        host_budget=None,
        device="auto",
        out=None,
        dtype=None,
        precomputed_knn=None,
    ):
        self.n_neighbors = n_neighbors
        self.n_components = n_components
        self.metric = metric
        self.n_epochs = n_epochs
        self.learning_rate = learning_rate
        self.init = init
        self.min_dist = min_dist
        self.spread = spread
        self.set_op_mix_ratio = set_op_mix_ratio
        self.local_connectivity = local_connectivity
        self.repulsion_strength = repulsion_strength
        self.negative_sample_rate = negative_sample_rate
        self.random_state = random_state
        self.neighbors = neighbors
        self.layout = layout
        self.reduce = reduce
        self.reduce_dims = reduce_dims
        self.recall = recall
        self.budget = budget
        self.host_budget = host_budget
        self.device = device
        self.out = out
        self.dtype = dtype
        self.precomputed_knn = precomputed_knn

    def fit(self, X, y=None):
        """X: a path, a 2-D array, a `scipy.sparse` matrix in CSR form, TopK pairs (indices, values, n_features), or an iterable
        of blocks of rows; see
        `source.open_source`. Raises the errors of `streamumap.errors`; what a run warns of (`run_["warnings"]`) is a
        UserWarning."""
        if self.out is not None:
            return self._fit(X, Path(self.out))
        with tempfile.TemporaryDirectory(prefix="streamumap-") as folder:
            return self._fit(X, Path(folder) / "run")

    def fit_transform(self, X, y=None, **_):
        """Fits the map of X's rows and returns it: float32 (N, n_components)."""
        return self.fit(X, y).embedding_

    def transform(self, X):
        """Positions of new rows on the map, which does not change: float32 (M, n_components), NaN for a row that has no neighbour on it.
        X: rows as for `fit`, with the same features; they do not influence each other.

        The rows of `fit` are read again, from their path or from the array in memory; a pickle holds no data, so a model fitted on an
        array cannot transform after unpickling. With `reduce`, `out` must be given. Raises the errors of `streamumap.errors`."""
        check_is_fitted(self)
        with tempfile.TemporaryDirectory(prefix="streamumap-") as folder, closing(self._finished()) as finished:
            out = Path(folder) / "placed"
            with _as_warnings() as listener:
                request = replace(self._request(X, finished.params), reading=None)  # as X was in fit
                transform(finished, request, out, listener=listener)
            return np.load(out / "embedding.npy")

    def __getstate__(self):
        state = dict(super().__getstate__())
        given = state.pop("_given", None)
        return state | ({"_given": given} if isinstance(given, (str, os.PathLike)) else {})

    def _finished(self):
        """The fitted map with its rows, opened."""
        given = getattr(self, "_given", None)
        if given is None:
            raise InputError(
                "transform: expected the rows that the model was fitted on, found none: a pickle holds no data, and blocks pass "
                "once; fit it on a path."
            )
        folder = None if self.out is None else Path(self.out)
        kept = RowSelection(len(self.embedding_))
        source = open_source(given, Reading(self.dtype))
        return finished_map("the fitted map", source, kept, self.embedding_, self.run_, folder)

    def _fit(self, X, out):
        with tempfile.TemporaryDirectory(prefix="streamumap-") as folder, _as_warnings() as listener:
            params = self._params(_as_path(self.init, Path(folder)))
            self.run_ = embed(replace(self._request(X, params), knn=self._knn()), out, listener=listener)
        self.embedding_ = np.load(out / "embedding.npy")
        self.n_features_in_ = self.run_["input"]["features"]
        self._given = None if _passes_once(X) else X
        return self

    def _request(self, X, params: Params) -> Request:
        return Request(X, params, self.budget, self.host_budget, self.device, Reading(self.dtype))

    def _knn(self):
        """The given k-NN graph; a tuple of None, which is umap-learn's default, means that there is none."""
        given = self.precomputed_knn
        return None if isinstance(given, tuple) and all(part is None for part in given) else given

    def _params(self, init: str) -> Params:
        own = {"budget", "host_budget", "device", "out", "dtype", "random_state", "precomputed_knn"}
        if not isinstance(self.random_state, (int, np.integer)):
            raise InputError(
                f"random_state: expected an integer, found {self.random_state!r}; give one, the map is then the same every time."
            )
        values = {name: value for name, value in self.get_params().items() if name not in own} | {"init": init}
        return Params(
            seed=int(self.random_state), **{n: v.item() if isinstance(v, np.generic) else v for n, v in values.items()}
        )

    @property
    def _n_features_out(self):
        return self.embedding_.shape[1]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.sparse = True
        return tags


def _as_path(init, folder: Path) -> str:
    """`init` as `Params` takes it: an array becomes a file in the folder. Raises InputError where it is neither a name nor positions."""
    if isinstance(init, (str, os.PathLike)):
        return os.fspath(init)
    try:
        positions = np.asarray(init, np.float64)
    except (TypeError, ValueError):
        positions = np.empty(0)
    if positions.ndim != 2:
        raise InputError(
            f'init: expected a name, a path or an array with a position for each row, found {type(init).__name__}; give "auto" or '
            "numbers (rows, n_components)."
        )
    np.save(folder / "init.npy", positions)
    return str(folder / "init.npy")


@contextmanager
def _as_warnings() -> Iterator[Listener]:
    """Yields a listener that turns warnings into UserWarnings at the end, each once, at the line that called the model."""
    texts: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Note) and event.level == "warning":
            texts.append(event.text)

    try:
        yield listen
    finally:
        for text in dict.fromkeys(texts):
            warnings.warn(text, UserWarning, stacklevel=_callers_level())


def _callers_level() -> int:
    """The stack level of the first caller outside this package and scikit-learn, which wraps methods."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in (
        "streamumap",
        "sklearn",
        "contextlib",
    ):
        level, frame = level + 1, frame.f_back
    return level


def _passes_once(x) -> bool:
    """True for an iterator of blocks, which cannot be read twice."""
    return isinstance(x, Iterator)
