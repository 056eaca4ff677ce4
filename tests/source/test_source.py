"""Sources of rows: every way in which a .npy file can be broken, and exact round trips of those that are not."""

import contextlib
import os
import pickle
import shlex
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streamumap.errors import InputChanged, InputError
from streamumap.source import Reading, RowSource, blocks, open_source, widen
from streamumap.source.formats.array import ArraySource
from streamumap.source.formats.npy import open_npy
from streamumap.source.formats.npy_header import read_header

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", ">i2", ">u8", ">f2", ">f4", ">f8"]


def numbers(n_rows=7, n_features=5, dtype="f4", seed=0):
    values = np.random.default_rng(seed).integers(0, 100, (n_rows, n_features))
    return (values % 2 if np.dtype(dtype).kind == "b" else values).astype(dtype)


def npy_bytes(text, body=b"", version=1):
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode("utf-8" if version == 3 else "latin-1") + body


def header_text(descr="'<f4'", fortran="False", shape="(4, 3)"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


@pytest.fixture
def save(tmp_path):
    def save(content, name="x.npy"):
        path = tmp_path / name
        if isinstance(content, np.ndarray):
            np.save(path, content)
        else:
            path.write_bytes(content)
        return path

    return save


@contextlib.contextmanager
def small_memory(limit_bytes=50_000_000):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit_bytes
    finally:
        tracemalloc.stop()


def refusal(path, **options):
    with small_memory(), pytest.raises(InputError) as caught:
        open_source(path, Reading(**options))
    name, message = os.fsdecode(path), str(caught.value)
    assert message.startswith(name) and "\n" not in message
    assert "expected" in message and "found" in message and "; " in message
    assert "pickle" not in message.replace(name, "")
    return message


def says(message, *parts):
    missing = [part for part in parts if part not in message]
    assert not missing, message


# round trips


@pytest.mark.parametrize("dtype", DTYPES)
def test_file_rows_come_back_exactly(save, dtype):
    x = numbers(101, 7, dtype)
    source = open_npy(save(x))
    assert isinstance(source, RowSource)
    assert (source.n_rows, source.n_features, source.row_bytes) == (101, 7, 7 * x.itemsize)
    assert source.dtype == x.dtype.newbyteorder("=").name and source.warnings == ()
    got = np.concatenate([block.copy() for _, block in blocks(source, 13)])
    assert got.dtype.isnative and np.array_equal(got, x)
    rows = np.array([0, 1, 2, 50, 52, 53, 100])
    assert np.array_equal(source.take(rows), x[rows])
    assert np.array_equal(widen(source.read(3, 9), source.dtype), x[3:9].astype(np.float32))
    source.close()
    source.close()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_array_rows_come_back_exactly(dtype, order):
    x = numbers(50, 6, dtype)
    given_array = {"C": x, "F": np.asfortranarray(x), "strided": np.repeat(np.repeat(x, 2, 0), 3, 1)[::2, ::3]}[order]
    source = open_source(given_array)
    assert isinstance(source, RowSource)
    out = np.empty((20, 6), x.dtype.newbyteorder("="))
    got = source.read(5, 17, out)
    assert np.shares_memory(got, out) and np.array_equal(got, x[5:17])
    taken = source.take(np.array([0, 3, 49]))
    assert taken.flags.c_contiguous and taken.dtype.isnative and np.array_equal(taken, x[[0, 3, 49]])
    taken[:] = 0
    assert np.array_equal(given_array, x), "the caller's array was written to"


def test_out_is_reused(save):
    x = numbers()
    source = open_npy(save(x))
    out = np.full((6, 5), np.nan, np.float32)
    got = source.read(2, 6, out)
    assert np.shares_memory(got, out) and got.shape == (4, 5)
    assert np.array_equal(got, x[2:6]) and np.isnan(out[4:]).all()


def test_large_reads_by_several_threads_are_exact(save, monkeypatch):
    monkeypatch.setattr("streamumap.source.formats.npy.PIECE_BYTES", 1000)  # no multiple of a row
    x = numbers(997, 33, ">i4")
    source = open_npy(save(x))
    assert np.array_equal(source.read(0, 997), x)
    rows = np.flatnonzero(np.random.default_rng(1).random(997) < 0.5)
    assert np.array_equal(source.take(rows), x[rows])
    source.close()


def test_neighbouring_rows_are_taken_with_one_read(save, monkeypatch):
    source = open_npy(save(numbers(40, 5)))
    calls = []
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: calls.append(offset) or preadv(fd, buffers, offset))
    source.take(np.array([3, 4, 5, 9, 20, 21]))
    assert calls == [128 + row * 20 for row in (3, 9, 20)]


