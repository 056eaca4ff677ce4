import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from streamumap.show.colors import GREY, NONE, code, ends
from streamumap.show.columns import Numbers, column_of, label_column


def test_rare_labels_are_grey():
    values = [f"l{i:03}" for i in range(300) for _ in range(2)] + ["l000"] + [None]
    coded = code(label_column("l", values))
    assert coded.codes[0] == 0 and coded.codes[-1] == NONE and coded.codes[-3] == GREY
    assert (coded.n_rarer, coded.n_grey, coded.n_none) == (46, 92, 1) and len(coded.labels) == 254


@given(st.lists(st.floats(width=32), min_size=1, max_size=50), st.booleans())
def test_numbers_keep_their_order(values, of_a_feature):
    values = np.array(values, np.float32)
    column = column_of("n", pa.array(values))
    coded = code(Numbers("n", column.values, of_a_feature))
    assert np.array_equal(coded.codes == NONE, ~np.isfinite(values))
    drawn = coded.codes < GREY
    assert (np.diff(coded.codes[drawn][np.argsort(values[drawn], kind="stable")].astype(int)) >= 0).all()
    assert coded.low < coded.high and all(isinstance(end, str) for end in ends(coded))


def test_zeros_of_a_feature_are_grey_unless_it_is_below_zero_somewhere():
    positive = code(Numbers("f", np.array([0, 0, 1, 4], np.float32), zero_is_none=True))
    assert positive.codes.tolist() == [GREY, GREY, 63, 253] and positive.layered and ends(positive) == ("0", "4")
    signed = code(Numbers("f", np.array([0, -2, 2, 0], np.float32), zero_is_none=True))
    assert not signed.layered and signed.n_grey == 0 and signed.codes.tolist() == [126, 0, 253, 126]


def test_few_extreme_numbers_do_not_take_the_colours():
    values = np.concatenate([np.linspace(0, 1, 5000), [1e9]]).astype(np.float32)
    coded = code(Numbers("n", values))
    assert coded.high < 1.01 and coded.codes[-1] == 253 and ends(coded)[1].startswith("≥ ")
