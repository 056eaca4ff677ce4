"""ActivationWriter: exact rows in one file, whatever the batches; nothing unfinished under the final name."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamumap import writer
from streamumap.errors import InputError, OutputError
from streamumap.source import Reading, open_source
from streamumap.source.npy_header import read_header
from streamumap.writer import ActivationWriter

TORCH = {"float16": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "rows.npy")


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(writer, "CHUNK_BYTES", 100)


def rows_of(n_rows, n_features=3, seed=0):
    return np.random.default_rng(seed).standard_normal((n_rows, n_features)).astype(np.float32)


def bits(tensor):
    return tensor.view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize("dtype", TORCH)
def test_any_batches_make_one_file(path, small_chunks, dtype):
    x = rows_of(211)
    expected = torch.from_numpy(x).to(TORCH[dtype])
    with ActivationWriter(path, n_features=3, dtype=dtype) as w:
        for start, stop in [(0, 1), (1, 1), (1, 30), (30, 33), (33, 200), (200, 211)]:
            w.append(x[start:stop])
            assert w.n_rows == stop
            assert not os.path.exists(path)
    assert os.listdir(os.path.dirname(path)) == ["rows.npy"]
    source = open_source(path, Reading(dtype if dtype == "bfloat16" else None))
    assert source.dtype == dtype and source.warnings == ()
    got = source.read(0, 211)
    assert np.array_equal(got, bits(expected) if dtype == "bfloat16" else expected.numpy())
    plain = np.load(path)
    assert plain.shape == (211, 3) and plain.dtype == ("V2" if dtype == "bfloat16" else dtype)


@given(batches=st.lists(st.integers(0, 50)), n_features=st.integers(1, 40))
def test_any_batch_lengths(tmp_path_factory, batches, n_features):
    path = tmp_path_factory.mktemp("w") / "x.npy"
    x = rows_of(sum(batches), n_features)
    ends = np.cumsum(batches, dtype=int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "CHUNK_BYTES", 300)
        with ActivationWriter(path, n_features=n_features, dtype="float32") as w:
            for end, n in zip(ends, batches, strict=True):
                w.append(x[end - n : end])
    assert np.array_equal(np.load(path), x)


def test_torch_tensors_of_all_kinds(path):
    x = torch.from_numpy(rows_of(12))
    strided = torch.stack([x, x], dim=2)[:, :, 0]
    with ActivationWriter(path, n_features=3, dtype="float32") as w:
        for batch in (x, x.double(), x.requires_grad_(), strided, x.t().contiguous().t(), x.bfloat16(), x.half()):
            w.append(batch)
        w.append(x.tolist())
    expected = x.detach().numpy()
    got = np.load(path).reshape(8, 12, 3)
    for i in (0, 1, 2, 3, 4, 7):
        assert np.array_equal(got[i], expected)
    assert np.array_equal(got[5], x.detach().bfloat16().float().numpy())
    assert np.array_equal(got[6], x.detach().half().float().numpy())


def test_every_bfloat16_is_kept_bit_by_bit(path):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).reshape(-1, 64)
    with ActivationWriter(path, n_features=64, dtype="bfloat16") as w:
        w.append(every[::2])
        w.append(every[1::2].t().contiguous().t())
    got = open_source(path, Reading("bfloat16")).read(0, len(every))
    assert np.array_equal(got[: len(every) // 2], bits(every)[::2])
    assert np.array_equal(got[len(every) // 2 :], bits(every)[1::2])


@given(st.lists(st.floats(width=32), min_size=1).map(lambda values: np.array(values, np.float32)))
def test_rounding_to_bfloat16_is_torchs(values):
    expected = torch.from_numpy(values).to(torch.bfloat16)
    got = torch.from_numpy(writer._to_bfloat16(values).view(np.int16)).view(torch.bfloat16)
    assert torch.equal(got.isnan(), expected.isnan())
    assert np.array_equal(bits(got)[~np.isnan(values)], bits(expected)[~np.isnan(values)])


def test_ties_between_bfloat16s_are_torchs():
    values = (np.arange(2**16, dtype=np.uint32) << np.uint32(16) | np.uint32(0x8000)).view(np.float32)
    values = values[~np.isnan(values)]
    assert np.array_equal(writer._to_bfloat16(values), bits(torch.from_numpy(values).to(torch.bfloat16)))


def test_bfloat16_nans_stay_nans():
    values = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert torch.from_numpy(writer._to_bfloat16(values).view(np.int16)).view(torch.bfloat16).isnan().all()


@pytest.mark.parametrize("kind", ["?", "i1", "i8", "u2", "f8", ">f4"])
def test_arrays_of_numbers_are_rounded(path, kind):
    x = (np.abs(rows_of(9)) * 3).astype(kind)
    with ActivationWriter(path, n_features=3) as w:
        w.append(x)
        w.append(np.asfortranarray(x))
    assert np.array_equal(np.load(path), np.concatenate([x, x]).astype(np.float16))


@pytest.mark.parametrize(
    "dtype, value",
    [("float16", 65520.0), ("float16", np.float32(-1e9)), ("float16", 2**40), ("float32", 1e39), ("bfloat16", 3.4e38),
     ("bfloat16", -1e300)],
)  # fmt: skip
def test_overflow_names_the_row_and_takes_nothing(path, small_chunks, dtype, value):
    bad = np.ones((40, 3), np.asarray(value).dtype)
    bad[33, 2] = value
    with ActivationWriter(path, n_features=3, dtype=dtype) as w:
        w.append(np.ones((7, 3)))
        with pytest.raises(InputError) as caught:
            w.append(bad)
        assert w.n_rows == 7
    message = str(caught.value)
    for part in (path, "row 40 ", "row 33 of the batch", "feature 2", dtype, f"{value:g}", "float32"):
        assert part in message, message
    assert np.load(path).shape == (7, 3)


def test_the_largest_values_nan_and_infinity_are_kept(path):
    edge = np.array([[65504, -65519.99, np.inf], [-np.inf, np.nan, 1e-9]], np.float64)
    with ActivationWriter(path, n_features=3) as w:
        w.append(edge)
        w.append(torch.tensor([[65280.0, -65280.0, float("nan")]], dtype=torch.bfloat16))
    expected = np.array([[65504, -65504, np.inf], [-np.inf, np.nan, 0], [65280, -65280, np.nan]], np.float16)
    assert np.array_equal(np.load(path), expected, equal_nan=True)


@pytest.mark.parametrize(
    "batch, parts",
    [
        (np.zeros((2, 4)), ["shape", "(any, 3)", "(2, 4)"]),
        (np.zeros((0, 4)), ["shape", "(0, 4)"]),
        (np.zeros(3), ["shape", "(3,)"]),
        (np.zeros((2, 3, 1)), ["shape", "(2, 3, 1)"]),
        (torch.zeros(2, 4, dtype=torch.bfloat16), ["shape", "(2, 4)"]),
        (np.zeros((2, 3), complex), ["complex"]),
        (np.zeros((2, 3), object), ["Python objects"]),
        ([[1, 2, 3], [4]], ["lengths"]),
        ("text", ["a str"]),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_batches_that_are_not_taken(path, batch, parts, dtype):
    with ActivationWriter(path, n_features=3, dtype=dtype) as w:
        with pytest.raises(InputError) as caught:
            w.append(batch)
        assert w.n_rows == 0
    message = str(caught.value)
    assert message.startswith(path) and "expected" in message and "found" in message
    assert all(part in message for part in parts), message


def test_uint16_into_bfloat16_is_ambiguous(path):
    with (
        ActivationWriter(path, n_features=3, dtype="bfloat16") as w,
        pytest.raises(InputError, match="uint16.*numbers or bits"),
    ):
        w.append(np.zeros((2, 3), np.uint16))


@pytest.mark.parametrize(
    "options, field",
    [
        ({"n_features": 0}, "n_features"),
        ({"n_features": True}, "n_features"),
        ({"n_features": 2.0}, "n_features"),
        ({"n_features": 2, "dtype": "int8"}, "dtype"),
        ({"n_features": 2, "dtype": np.float16}, "dtype"),
    ],
)
def test_options_that_are_wrong(path, options, field):
    with pytest.raises(InputError, match=f"^{field}: value: expected .*, found .*; "):
        ActivationWriter(path, **options)
    assert os.listdir(os.path.dirname(path)) == []


# the file while it grows


def test_rows_flushed_so_far_are_readable(path, small_chunks):
    x = rows_of(40)
    w = ActivationWriter(path, n_features=3, dtype="float32")  # 8 rows a chunk
    assert read_header(w.partial_path).shape == (0, 3)
    for row in x:
        w.append(row[None])
        n_there = read_header(w.partial_path).shape[0]
        assert w.n_rows - 8 <= n_there <= w.n_rows
        assert np.array_equal(np.load(w.partial_path), x[:n_there])
    assert n_there == 32
    w.close()
    assert np.array_equal(np.load(path), x)


def test_an_exception_leaves_a_partial_that_goes_on(path, small_chunks):
    x = rows_of(100)
    with pytest.raises(ZeroDivisionError), ActivationWriter(path, n_features=3, dtype="float32") as w:
        w.append(x[:43])
        raise ZeroDivisionError
    assert os.listdir(os.path.dirname(path)) == ["rows.npy.partial"]
    with ActivationWriter(path, n_features=3, dtype="float32") as w:
        assert w.n_rows == 43
        w.append(x[w.n_rows :])
    assert np.array_equal(np.load(path), x)
    assert os.listdir(os.path.dirname(path)) == ["rows.npy"]


def test_a_killed_process_leaves_a_partial_that_goes_on(path):
    code = f"""
