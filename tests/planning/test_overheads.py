import pytest

from streamumap.machine import kernels
from streamumap.planning import overheads


@pytest.mark.parametrize("group", [name for name in dir(overheads) if name.endswith("_KERNELS")])
def test_groups_of_kernels_name_modules_that_numba_compiles(group):
    """A module that has moved would count as never compiled."""
    for module in getattr(overheads, group):
        assert "njit" in (kernels.PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
