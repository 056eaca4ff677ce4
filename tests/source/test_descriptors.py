"""No file stays open when opening, converting or writing rows is refused."""

import gc
import os

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.numpy
import torch

from streamumap import ActivationWriter
from streamumap.errors import StreamUMAPError
from streamumap.source import Reading, in_place, open_source
from streamumap.source.file import OpenFile

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)


def n_descriptors():
    return len(os.listdir("/proc/self/fd"))


def raising_blocks():
    yield ROWS
    raise KeyError("a block that could not be made")


BLOCKS = {
    "one-dimensional": lambda: iter([ROWS, ROWS[0]]),
    "narrower": lambda: iter([ROWS, ROWS[:, :2]]),
    "another dtype": lambda: iter([ROWS, ROWS.astype(np.float64)]),
    "objects": lambda: iter([ROWS, np.array([[None]])]),
    "an error of the iterable's own": raising_blocks,
}


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
def test_a_later_block_that_is_malformed(make):
    before = n_descriptors()
    with pytest.raises((StreamUMAPError, KeyError)):
        open_source(make())
    assert n_descriptors() == before


def raw(folder):
    (folder / "x.bin").write_bytes(ROWS.tobytes())
    return folder / "x.bin", Reading(shape=(7, 3), dtype="float32")


def hdf5(folder):
    with h5py.File(folder / "x.h5", "w") as file:
        file["a"], file["b"] = ROWS, ROWS
    return folder / "x.h5", Reading()


def parquet(folder):
    lists = [[1.0, 2.0]] * 30 + [[3.0]]
    pyarrow.parquet.write_table(pa.table({"rows": pa.array(lists)}), folder / "x.parquet")
    return folder / "x.parquet", Reading()


def damaged_archive(folder):
    np.savez_compressed(folder / "whole.npz", a=ROWS)
    content = bytearray((folder / "whole.npz").read_bytes())
    content[200:210] = bytes(10)
    (folder / "x.npz").write_bytes(content)
    return folder / "x.npz", Reading()


def tensors(folder):
    torch.save({"a": torch.zeros(4, 3), "b": torch.zeros(4, 3)}, folder / "x.pt")
    return folder / "x.pt", Reading()


def cut_safetensors(folder):
    content = safetensors.numpy.save({"a": ROWS})
    (folder / "x.safetensors").write_bytes(content[:-4])
    return folder / "x.safetensors", Reading()


def pairs(folder):
    np.save(folder / "x_indices.npy", np.zeros((20, 2), np.int32))
    np.save(folder / "x_values.npy", np.zeros((19, 2), np.float32))
    return folder / "x_indices.npy", Reading(n_features=9)


def shards(folder):
    np.save(folder / "x-0.npy", ROWS)
    np.save(folder / "x-1.npy", ROWS[:, :2])
    return folder, Reading()


def codes(folder):
    safetensors.numpy.save_file({"W_enc": np.zeros((4, 8), np.float32)}, folder / "sae.safetensors")
    np.save(folder / "x.npy", ROWS)
    return folder / "x.npy", Reading(sae=folder / "sae.safetensors")


FORMATS = (raw, hdf5, parquet, damaged_archive, tensors, cut_safetensors, pairs, shards, codes)


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_rows_that_are_refused(make, tmp_path):
    x, reading = make(tmp_path)

    def refused():
        with pytest.raises(StreamUMAPError), in_place(open_source(x, reading)):
            pass
        gc.collect()  # files that a library left open in a reference cycle

    refused()  # the first reading starts threads and loads modules, which stay
    before = n_descriptors()
    refused()
    assert n_descriptors() == before


def test_blocks_whose_file_cannot_be_read(monkeypatch):
    def broken(*_):
        raise OSError("a broken disk")

    monkeypatch.setattr(OpenFile, "sampled_hash", broken)
    before = n_descriptors()
    with pytest.raises(OSError, match="a broken disk"):
        open_source(iter([ROWS]))
    assert n_descriptors() == before


def test_a_writer_that_finds_other_rows(tmp_path):
    for active in (None, 2):
        with pytest.raises(KeyError), ActivationWriter(tmp_path / f"{active}.npy", n_features=3, active=active):
            raise KeyError("a crash")
    before = n_descriptors()
    with pytest.raises(StreamUMAPError, match="file to continue"):
        ActivationWriter(tmp_path / "None.npy", n_features=4)
    with pytest.raises(StreamUMAPError, match="file to continue"):
        ActivationWriter(tmp_path / "2.npy", n_features=1 << 20, active=2)  # wider indices: the values fit
    assert n_descriptors() == before
