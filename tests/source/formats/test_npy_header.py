"""Every way in which a `.npy` file can be broken is refused in one sentence; nothing is unpickled or allocated."""

import os
import pickle
import shlex
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from npy_checks import header_text, npy_bytes, numbers, refusal, says, small_memory

from streamumap.errors import InputError
from streamumap.source import open_source
from streamumap.source.formats.npy import open_npy


@pytest.mark.parametrize(
    "content, parts",
    [
        (b"", ["0 bytes"]),
        (b"hello, world", ["magic", "b'hello,'"]),
        (b"\x93NUMPY", ["version", "end of the file"]),
        (b"\x93NUMPY\x04\x00\x10\x00", ["version", "4.0"]),
        (b"\x93NUMPY\x01\x01\x10\x00", ["version", "1.1"]),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr'", ["header", "128 bytes", "after 18"]),
        (npy_bytes(" " * 10_001, version=2), ["header length", "10000", "10001"]),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", ["header length", "4294967295"]),
        (npy_bytes("[" * 5000 + "]" * 5000), ["header", "nested", "5000"]),
        (npy_bytes("-" * 9000 + "1"), ["header", "literal"]),
        (npy_bytes("1" + "+1" * 4900), ["header", "literal"]),
        (npy_bytes(header_text(shape="set()")), ["header", "literal", "set()"]),
        (npy_bytes("print('boo')"), ["header", "literal", "print"]),
        (npy_bytes("{'descr': '<f4', 'shape': (4, 3)}"), ["header", "keys", "fortran_order"]),
        (npy_bytes(header_text().replace(", }", ", 'x': 1}")), ["header", "keys"]),
        (npy_bytes(header_text().replace(", }", ", 'shape': (4, 3)}")), ["header", "keys"]),
        (npy_bytes("['descr', 'fortran_order', 'shape']"), ["header", "keys"]),
        (npy_bytes("{[]: 1}"), ["header", "literal"]),
        (npy_bytes("{'a': '\\d'}"), ["header", "keys"]),
        (npy_bytes("\x00"), ["header", "literal"]),
        (b"\x93NUMPY\x03\x00\x02\x00\x00\x00\xff\xff", ["header", "UTF-8", "255"]),
        (npy_bytes(header_text(fortran="0")), ["fortran_order", "True or False", "found 0"]),
    ],
)  # fmt: skip
def test_broken_header(save, content, parts):
    says(refusal(save(content)), *parts)


@pytest.mark.parametrize(
    "shape",
    ["(-4, 3)", "(4, True)", "(4.0, 3)", "[4, 3]", "12", "(4, None)", f"({2**62}, 1)", f"({2**40}, {2**40})",
     f"(0, {2**70})", f"({10**4000}, 3)", "(0x" + "f" * 9000 + ", 3)"],
)  # fmt: skip
def test_broken_shape(save, shape):
    message = refusal(save(npy_bytes(header_text(shape=shape), bytes(48))))
    says(message, ".npy: shape: expected ")
    assert len(message) < 600


@pytest.mark.parametrize(
    "shape, parts",
    [
        ("()", ["2 dimensions", "found 0"]),
        ("(12,)", ["2 dimensions", "found 1", "(12,)"]),
        ("(4, 3, 1)", ["found 3", "flatten", "(12, 1)", "reshape(-1, a.shape[-1])"]),
        ("(0, 3)", ["rows", "found 0"]),
        ("(4, 0)", ["feature", "found 0"]),
        ("(1, 3)", ["3 rows", "found 1"]),
        ("(2, 3)", ["3 rows", "found 2"]),
    ],
)
def test_shapes_that_are_no_matrix_of_rows(save, shape, parts):
    says(refusal(save(npy_bytes(header_text(shape=shape), bytes(48)))), "shape", *parts)


@pytest.mark.parametrize(
    "descr, parts",
    [
        ("'|O'", ["|O", "Python objects"]),
        ("'|V1'", ["V1", "float8", ".astype('float16')"]),
        ("'|V16'", ["V16"]),
        ("'>V2'", ["V2"]),
        ("[('a', '<f4'), ('b', '<i4', (2,))]", ["structured"]),
        ("'<M8[ns]'", ["M8", "dates"]),
        ("'<m8'", ["m8", "time spans"]),
        ("'<U5'", ["U5", "text"]),
        ("'|S9'", ["S9", "text"]),
        ("'<c8'", ["c8", "complex"]),
        ("'<f16'", ["f16"]),
        ("'f8,f8'", ["f8,f8"]),
        ("'float32'", ["float32"]),
        ("'<f4\\n'", ["<f4"]),
        ("4", ["found 4"]),
        ("None", ["None"]),
    ],
)
def test_dtypes_that_are_not_read(save, descr, parts):
    says(refusal(save(npy_bytes(header_text(descr), bytes(400)))), "float16, float32 or float64", *parts)


