"""ActivationWriter: rows are exact whatever the batches, and an unfinished file never has the final name."""

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

from streamumap.errors import InputError, OutputError
from streamumap.source import Reading, open_source, widen
from streamumap.source.formats.npy_header import read_header
from streamumap.writer import activation_writer, npy_writer
from streamumap.writer.activation_writer import ActivationWriter

TORCH = {"float16": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "rows.npy")


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(npy_writer, "CHUNK_BYTES", 100)


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
        patch.setattr(npy_writer, "CHUNK_BYTES", 300)
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
    got = torch.from_numpy(activation_writer._to_bfloat16(values).view(np.int16)).view(torch.bfloat16)
    assert torch.equal(got.isnan(), expected.isnan())
    assert np.array_equal(bits(got)[~np.isnan(values)], bits(expected)[~np.isnan(values)])


def test_ties_between_bfloat16s_are_torchs():
    values = (np.arange(2**16, dtype=np.uint32) << np.uint32(16) | np.uint32(0x8000)).view(np.float32)
    values = values[~np.isnan(values)]
    assert np.array_equal(activation_writer._to_bfloat16(values), bits(torch.from_numpy(values).to(torch.bfloat16)))


def test_bfloat16_nans_stay_nans():
    values = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert torch.from_numpy(activation_writer._to_bfloat16(values).view(np.int16)).view(torch.bfloat16).isnan().all()


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
from streamumap.writer import activation_writer, npy_writer
npy_writer.CHUNK_BYTES = 100
w = activation_writer.ActivationWriter({path!r}, n_features=3, dtype="float32")
w.append(np.arange(90, dtype=np.float32).reshape(30, 3))
os.pwrite(w._values.file.fileno(), b"rows that the header does not count", 128 + 24 * 12)
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
    """full_disk(n): n more bytes fit on the disk; a write takes a part of its bytes, as the system may."""
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
        pytest.raises(OutputError, match="rows.npy.partial: cannot be written .No space left on device.; free space"),
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

    monkeypatch.setattr(os, "replace", denied)
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
    with pytest.raises(InputError, match="one that no file can have"):
        ActivationWriter("a\0b.npy", n_features=1)


# TopK pairs


def pairs_of(n_rows, k=3, n_features=20, seed=0):
    random = np.random.default_rng(seed)
    indices = np.stack([np.sort(random.choice(n_features, k, replace=False)) for _ in range(n_rows)])
    return indices, random.integers(1, 99, (n_rows, k)).astype(np.float16)


def dense_of(indices, values, n_features=20):
    rows = np.zeros((len(indices), n_features), values.dtype)
    np.put_along_axis(rows, indices, values, axis=1)
    return rows


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("form", ["dense", "torch", "pairs", "torch pairs"])
def test_pairs_of_any_batches(path, small_chunks, dtype, form):
    indices, values = pairs_of(67)
    with ActivationWriter(path, n_features=20, dtype=dtype, active=5) as w:
        for start, stop in [(0, 1), (1, 1), (1, 30), (30, 33), (33, 67)]:
            part = indices[start:stop], values[start:stop]
            if form == "dense":
                w.append(dense_of(*part))
            elif form == "torch":
                w.append(torch.from_numpy(dense_of(*part)).to(TORCH[dtype]))
            else:
                w.append(part if form == "pairs" else tuple(map(torch.from_numpy, part)))
            assert w.n_rows == stop
    assert sorted(os.listdir(os.path.dirname(path))) == ["rows.json", "rows_indices.npy", "rows_values.npy"]
    source = open_source(path.replace(".npy", "_indices.npy"), Reading(dtype if dtype == "bfloat16" else None))
    assert (source.n_rows, source.n_features, source.dtype) == (67, 20, dtype)
    assert np.array_equal(widen(source.read(0, 67), dtype), dense_of(indices, values).astype(np.float32))


def test_rows_with_too_many_values_and_pairs_that_are_none(path):
    w = ActivationWriter(path, n_features=20, active=2)
    good = dense_of(*pairs_of(4, 2))
    with pytest.raises(InputError, match=r"row 1 \(row 1 of the batch\): expected at most 2 values .*, found 3"):
        w.append(np.concatenate([good[:1], dense_of(*pairs_of(1, 3))]))
    for batch, found in [
        (([[3, 20]], [[1.0, 2.0]]), "an index beyond"), (([[3, 3]], [[1.0, 2.0]]), "one twice"),
        (([[0.5, 1.0]], [[1.0, 2.0]]), "float64"), (([[1, 2, 3]], [[1.0, 2.0, 3.0]]), r"\(1, 3\)"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=found):
            w.append(tuple(map(np.array, batch)))
    w.append((np.array([[3, 3], [-1, 4]]), np.array([[1.0, 0.0], [0.0, 2.0]])))
    assert w.n_rows == 2
    w.close()
    expected = np.zeros((2, 20))
    expected[0, 3], expected[1, 4] = 1, 2
    w = ActivationWriter(path.replace("rows.npy", "more.npy"), n_features=20, active=2)
    w.append(expected)
    w.close()
    with pytest.raises(InputError, match="active: value: expected at most the 20 features, found 21"):
        ActivationWriter(path, n_features=20, active=21)


@pytest.mark.parametrize("cut", ["values", "indices"])
def test_pairs_go_on_after_a_crash(path, small_chunks, cut):
    indices, values = pairs_of(67)
    w = ActivationWriter(path, n_features=20, active=3)
    w.append((indices[:40], values[:40]))
    for writer_ in w._writers:
        writer_.flush()
        writer_.file.close()
    partial = path.replace(".npy", f"_{cut}.npy.partial")
    lost = ActivationWriter(path, n_features=20, active=3)
    lost._writers[0 if cut == "values" else 1].keep(31)
    for writer_ in lost._writers:
        writer_.file.close()
    assert np.load(partial).shape[0] == 31
    with ActivationWriter(path, n_features=20, active=3) as w:
        assert w.n_rows == 31
        w.append((indices[31:], values[31:]))
    source = open_source(path.replace(".npy", "_values.npy"))
    assert np.array_equal(source.read(0, 67), dense_of(indices, values))


def test_a_crash_between_the_two_last_names(path, monkeypatch):
    indices, values = pairs_of(9)
    w = ActivationWriter(path, n_features=20, active=3)
    w.append((indices, values))
    replace, done = os.replace, []

    def once(*args):
        done.append(1)
        if len(done) > 2:  # codes.json is the first
            raise OSError(5, "gone")
        replace(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", once)
        with pytest.raises(OutputError, match="gone"):
            w.close()
    for writer_ in w._writers:
        writer_.file.close()
    with ActivationWriter(path, n_features=20, active=3) as w:
        assert w.n_rows == 9
    assert np.array_equal(open_source(path.replace(".npy", "_values.npy")).read(0, 9), dense_of(indices, values))


def test_a_forward_hook_collects_what_a_module_gives(path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU())
    batch = torch.arange(40.0).reshape(2, 5, 4)
    with ActivationWriter(path, n_features=6, dtype="float32") as w:
        handle = model[1].register_forward_hook(w.hook)
        expected = model(batch)
        handle.remove()
        model(batch)
        w.hook(None, None, (expected, "and more"))
    assert np.array_equal(np.load(path), np.concatenate([expected.detach().numpy().reshape(-1, 6)] * 2))
