import numpy as np
import pytest

from streamumap.errors import InputError
from streamumap.events import ignore
from streamumap.show.annotations import ShowOptions, columns_of
from streamumap.show.saved_run import open_run


def test_features_are_read_from_the_input_wherever_it_was_moved(real, tmp_path):
    options = ShowOptions(colors=("feature:3", "feature:5"))
    one, two = columns_of(open_run(real.run), options, ignore, [])
    assert np.array_equal(one.values, real.X[:, 3]) and np.array_equal(two.values, real.X[:, 5])
    (tmp_path / "elsewhere").mkdir()
    moved = real.input.rename(tmp_path / "elsewhere" / "x.npy")
    with pytest.raises(InputError, match="--color: feature:3: expected the input of .*say where it is with --input"):
        columns_of(open_run(real.run), options, ignore, [])
    found = columns_of(open_run(real.run), ShowOptions(colors=("feature:3",), input=str(moved)), ignore, [])
    assert np.array_equal(found[0].values, real.X[:, 3])
    np.save(moved, real.X + 1)
    with pytest.raises(InputError, match="--input: .*x.npy: expected the input of .*, found other rows"):
        columns_of(open_run(real.run), ShowOptions(colors=("feature:3",), input=str(moved)), ignore, [])
    with pytest.raises(InputError, match="expected feature:0 to feature:7, found feature:8"):
        real.input.parent.joinpath("elsewhere", "x.npy").rename(real.input)
        np.save(real.input, real.X)
        columns_of(open_run(real.run), ShowOptions(colors=("feature:8",)), ignore, [])