import os, numpy as np
from streamumap import writer
writer.CHUNK_BYTES = 100
w = writer.ActivationWriter({path!r}, n_features=3, dtype="float32")
w.append(np.arange(90, dtype=np.float32).reshape(30, 3))
os.pwrite(w._file.fileno(), b"rows that the header does not count", 128 + 24 * 12)
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9
    assert not os.path.exists(path)
    x = np.arange(150, dtype=np.float32).reshape(50, 3)
    with ActivationWriter(path, n_features=3, dtype="float32") as w:
        assert w.n_rows == 24
        assert os.path.getsize(w.partial_path) == 128 + 24 * 12
        w.append(x[24:])
    assert np.array_equal(np.load(path), x)
    assert os.path.getsize(path) == 128 + 50 * 12


@pytest.mark.parametrize("dtype", TORCH)
def test_every_dtype_goes_on(path, dtype):
    for n_rows in (0, 2):
        with pytest.raises(KeyboardInterrupt), ActivationWriter(path, n_features=3, dtype=dtype) as w:
            assert w.n_rows == n_rows
            w.append(np.ones((2, 3)))
            raise KeyboardInterrupt
    with ActivationWriter(path, n_features=3, dtype=dtype) as w:
        assert w.n_rows == 4


@pytest.mark.parametrize(
    "other",
    [{"n_features": 4}, {"n_features": 3, "dtype": "float32"}, {"n_features": 3, "dtype": "bfloat16"}],
)
def test_another_partial_is_not_continued(path, other):
    with pytest.raises(ZeroDivisionError), ActivationWriter(path, n_features=3) as w:
        w.append(np.ones((2, 3)))
        raise ZeroDivisionError
    before = Path(path + ".partial").read_bytes()
    with pytest.raises(InputError, match=r"\.partial: file to continue: expected .*, found .*<f2.*; remove it"):
        ActivationWriter(path, **other)
    assert Path(path + ".partial").read_bytes() == before