def test_reads_that_come_in_parts_are_put_together(save, monkeypatch):
    x = numbers(40, 5)
    source = open_npy(save(x))
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:7]], offset))
    assert np.array_equal(source.read(0, 40), x)


@given(st.lists(st.integers(0, 29)).map(sorted), st.integers(0, 30), st.integers(0, 30))
def test_any_rows_and_any_range(tmp_path_factory, rows, one, other):
    path = tmp_path_factory.getbasetemp() / "any.npy"
    x = numbers(30, 3)
    if not path.exists():
        np.save(path, x)
    start, stop = sorted((one, other))
    for source in (open_npy(path), ArraySource(x)):
        assert np.array_equal(source.take(np.array(rows, np.int64)), x[rows])
        assert np.array_equal(source.read(start, stop), x[start:stop])
        source.close()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_all_versions_of_the_format(save, version):
    x = numbers(4, 3)
    source = open_npy(save(npy_bytes(header_text(), x.tobytes(), version)))
    assert np.array_equal(source.read(0, 4), x)


def test_read_header(save):
    header = read_header(save(np.zeros((2, 3, 4), ">f8", order="F")))
    assert (header.shape, header.dtype, header.fortran) == ((2, 3, 4), np.dtype(">f8"), True)
    assert (header.data_offset, header.end, header.extra_bytes) == (128, 128 + 24 * 8, 0)


@pytest.mark.parametrize("descr", ["'<V2'", "'|V2'", "'<u2'"])
def test_bfloat16_only_when_said(save, descr):
    exact = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    bits = exact.view(torch.int16).numpy().view(np.uint16)
    path = save(npy_bytes(header_text(descr), bits.tobytes()))
    for source in (open_source(path, Reading("bfloat16")), open_source(np.load(path), Reading("bfloat16"))):
        assert source.dtype == "bfloat16" and source.row_bytes == 6
        block = source.read(0, 4)
        assert block.dtype == np.uint16 and np.array_equal(widen(block, "bfloat16"), exact.float().numpy())
        assert np.array_equal(source.take(np.array([1, 3])), bits[[1, 3]])
    if "V" in descr:
        says(refusal(path), "dtype", "V2", "dtype='bfloat16'")
        says(refusal(path, dtype="float16"), "V2", "dtype='bfloat16'")
    else:
        assert open_npy(path).dtype == "uint16"


def test_more_than_2_to_the_31_elements_on_a_sparse_file(save):
    n_rows, n_features = (1 << 22) + 5, 1024
    path = save(npy_bytes(header_text("'|u1'", shape=f"({n_rows}, {n_features})")))
    offset = path.stat().st_size
    last = np.arange(n_features, dtype=np.uint8)
    with open(path, "r+b") as file:
        file.truncate(offset + n_rows * n_features)
        file.seek(offset + (n_rows - 1) * n_features)
        file.write(last.tobytes())
    assert path.stat().st_blocks * 512 < 1 << 20
    source = open_npy(path)
    assert np.array_equal(source.read(n_rows - 1, n_rows)[0], last)
    assert np.array_equal(source.take(np.array([0, 1 << 21, n_rows - 1])), np.stack([0 * last, 0 * last, last]))


# broken files


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


