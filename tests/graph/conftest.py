import pytest
from graph_checks import BACKENDS


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture
def built_by(as_file, create):
    """Returns built_by(backend, (indices, distances), ...), which gives a graph and the sizes of its components."""

    def make(backend, knn, block_rows=100, local_connectivity=1.0, set_op_mix_ratio=1.0, **more):
        return BACKENDS[backend](
            *map(as_file, knn),
            create=create,
            local_connectivity=local_connectivity,
            set_op_mix_ratio=set_op_mix_ratio,
            block_rows=block_rows,
            **more,
        )

    return make


@pytest.fixture
def built(built_by, backend):
    """Returns built((indices, distances), ...), which gives the graph alone, once for each backend."""
    return lambda *args, **kwargs: built_by(backend, *args, **kwargs)[0]