def test_a_dtype_option_that_disagrees(save):
    says(refusal(save(numbers()), dtype="float16"), "dtype", "float16", "found float32")
    says(refusal(save(numbers()), dtype="bfloat16"), "dtype", "bfloat16", "found float32")
    assert open_npy(save(numbers()), dtype="float32").dtype == "float32"


def test_a_body_that_is_cut_off_and_one_that_is_too_long(save):
    x = numbers(4, 3)
    says(refusal(save(npy_bytes(header_text(), x.tobytes()[:-1]))), "body", "expected 48 bytes", "found 47", "cut off")
    source = open_npy(save(npy_bytes(header_text(), x.tobytes() + b"tail")))
    assert len(source.warnings) == 1
    says(source.warnings[0], "x.npy", "body", "expected 48 bytes", "found 4 more")
    assert np.array_equal(source.read(0, 4), x)


def test_a_header_that_lies_about_the_size_allocates_nothing(save):
    path = save(npy_bytes(header_text("'<f2'", shape="(3000000, 12288)"), b"tiny"))
    says(refusal(path), "body", str(3_000_000 * 12_288 * 2), "found 4")
    with small_memory(1 << 20), pytest.raises(InputError):
        open_npy(path)


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickles_are_refused_and_never_run(save, tmp_path):
    nest = str(tmp_path / "hatched")
    refusal(save(pickle.dumps(Canary(nest))))
    says(refusal(save(np.array([[Canary(nest)] * 3] * 3, object))), "Python objects")
    assert not os.path.exists(nest)
    pickle.loads(pickle.dumps(Canary(nest)))
    assert os.path.exists(nest), "the canary itself is dead"


def test_fortran_order_names_a_command_that_converts_where_rows_must_lie_in_place(tmp_path):
    path = tmp_path / "it's here.npy"
    x = numbers(5000, 3, "f2")
    np.save(path, np.asfortranarray(x))
    with pytest.raises(InputError) as caught:
        open_npy(path)
    message = str(caught.value)
    says(message, "fortran_order", "found True")
    command = shlex.split(message[message.index("python -c") :])
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=60)
    assert np.array_equal(open_npy(command[-1]).read(0, 5000), x)


def try_to_open(path):
    """Opens and reads, or is refused: nothing else."""
    with small_memory():
        try:
            source = open_source(path)
        except InputError as error:
            assert "\n" not in str(error)
            return
        assert source.read(0, 3).shape == (3, source.n_features)
        source.close()


FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def fuzz_path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "x.npy"


@FUZZ
@given(st.binary(max_size=300), st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x03\x00\x20\0\0\0"]))
def test_fuzz_random_bytes(fuzz_path, noise, start):
    fuzz_path.write_bytes(start + noise)
    try_to_open(fuzz_path)


@FUZZ
@given(st.data())
def test_fuzz_mutated_headers(fuzz_path, data):
    content = bytearray(npy_bytes(header_text(), bytes(48), data.draw(st.sampled_from([1, 2, 3]))))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(content) - 49))
        if data.draw(st.booleans()):
            content[at] = data.draw(st.integers(0, 255))
        else:
            content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    fuzz_path.write_bytes(content)
    try_to_open(fuzz_path)


@FUZZ
@given(literals, literals, literals)
@example("<f4", False, (4, 3))
@example("<f4", False, (10**18, 10**18))
def test_fuzz_fields(fuzz_path, descr, fortran, shape):
    text = repr({"descr": descr, "fortran_order": fortran, "shape": shape})
    fuzz_path.write_bytes(npy_bytes(text, bytes(48), 3) if text.isascii() else b"\x93NUMPY" + text.encode())
    try_to_open(fuzz_path)


@FUZZ
@given(st.tuples(st.integers(0, 2**66), st.integers(-1, 2**66)), st.sampled_from(["'<f4'", "'|b1'", "'>f8'", "'|V2'"]))
def test_fuzz_sizes(fuzz_path, shape, descr):
    fuzz_path.write_bytes(npy_bytes(header_text(descr, shape=repr(shape)), bytes(48)))
    try_to_open(fuzz_path)


@FUZZ
@given(st.text("[](){}'\",:-+~ 01xLjeTrueFals#\\\n", max_size=200))
def test_fuzz_literals(fuzz_path, text):
    fuzz_path.write_bytes(npy_bytes(text))
    try_to_open(fuzz_path)
