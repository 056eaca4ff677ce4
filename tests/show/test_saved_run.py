import os

import numpy as np
import pytest
from show_checks import REPORT, cloud

from streamumap.errors import InputError
from streamumap.show.saved_run import describe, open_run


def test_what_is_written_on_a_picture():
    facts = "1,234 x 3,072 float16, cosine, k 15; "
    assert describe(REPORT) == ("a b.npy", facts + "recall 0.988, trustworthiness 0.900")
    figures = {name: {"value": 0.5, "standard_error": 0.002} for name in ("continuity", "torn_share")}
    both = REPORT | {"quality": REPORT["quality"] | figures}
    assert (
        describe(both)[1] == facts + "recall 0.988, trustworthiness 0.900, continuity 0.500 ± 0.002, torn 0.500 ± 0.002"
    )


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda run: os.unlink(run / "embedding.npy"),
            "expected a run with a map .*, found no embedding.npy; start it with streamumap embed",
        ),
        (
            lambda run: os.truncate(run / "embedding.npy", 300),
            "embedding.npy: expected the map of a run, found something else or a part",
        ),
        (lambda run: (run / "embedding.npy").write_text("text"), "embedding.npy: expected the map of a run"),
        (
            lambda run: np.save(run / "embedding.npy", cloud(50, columns=1)),
            "expected a map of 2 or more dimensions, found 1; a picture needs two",
        ),
        (lambda run: (run / "run.json").write_text("{"), "run.json: expected the report of a run"),
        (
            lambda run: (run / "run.json").write_text('{"input": 5, "quality": 5}'),
            "run.json: expected the report of a run",
        ),
        (lambda run: (run / "run.json").write_bytes(b"\xff"), "run.json: expected the report of a run"),
    ],
)
def test_what_is_no_run_is_refused(break_it, message, run):
    break_it(run)
    with pytest.raises(InputError, match=message):
        open_run(run)
