import errno
import os

import numpy as np
import pytest

from streamumap.errors import OutputError
from streamumap.store.blockfile import BlockFile


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def open_descriptors():
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int64, np.float16, bool])
@pytest.mark.parametrize("shape", [(7,), (7, 3), (0,), (0, 4)])
def test_what_is_written_is_read_and_is_a_npy_file(tmp_path, shape, dtype):
    array = (np.arange(np.prod(shape)) % 5).reshape(shape).astype(dtype)
    file = BlockFile.create(tmp_path / "a.npy", shape, dtype)
    for start in range(0, len(array), 2):
        file.write(start, array[start : start + 2])
    file.write(len(array), array[:0])
    assert (len(file), file.shape, file.dtype) == (len(array), shape, dtype)
    assert np.array_equal(file.read(len(array) // 3, len(array)), array[len(array) // 3 :])
    assert file.read(0, 0).shape == (0, *shape[1:])
    file.sync()
    file.close()
    loaded = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert loaded.dtype == dtype and loaded.shape == shape and loaded.tobytes() == array.tobytes()


def test_large_blocks_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("streamumap.store.blockfile.PART_BYTES", 100)
    array = np.arange(999, dtype=np.int32).reshape(333, 3)
    file = BlockFile.create(tmp_path / "a.npy", array.shape, array.dtype)
    file.write(0, array)
    for start, stop in ((0, 333), (1, 332), (7, 24), (7, 23)):
        assert np.array_equal(file.read(start, stop), array[start:stop])
    os.truncate(file.path, file.path.stat().st_size - 1)
    with pytest.raises(OutputError, match="ends early"):
        file.read(0, 333)
    file.close()


def test_blocks_are_written_in_any_order_and_cast(tmp_path):
    file = BlockFile.create(tmp_path / "a.npy", (5, 2), np.int32)
    wide = np.arange(20.0).reshape(5, 4)[:, ::2]
    file.write(3, wide[3:])
    file.write(0, wide[:3])
    parts = list(file.blocks(2))
    assert [start for start, _ in parts] == [0, 2, 4]
    assert np.array_equal(np.concatenate([rows for _, rows in parts]), wide)
    file.close()


def test_space_is_reserved_at_once(tmp_path):
    file = BlockFile.create(tmp_path / "a.npy", (100_000,), np.float64)
    assert os.stat(file.path).st_blocks * 512 >= 800_000
    file.close()


@pytest.mark.parametrize("n_rows", [0, 1, 999])
def test_shrink_leaves_a_whole_file(tmp_path, n_rows):
    array = np.arange(4000, dtype=np.uint16).reshape(1000, 4)
    file = BlockFile.create(tmp_path / "a.npy", array.shape, np.uint16)
    file.write(0, array)
    before = os.path.getsize(file.path)
    file.shrink(n_rows)
    assert file.shape == (n_rows, 4) and os.path.getsize(file.path) == before - (1000 - n_rows) * 8
    assert np.array_equal(file.read(0, n_rows), array[:n_rows])
    file.close()
    again = BlockFile.open(tmp_path / "a.npy")
    assert again.shape == (n_rows, 4) and np.array_equal(again.read(0, n_rows), array[:n_rows])
    again.close()
    assert np.array_equal(np.load(tmp_path / "a.npy"), array[:n_rows])


def test_open_reads_what_create_made(tmp_path):
    made = BlockFile.create(tmp_path / "a.npy", (6, 2), np.float32)
    made.write(0, np.arange(12).reshape(6, 2))
    made.close()
    file = BlockFile.open(tmp_path / "a.npy")
    assert (file.shape, file.dtype, file.row_bytes) == ((6, 2), np.float32, 8)
    assert np.array_equal(file.read(4, 6), [[8, 9], [10, 11]])
    with pytest.raises(OutputError, match="a.npy: cannot be written"):
        file.write(0, np.zeros((1, 2)))
    file.close()


def cut(path):
    os.truncate(path, os.path.getsize(path) - 1)


def lengthen(path):
    with open(path, "ab") as f:
        f.write(b"x")


def cut_header(path):
    os.truncate(path, 20)


def empty_file(path):
    os.truncate(path, 0)


def another_format(path):
    path.write_bytes(b"PK\x03\x04" + bytes(200))


def fortran_order(path):
    np.save(path, np.asfortranarray(np.ones((6, 2), np.float32)))


def python_objects(path):
    np.save(path, np.array([{}] * 3), allow_pickle=True)


def another_version(path):
    with open(path, "wb") as f:
        np.lib.format.write_array(f, np.ones((6, 2), np.float32), version=(2, 0))


@pytest.mark.parametrize(
    "spoil", [cut, lengthen, cut_header, empty_file, another_format, fortran_order, python_objects, another_version]
)
def test_open_refuses_what_is_not_whole(tmp_path, spoil):
    path = tmp_path / "a.npy"
    BlockFile.create(path, (6, 2), np.float32).close()
    spoil(path)
    before = open_descriptors()
    with pytest.raises(ValueError):
        BlockFile.open(path)
    assert open_descriptors() == before


def test_a_file_cut_while_open_is_an_error(tmp_path):
    file = BlockFile.create(tmp_path / "a.npy", (1000,), np.float32)
    os.truncate(file.path, 2000)
    assert len(file.read(0, 400)) == 400
    with pytest.raises(OutputError, match="ends early"):
        file.read(0, 1000)
    file.close()


@pytest.mark.parametrize("call", ["open", "pwrite", "posix_fallocate"])
def test_create_says_that_the_disk_is_full(tmp_path, monkeypatch, call):
    before = open_descriptors()
    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(OutputError, match="a.npy: cannot be written .No space left on device.; .*--out") as caught:
        BlockFile.create(tmp_path / "a.npy", (6, 2), np.float32)
    assert caught.value.exit_code == 4
    monkeypatch.undo()
    assert open_descriptors() == before and os.listdir(tmp_path) == []


def test_create_says_that_a_folder_is_missing(tmp_path):
    with pytest.raises(OutputError, match="No such file or directory"):
        BlockFile.create(tmp_path / "missing" / "a.npy", (6, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "act"),
    [
        ("pwrite", lambda file: file.write(0, np.zeros((2, 2)))),
        ("pwrite", lambda file: file.shrink(3)),
        ("ftruncate", lambda file: file.shrink(3)),
        ("fsync", lambda file: file.sync()),
    ],
)
def test_every_way_to_write_says_that_the_disk_is_full(tmp_path, monkeypatch, call, act):
    file = BlockFile.create(tmp_path / "a.npy", (6, 2), np.float32)
    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(OutputError, match="a.npy: cannot be written .No space left on device.; free space") as caught:
        act(file)
    assert caught.value.exit_code == 4
    file.close()


def test_short_writes_and_reads_go_on(tmp_path, monkeypatch):
    pwrite, preadv = os.pwrite, os.preadv
    file = BlockFile.create(tmp_path / "a.npy", (50, 3), np.float64)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:100], at))
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: preadv(fd, [buffers[0][:70]], at))
    array = np.arange(150.0).reshape(50, 3)
    file.write(0, array)
    assert np.array_equal(file.read(0, 50), array)
    file.close()