@pytest.mark.parametrize("save", [lambda p: np.save(p, np.zeros((2, 3), "f2", order="F")), lambda p: np.save(p, 1)])
def test_a_file_of_somebody_elses_is_not_continued(path, save):
    with open(path + ".partial", "wb") as file:
        save(file)
    with pytest.raises(InputError, match="file to continue"):
        ActivationWriter(path, n_features=3)


def test_a_partial_that_lost_rows_is_refused(path):
    with pytest.raises(ZeroDivisionError), ActivationWriter(path, n_features=3) as w:
        w.append(np.ones((9, 3)))
        raise ZeroDivisionError
    os.truncate(path + ".partial", 140)
    with pytest.raises(InputError, match=r"\.partial: body: expected 54 bytes .* found 12; "):
        ActivationWriter(path, n_features=3)


def test_what_is_there_is_never_overwritten(path):
    Path(path).touch()
    with pytest.raises(InputError, match="output file.*there already; remove it"):
        ActivationWriter(path, n_features=3)
    assert not os.path.exists(path + ".partial")
    os.remove(path)
    w = ActivationWriter(path, n_features=3)
    w.append(np.ones((2, 3)))
    Path(path).touch()
    with pytest.raises(InputError, match="there already"):
        w.close()
    assert os.path.getsize(path) == 0
    os.remove(path)
    w.close()
    assert np.load(path).shape == (2, 3)