def test_fortran_order_names_a_command_that_converts(tmp_path):
    path = tmp_path / "it's here.npy"
    x = numbers(5000, 3, "f2")
    np.save(path, np.asfortranarray(x))
    message = refusal(path)
    says(message, "fortran_order", "found True")
    command = shlex.split(message[message.index("python -c") :])
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=60)
    assert np.array_equal(open_npy(command[-1]).read(0, 5000), x)


def test_paths_that_are_no_file(tmp_path, monkeypatch):
    says(refusal(tmp_path / "nothing.npy"), "nothing there", "check the path")
    says(refusal(tmp_path), "folder")
    os.symlink(tmp_path / "gone", tmp_path / "link.npy")
    says(refusal(tmp_path / "link.npy"), "link to", "gone")
    os.mkfifo(tmp_path / "pipe")
    says(refusal(tmp_path / "pipe"), "seekable", "pipe")
    says(refusal("/dev/null"), "seekable", "device")
    monkeypatch.chdir(tmp_path)
    says(refusal("-"), "standard input", "file first")
    says(refusal("x" * 5000), "readable")
    with pytest.raises(InputError, match="no file can have"):
        open_npy("a\0b")


def test_permission_denied(save, monkeypatch):
    path = save(numbers())

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # root is never denied
    says(refusal(path), "Permission denied", "permission to read")


def test_unicode_blanks_and_links_in_paths(tmp_path):
    path = tmp_path / "Aktivierungen – schön 🦊.npy"
    np.save(path, numbers())
    os.symlink(path, tmp_path / "link")
    for given_path in (path, str(path), os.fsencode(path), tmp_path / "link"):
        assert np.array_equal(open_source(given_path).read(0, 7), numbers())


def test_no_descriptor_is_left_open(save):
    before = len(os.listdir("/proc/self/fd"))
    for content in (b"", npy_bytes(header_text("'|V1'"), bytes(48)), npy_bytes(header_text())):
        refusal(save(content))
    open_npy(save(numbers())).close()
    open_npy(save(numbers()))  # forgotten
    assert len(os.listdir("/proc/self/fd")) == before


# changes during a run


def test_a_file_cut_off_while_it_is_read(save):
    path = save(numbers(1000, 50))
    source = open_npy(path)
    os.truncate(path, 5000)
    for read in (lambda: source.read(0, 1000), lambda: source.take(np.array([999])), source.check_unchanged):
        with pytest.raises(InputChanged, match=r"x\.npy: size: expected 200128 as on opening, found 5000; the file"):
            read()


def appended(path):
    with open(path, "ab") as file:
        file.write(b"more")


