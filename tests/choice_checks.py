"""Arrays, and helpers, of the tests of which array or column is read."""

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from streamumap.errors import InputError
from streamumap.source import Reading, in_place, open_source

RANDOM = np.random.default_rng(0)
CUBE = RANDOM.normal(size=(70, 10, 48)).astype(np.float32)
ROWS, VECTOR = CUBE[:, 0].copy(), CUBE[:, 0, 0].copy()
TOKENS, LABELS = RANDOM.integers(0, 50_000, (70, 10)), np.arange(70)


def read(path, **reading):
    """The rows, and what the source says it read."""
    opened = open_source(path, Reading(**reading))
    with in_place(opened) as found:
        return found.read(0, found.n_rows), opened.chosen


def refused(path, **reading):
    with pytest.raises(InputError) as caught:
        open_source(path, Reading(**reading))
    message = str(caught.value)
    assert "\n" not in message and message.count(": expected ") == 1 and ", found " in message
    return message


def paste(message):
    """Runs the command at the end of a message, as it stands."""
    command = re.search(r"with: (python -c .*)$", message).group(1)
    done = subprocess.run([sys.executable, *shlex.split(command)[1:]], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("others, key", [({}, None), ({"labels": LABELS}, None), ({"tokens": TOKENS}, "acts")])
def test_arrays_of_3_dimensions_come_with_the_command_that_makes_rows(save, others, key):
    path = save(acts=CUBE, **others)
    message = refused(path, key=key)
    assert message.startswith(
        f"{path}[acts]: shape: expected 2 dimensions (rows, features), found 3 in (70, 10, 48), as 70 x 10 positions of 48 "
        "features have; flatten it to (700, 48) with: python -c"
    )
    paste(message)
    np.testing.assert_array_equal(np.load(path.with_name("x-rows.npy")), CUBE.reshape(-1, 48))