def test_two_writers_of_one_file(path):
    with ActivationWriter(path, n_features=3) as w:
        w.append(np.ones((2, 3)))
        with pytest.raises(InputError, match="no other writer"):
            ActivationWriter(path, n_features=3)
    assert np.load(path).shape == (2, 3)


def test_closed_is_closed(path):
    w = ActivationWriter(path, n_features=3)
    w.close()
    w.close()
    with pytest.raises(InputError, match="closed"):
        w.append(np.ones((2, 3)))
    assert np.load(path).shape == (0, 3)


# a disk that is full


@pytest.fixture
def full_disk(monkeypatch):
    """`full_disk(n)`: n more bytes fit; writes are cut short as the system cuts them."""
    pwrite, room = os.pwrite, [0]

    def limited(fd, data, offset):
        n = min(len(data), room[0], 37)
        if not n:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= n
        return pwrite(fd, data[:n], offset)

    def fill(n_bytes):
        room[0] = n_bytes
        monkeypatch.setattr(os, "pwrite", limited)

    return fill


def test_short_writes_are_continued(path, full_disk, small_chunks):
    full_disk(1 << 20)
    x = rows_of(50)
    with ActivationWriter(path, n_features=3, dtype="float32") as w:
        w.append(x)
    assert np.array_equal(np.load(path), x)


@pytest.mark.parametrize("room_bytes", [0, 50, 128 + 96 + 128 + 40, 128 + 96 + 128 + 96 + 60])
def test_a_full_disk(path, full_disk, small_chunks, room_bytes):
    x = rows_of(50)
    full_disk(room_bytes)
    with (
        pytest.raises(OutputError, match="rows.npy.partial: file: .*No space left on device.*free space"),
        ActivationWriter(path, n_features=3, dtype="float32") as w,
    ):
        w.append(x)
    assert not os.path.exists(path)
    if room_bytes > 128:
        n_there = read_header(path + ".partial").shape[0]
        assert n_there == 8 and np.array_equal(np.load(path + ".partial"), x[:8])


def test_a_disk_that_is_full_for_a_while(path, full_disk, small_chunks):
    x = rows_of(50)
    full_disk(128 + 96 + 128 + 10)
    w = ActivationWriter(path, n_features=3, dtype="float32")
    with pytest.raises(OutputError):
        w.append(x)
    full_disk(1 << 20)
    w.append(x[w.n_rows :])
    w.close()
    assert np.array_equal(np.load(path), x)


def test_a_rename_that_fails(path, monkeypatch):
    def denied(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "rename", denied)
    with pytest.raises(OutputError, match="rows.npy: .*Permission denied"), ActivationWriter(path, n_features=3) as w:
        w.append(np.ones((2, 3)))
    assert np.load(path + ".partial").shape == (2, 3)


def test_folders_that_are_not_there(tmp_path):
    with pytest.raises(OutputError, match="No such file or directory"):
        ActivationWriter(tmp_path / "no" / "x.npy", n_features=3)
    (tmp_path / "x.npy.partial").mkdir()
    with pytest.raises(OutputError, match="directory"):
        ActivationWriter(tmp_path / "x.npy", n_features=3)


def test_odd_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("schön 🦊.npy", b"bytes.npy", "no_suffix"):
        with ActivationWriter(name, n_features=1) as w:
            w.append(np.ones((3, 1)))
        assert open_source(name).n_rows == 3