def replaced(path):
    stat = path.stat()
    np.save(path.with_name("new.npy"), numbers(1000, 50))
    os.utime(path.with_name("new.npy"), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.rename(path.with_name("new.npy"), path)


def touched(path):
    os.utime(path, ns=(1, 1))


def written_with_its_old_date(path):
    stat = path.stat()
    with open(path, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    "change, field",
    [(appended, "size"), (replaced, "inode"), (touched, "mtime_ns"), (written_with_its_old_date, "sampled bytes"),
     (os.remove, "file")],
)  # fmt: skip
def test_changes_are_noticed(save, change, field):
    path = save(numbers(1000, 50))
    source = open_npy(path)
    source.check_unchanged()
    change(path)
    with pytest.raises(InputChanged, match=f"x.npy: {field}: expected .* as on opening, found .*; .* start again"):
        source.check_unchanged()


def test_another_working_folder_is_no_change(save, tmp_path, monkeypatch):
    save(numbers())
    monkeypatch.chdir(tmp_path)
    source = open_npy("x.npy")
    monkeypatch.chdir("/")
    source.check_unchanged()


def test_the_input_is_not_modified(save):
    path = save(numbers(100, 5, ">f4"))
    before = path.read_bytes(), path.stat().st_mtime_ns
    source = open_npy(path)
    source.read(0, 100)
    source.take(np.arange(9))
    source.check_unchanged()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_fingerprints_tell_inputs_apart(save):
    x = numbers(3000, 60, "u2")
    path = save(x)
    first = open_npy(path).fingerprint
    assert first == open_npy(path).fingerprint
    assert first != open_npy(path, dtype="bfloat16").fingerprint
    assert first["size"] == path.stat().st_size and first["mtime_ns"] == path.stat().st_mtime_ns
    assert first["inode"] == path.stat().st_ino and "'<u2'" in first["header"]
    y = x.copy()
    y[-1, -1] += 1
    assert open_npy(save(y, "y.npy")).fingerprint["blake2b"] != first["blake2b"]
    assert ArraySource(x).fingerprint == ArraySource(np.asfortranarray(x)).fingerprint
    assert ArraySource(x).fingerprint == ArraySource(x.astype(">u2")).fingerprint
    assert ArraySource(x).fingerprint != ArraySource(y).fingerprint
    assert ArraySource(x).fingerprint != ArraySource(x.view(np.int16)).fingerprint


@pytest.mark.parametrize("n_rows", [1, 3, 100, 5000])
def test_a_body_of_up_to_16_samples_is_hashed_whole(save, monkeypatch, n_rows):
    monkeypatch.setattr("streamumap.source.file.SAMPLE_BYTES", 7000)
    x = numbers(n_rows + 2, 5)
    source = open_npy(save(x))
    seen = []
    monkeypatch.setattr(source.file, "fill", lambda buffer, offset: seen.append((offset, offset + len(buffer))))
    source._sampled_hash()
    gaps = [after[0] - before[1] for before, after in zip(seen, seen[1:], strict=False)]
    assert seen[0][0] == 0 and seen[-1][1] == 128 + x.nbytes
    assert max(gaps, default=0) <= 0


# arrays


def test_memmaps_lists_and_tensors(save):
    x = numbers(6, 4)
    tensor = torch.from_numpy(x)
    for rows in (np.load(save(x), mmap_mode="r"), x.tolist(), tensor, tensor.clone().requires_grad_()):
        source = open_source(rows)
        assert np.array_equal(source.read(0, 6), x)
    assert open_source(x.tolist()).dtype == "float64"
    assert open_source(torch.from_numpy(x).half()).dtype == "float16"


@pytest.mark.parametrize(
    "rows, parts",
    [
        (torch.zeros(4, 3, dtype=torch.bfloat16), ["bfloat16", ".float()"]),
        (torch.zeros(4, 3, device="meta"), ["Tensor", ".cpu()"]),
        (np.zeros(12), ["2 dimensions", "found 1"]),
        (np.zeros((3, 4, 5)), ["2 dimensions", "found 3", "(12, 5)"]),
        (np.zeros((2, 4)), ["3 rows", "found 2"]),
        (np.zeros((4, 0)), ["feature", "found 0"]),
        (np.zeros((4, 3), complex), ["complex"]),
        (np.zeros((4, 3), object), ["Python objects"]),
        (np.zeros((4, 3), "M8[s]"), ["dates"]),
        (np.zeros((4, 3), "V1"), ["float8"]),
        (np.zeros((4, 3), "V2"), ["V2", "bfloat16"]),
        (np.zeros((4, 3), "f4,f4"), ["dtype"]),
        (np.ma.masked_array(np.zeros((4, 3)), mask=True), ["mask", ".filled()"]),
        ([["a", "b"]] * 3, ["text"]),
        ([[1, 2], [3], [4, 5]], ["lengths"]),
        (7, ["a int", "path"]),
        (None, ["NoneType"]),
    ],
)
def test_arrays_that_are_not_read(rows, parts):
    with pytest.raises(InputError) as caught:
        open_source(rows)
    says(str(caught.value), "the array: ", "expected", "found", *parts)


def test_an_array_that_is_changed_meanwhile():
    x = numbers(3000, 60)
    source = ArraySource(x)
    source.check_unchanged()
    x[-1, -1] += 1
    with pytest.raises(InputChanged, match="sampled rows"):
        source.check_unchanged()


def test_import_stays_light():
    code = "import sys, streamumap.source, streamumap.writer.activation_writer; print({'torch', 'numba'} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "set()"


# fuzz


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
