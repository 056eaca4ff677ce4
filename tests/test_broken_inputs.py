"""Tests every line of the table in docs/inputs.md: a broken input, the exit code and the message.

`UPDATE_DOCS=1 pytest tests/test_broken_inputs.py` writes the table again.
"""

# ruff: noqa: E501  (lines of a table)

import errno
import gzip
import io
import json
import os
import pickle
import re
import shlex
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import scipy.io
import scipy.sparse
import torch
import zarr
from container_checks import hdf5, zarr_group
from safetensors.numpy import save_file

from streamumap import cli
from streamumap.request import Request
from streamumap.source import in_place, open_source
from streamumap.source.file import OpenFile
from streamumap.store import blockfile
from streamumap.store.manifest import as_text, new_manifest

DOCS = Path(__file__).parent.parent / "docs" / "inputs.md"
RESULTS: dict[str, str] = {}


@dataclass(frozen=True)
class Case:
    """A line of the table. `make(folder)` returns the arguments of `embed` (the input first) or of another command. `says`: a
    pattern of standard error; None if it works and says nothing."""

    what: str
    make: object
    code: int
    says: str | None


def good(n_rows=20, n_features=6):
    return np.random.default_rng(0).normal(size=(n_rows, n_features)).astype(np.float32)


def saved(array, name="x.npy"):
    def make(folder):
        np.save(folder / name, array)
        return [folder / name]

    return make


def written(content, name="x.npy", *options):
    def make(folder):
        (folder / name).write_bytes(content)
        return [folder / name, *options]

    return make


def npy(descr="'<f4'", shape="(20, 6)", body=b"", fortran="False"):
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin-1") + body


def npy_text(text, length=None):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) if length is None else length) + text.encode()


CUBE, TOKENS = np.ones((20, 4, 6), np.float16), np.arange(80).reshape(20, 4)


def several(write, name, *options, **arrays):
    """Saves arrays in one file."""

    def make(folder):
        write(folder / name, arrays)
        return [folder / name, *options]

    return make


def npz(path, arrays):
    np.savez(path, **arrays)


def pt(path, arrays):
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def safe(path, arrays):
    save_file(arrays, path)


def parquet(path, columns):
    pa.parquet.write_table(pa.table({name: as_column(array) for name, array in columns.items()}), path)


def as_column(array):
    tensors = array.ndim > 2
    return pa.FixedShapeTensorArray.from_numpy_ndarray(array) if tensors else pa.array(list(array))


BODY = good().tobytes()
BFLOATS = (good().view(np.uint32) >> 16).astype(np.uint16).view("V2")


class Canary:
    def __reduce__(self):
        return os.mkdir, (os.path.join(os.environ["CANARY"], "hatched"),)


def object_array(folder):
    array = np.empty((5, 5), object)
    array[:] = Canary()
    np.save(folder / "x.npy", array, allow_pickle=True)
    return [folder / "x.npy"]


def big_endian(folder):
    np.save(folder / "x.npy", good().astype(">f4"))
    np.save(folder / "little.npy", good())
    return [folder / "x.npy"]


def fortran(folder):
    np.save(folder / "x.npy", np.asfortranarray(good()))
    return [folder / "x.npy"]


def saved_twice(folder):
    with open(folder / "x.npy", "wb") as file:
        np.save(file, good())
        np.save(file, good())
    return [folder / "x.npy"]


def archives_in_one_file(folder):
    with open(folder / "x.npz", "wb") as file:
        np.savez(file, a=good())
        np.savez(file, a=good())
    return [folder / "x.npz"]


def mostly_zeros(folder):
    rows = np.zeros((1000, 12_288), np.float32)
    rows[np.arange(1000), np.arange(1000) % 7 * 1000] = 1 + np.arange(1000) % 31
    np.savez_compressed(folder / "x.npz", a=rows)
    assert (folder / "x.npz").stat().st_size < rows.nbytes / 500
    return [folder / "x.npz"]


def bomb(folder):
    """Makes an archive that claims to inflate to 4 GB, which so few bytes cannot hold."""
    header = npy(shape="(1000000, 1000)")
    with zipfile.ZipFile(folder / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header)
    content = bytearray((folder / "x.npz").read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = struct.pack("<I", len(header) + 4 * 10**9)
    (folder / "x.npz").write_bytes(content)
    return [folder / "x.npz"]


def sparse(form, *options):
    """Saves rows with SciPy in one of its forms."""

    def make(folder):
        rows = scipy.sparse.coo_array(good() * (np.arange(120).reshape(20, 6) % 5 < 2))
        if form == "coo":
            rows = scipy.sparse.coo_array(
                (np.tile(rows.data, 2), (np.tile(rows.row, 2), np.tile(rows.col, 2))), rows.shape
            )
        scipy.sparse.save_npz(folder / "x.npz", rows.asformat(form))
        return [folder / "x.npz", *options]

    return make


def square_csr(folder):
    rows = scipy.sparse.csr_array(np.triu(good(20, 20)))
    np.savez(folder / "x.npz", data=rows.data, indices=rows.indices, indptr=rows.indptr, shape=rows.shape)
    return [folder / "x.npz"]


def csv(folder):
    pd.DataFrame(good(), columns=[f"f{i}" for i in range(6)]).assign(label="a").to_csv(folder / "x.csv")
    return [folder / "x.csv"]


def word2vec(folder):
    (folder / "x.vec").write_text(
        "20 6\n" + "".join(f"w{i} {' '.join(map(str, row))}\n" for i, row in enumerate(good()))
    )
    return [folder / "x.vec"]


def mtx(folder):
    scipy.io.mmwrite(folder / "x.mtx", scipy.sparse.coo_array(good()))
    return [folder / "x.mtx"]


def mat(folder):
    scipy.io.savemat(folder / "x.mat", {"acts": good()})
    return [folder / "x.mat"]


def fvecs(folder):
    width = np.full((20, 1), 6, np.int32).view(np.float32)
    np.hstack([width, good()]).tofile(folder / "x.fvecs")
    return [folder / "x.fvecs"]


BESIDE = {
    "names": np.array([f"row {i}" for i in range(20)]),
    "when": np.datetime64("2024-01-01") + np.arange(20),
    "run": np.array({"layer": 3}, object),
}
RAGGED = np.empty(20, object)
RAGGED[:] = [np.ones(3)] * 20


def slipping_member(folder):
    with zipfile.ZipFile(folder / "x.npz", "w") as archive:
        archive.writestr("../x.npy", npy(body=BODY))
    return [folder / "x.npz"]


def fifo(folder):
    os.mkfifo(folder / "x.npy")
    return [folder / "x.npy"]


def empty_folder(folder):
    (folder / "x").mkdir()
    return [folder / "x"]


def dangling(folder):
    (folder / "x.npy").symlink_to(folder / "gone.npy")
    return [folder / "x.npy"]


def shard_list(line):
    def make(folder):
        (folder / "in").mkdir()
        np.save(folder / "rows.npy", good())
        (folder / "in" / "shards.txt").write_text(line.replace("HERE", str(folder)) + "\n")
        return [folder / "in" / "shards.txt"]

    return make


def link_out(folder):
    (folder / "in").mkdir()
    np.save(folder / "rows.npy", good())
    (folder / "in" / "rows.npy").symlink_to(folder / "rows.npy")
    return [folder / "in"]


def hdf5_external_storage(folder):
    (folder / "secret").write_bytes(BODY)
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("a", (20, 6), "f4", external=[(str(folder / "secret"), 0, len(BODY))])
    return [folder / "x.h5"]


def hdf5_external_link(folder):
    with h5py.File(folder / "other.h5", "w") as file:
        file["a"] = good()
    with h5py.File(folder / "x.h5", "w") as file:
        file["a"] = h5py.ExternalLink("other.h5", "a")
    return [folder / "x.h5", "--key", "a"]


def hdf5_virtual(folder):
    with h5py.File(folder / "other.h5", "w") as file:
        file["a"] = good()
    layout = h5py.VirtualLayout((20, 6), "f4")
    layout[...] = h5py.VirtualSource(folder / "other.h5", "a", (20, 6))
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_virtual_dataset("a", layout)
    return [folder / "x.h5"]


def zarr_missing_chunk(folder):
    zarr.create_array(folder / "x.zarr", data=good(), chunks=(5, 6))
    (folder / "x.zarr" / "c" / "2" / "0").unlink()
    return [folder / "x.zarr"]


def zarr_unpickling(folder):
    zarr.create_array(folder / "x.zarr", data=good(), chunks=(5, 6), zarr_format=2)
    path = folder / "x.zarr" / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"filters": [{"id": "pickle"}]}))
    return [folder / "x.zarr"]


def shards(**parts):
    def make(folder):
        (folder / "in").mkdir()
        for name, array in parts.items():
            np.save(folder / "in" / f"{name.replace('_', '-')}.npy", array)
        return [folder / "in"]

    return make


def files(*args, names):
    """Saves rows under each of `names`; `args` are those of `embed`."""

    def make(folder):
        for name in names.split():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            np.save(folder / name, good())
        return [folder / args[0], *args[1:]]

    return make


def two_names_of_one(folder):
    files("in", names="in/run-1.npy")(folder)
    (folder / "in" / "run-2.npy").symlink_to(folder / "in" / "run-1.npy")
    return [folder / "in"]


def dangling_shard(folder):
    files("in", names="in/x-1.npy")(folder)
    (folder / "in" / "x-2.npy").symlink_to(folder / "gone.npy")
    return [folder / "in" / "x-*.npy"]


def two_31_elements(folder):
    header = npy("'|i1'", "(20000000, 128)")
    with open(folder / "x.npy", "wb") as file:
        file.write(header)
        file.truncate(len(header) + 20_000_000 * 128)
    return ["plan", folder / "x.npy", "--budget", "900GB", "--device", "cpu"]


def changes(how):
    """Makes an input that changes after its first bytes were read."""

    def make(folder, monkeypatch):
        np.save(folder / "x.npy", good(3000))
        path, fill, done = folder / "x.npy", OpenFile.fill, []

        def changing(file, buffer, offset):
            if len(buffer) > 3000 * 20 and not done:
                done.append(1)
                how(path)
            return fill(file, buffer, offset)

        monkeypatch.setattr(OpenFile, "fill", changing)
        return [path]

    return make


def cut(path):
    os.truncate(path, 1000)


def replace(path):
    np.save(path.with_name("new.npy"), good(3000) + 1)
    os.rename(path.with_name("new.npy"), path)


def append(path):
    with open(path, "ab") as file:
        file.write(b"more")


def output_is_input(folder):
    np.save(folder / "x.npy", good())
    return [folder / "x.npy", "-o", folder / "x.npy"]


def another_run(folder):
    np.save(folder / "x.npy", good())
    (folder / "out").mkdir()
    (folder / "out" / "manifest.json").write_text(as_text(new_manifest({"other": 1}, "")))
    return [folder / "x.npy", "-o", folder / "out"]


def other_files(folder):
    np.save(folder / "x.npy", good())
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").write_text("")
    return [folder / "x.npy", "-o", folder / "out"]


def read_only(folder, monkeypatch):
    """Makes creating the output folder fail, since root may write everywhere."""
    np.save(folder / "x.npy", good())
    mkdir = Path.mkdir

    def denied(path, *args, **kwargs):
        if path.name == "out":
            raise PermissionError(errno.EACCES, "Permission denied")
        return mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", denied)
    return [folder / "x.npy", "-o", folder / "out"]


def no_space(folder, monkeypatch):
    np.save(folder / "x.npy", good())

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blockfile.os, "posix_fallocate", full)
    return [folder / "x.npy"]


def with_values(n_rows=20, **places):
    """Saves rows with changed values: row_column=value."""

    def make(folder):
        rows = good(n_rows)
        for place, value in places.items():
            row, column = map(int, place.removeprefix("at_").split("_"))
            rows[row, column] = value
        np.save(folder / "x.npy", rows)
        return [folder / "x.npy"]

    return make


def dropping(folder):
    return [*with_values(at_7_2=np.nan, at_9_0=np.inf)(folder), "--drop-nonfinite"]


def large_halves(folder):
    np.save(
        folder / "x.npy", np.full((20, 600), 60_000, np.float16) * np.linspace(0.5, 1, 20, dtype=np.float16)[:, None]
    )
    return [folder / "x.npy"]


def wild_column(folder):
    rows = good()
    rows[:, 3] *= 1e30
    np.save(folder / "x.npy", rows)
    return [folder / "x.npy"]


def zero_rows(folder):
    rows = good()
    rows[[3, 8]] = 0
    np.save(folder / "x.npy", rows)
    return [folder / "x.npy", "--metric", "cosine"]


def duplicates(folder):
    rows = good(3000)
    rows[500:] = rows[0]
    np.save(folder / "x.npy", rows)
    return [folder / "x.npy"]


def disjoint(folder):
    """Saves two groups of codes without a common feature."""
    rows = np.abs(good(40, 64)) * (np.random.default_rng(1).random((40, 64)) < 0.05)
    rows[:, [0, 63]] = 0
    rows[:20, 32:], rows[20:, :32] = 0, 0
    rows[:20, 0], rows[20:, 63] = 1, 1
    np.save(folder / "x.npy", rows.astype(np.float32))
    return [folder / "x.npy", "--metric", "cosine"]


def constant_columns(folder):
    rows = good()
    rows[:, 1], rows[:, 4] = 0, 2
    np.save(folder / "x.npy", rows)
    return ["inspect", folder / "x.npy"]


def unicode_paths(folder):
    (folder / "Meine Daten").mkdir()
    np.save(folder / "Meine Daten" / "Aktivierungen – schön 🦊.npy", good())
    return [folder / "Meine Daten" / "Aktivierungen – schön 🦊.npy"]


def pickled(folder):
    (folder / "x.npy").write_bytes(pickle.dumps(Canary()))
    return [folder / "x.npy"]


def bad_pairs(row, column, value, *options):
    def make(folder):
        indices = np.tile(np.arange(4), (20, 1))
        indices[row, column] = value
        np.save(folder / "x_indices.npy", indices)
        np.save(folder / "x_values.npy", np.ones((20, 4), np.float16))
        return [folder / "x_indices.npy", *options]

    return make


def safetensors(header, body=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def sae(config=None, decoder=1.0, **tensors):
    """Saves rows and an SAE, in which a tensor that is None is left out."""
    eye = np.eye(6, dtype=np.float32)
    encoder = np.concatenate([eye, -eye], axis=1)
    whole = {
        "W_enc": encoder,
        "b_enc": np.zeros(12, np.float32),
        "W_dec": decoder * encoder.T,
        "b_dec": np.zeros(6, np.float32),
    }
    saved = {name: value for name, value in (whole | tensors).items() if value is not None}

    def make(folder):
        np.save(folder / "x.npy", good())
        (folder / "sae").mkdir()
        save_file(
            {name: np.ascontiguousarray(value, np.float32) for name, value in saved.items()},
            folder / "sae" / "sae.safetensors",
        )
        if config is not None:
            (folder / "sae" / "cfg.json").write_text(json.dumps(config))
        return [folder / "x.npy", "--sae", folder / "sae"]

    return make


STANDARD = {"architecture": "standard", "apply_b_dec_to_input": True}
OPENAI = {
    "W_enc": None,
    "b_enc": None,
    "W_dec": None,
    "b_dec": None,
    "encoder.weight": np.ones((12, 6)),
    "pre_bias": np.ones(6),
    "latent_bias": np.ones(12),
}
TENSOR = {"dtype": "F32", "shape": [20, 6], "data_offsets": [0, 480]}
ODD_LITERAL = "{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os').system('true')}"
FLOAT_LIST = [1.0] * 120

CASES = [
    Case("body shorter than the header says", written(npy(body=BODY[:-7])), 2, "body: expected 480 bytes .*, found 473; the file was cut"),
    Case("bytes after the end", written(npy(body=BODY + b"tail")), 0, "warning: .*x.npy: body: expected 480 bytes, found 4 more; they are"),
    Case("0 bytes", written(b""), 2, "magic: expected .*, found 0 bytes"),
    Case("cut header", written(npy()[:40]), 2, "header: expected .* bytes, found the end of the file after 40"),
    Case("wrong magic", written(b"\x89PNG\r\n\x1a\n" + BODY), 2, "magic: expected .*NUMPY"),
    Case("a file of no known kind", written(b"\x89PNG\r\n\x1a\n" + BODY, "x.bin"), 2, "content: expected .*; give --shape and --dtype"),
    Case("CSV", csv, 2, "found a table of text .CSV. with 6 columns of numbers, 'f0' to 'f5'; save the columns that are its rows .usecols. with: python -c"),
    Case("vectors of words as text", word2vec, 2, "found vectors of words as text with 6 columns of numbers; save .* with: python -c"),
    Case("a .npy under gzip", written(gzip.compress(npy(body=BODY)), "x.npy.gz"), 2, "found a file compressed with gzip; unpack it with: python -c"),
    Case("MatrixMarket", mtx, 2, "found a MatrixMarket file; save it as CSR .* with: python -c"),
    Case("MATLAB", mat, 2, "found a file of MATLAB; save its largest matrix with: python -c"),
    Case(".fvecs", fvecs, 2, "found a file of fvecs; save its rows with: python -c"),
    Case("header over 10 kB", written(npy_text("{" + " " * 20_000 + "}")), 2, "header length: expected at most 10000 bytes"),
    Case("nested expression in the header", written(npy_text("[" * 99 + "]" * 99)), 2, "header: expected at most 16 nested brackets"),
    Case("calling expression in the header", written(npy_text(ODD_LITERAL)), 2, "header: expected a Python literal"),
    Case("object dtype", object_array, 2, "Python objects"),
    Case("a pickle renamed .npy", pickled, 2, "found serialised objects, which are never loaded"),
    Case("a pickle renamed .pt", lambda f: written(pickle.dumps(Canary()), "x.pt")(f), 2, "found serialised objects, which are never loaded"),
    Case(
        "header claims 3M x 12,288 on a tiny file", written(npy("'<f2'", "(3000000, 12288)", b"tiny")), 2,
        "body: expected 73728000000 bytes .*, found 4",
    ),
    Case("negative size in shape", written(npy(shape="(-3, 6)", body=BODY)), 2, "shape: expected sizes from 0"),
    Case("huge size in shape", written(npy(shape=f"({2**63}, 6)", body=BODY)), 2, "shape: expected sizes from 0"),
    Case("overflowing sizes in shape", written(npy(shape=f"({2**40}, {2**40})", body=BODY)), 2, "shape: expected fewer than 2"),
    Case("boolean size in shape", written(npy(shape="(True, 6)", body=BODY)), 2, "shape: expected sizes from 0"),
    Case("0-d", saved(np.float32(3)), 2, r"shape: expected 2 dimensions .*, found 0 in \(\)"),
    Case("1-d", saved(np.ones(9)), 2, r"shape: expected 2 dimensions .*, found 1 in \(9,\); reshape"),
    Case("3-d", saved(np.ones((4, 3, 2))), 2, r"found 3 in \(4, 3, 2\), as 4 x 3 positions of 2 features have; flatten it to \(12, 2\) with: python -c"),
    Case("(0, D)", saved(np.ones((0, 5))), 2, "shape: expected at least 3 rows, found 0"),
    Case("(N, 0)", saved(np.ones((5, 0))), 2, "shape: expected at least 1 feature, found 0"),
    Case("structured dtype", saved(np.ones((5, 5), [("a", "f4")])), 2, "descr: expected .*, found fields"),
    Case("datetime dtype", saved(np.ones((5, 5), "M8[s]")), 2, r"dtype: expected .*\(dates\)"),
    Case("string dtype", saved(np.ones((5, 5), "U3")), 2, r"dtype: expected .*\(text\)"),
    Case("complex dtype", saved(np.ones((5, 5), complex)), 2, r"dtype: expected .*\(complex numbers\)"),
    Case("Fortran order", fortran, 0, None),
    Case("two numpy.save into one file", saved_twice, 2, "body: expected one array, found another one behind it.*; join their rows with: python -c"),
    Case("big-endian", big_endian, 0, None),
    Case("bfloat16 saved by ml_dtypes", saved(BFLOATS), 2, "dtype: .*V2.*--dtype bfloat16"),
    Case("the same with --dtype bfloat16", lambda f: [*saved(BFLOATS)(f), "--dtype", "bfloat16"], 0, None),
    Case("bfloat16 saved as int16, with --dtype bfloat16", lambda f: [*saved(BFLOATS.view("i2"))(f), "--dtype", "bfloat16"], 0, None),
    Case("--dtype bfloat16 for rows of float32", files("x.npy", "--dtype", "bfloat16", names="x.npy"), 2, "expected bfloat16 as the option says"),
    Case(
        "the same for safetensors", written(safetensors({"a": TENSOR}, BODY), "x.safetensors", "--dtype", "bfloat16"), 2,
        r"x.safetensors\[a\]: dtype: expected bfloat16 as the option says, found float32; leave the option out",
    ),
    Case("--key for a file of one array", files("x.npy", "--key", "a", names="x.npy"), 2, "--key: expected no such option for .npy files"),
    Case("--features for a file of dense rows", files("x.npy", "--features", "6", names="x.npy"), 2, "--features: expected no such option"),
    Case(
        "the same for a container", written(safetensors({"a": TENSOR}, BODY), "x.safetensors", "--features", "6"), 2,
        "--features: expected no such option for rows that are not pairs, found 6; leave --features out",
    ),
    Case("--shape for a file with a header", files("x.npy", "--shape", "20,6", names="x.npy"), 2, "--shape: expected no such option for .npy"),
    Case("float8 saved by ml_dtypes", saved(good().view("V1")), 2, "one byte without a meaning, as float8 is saved"),
    Case("bool", saved(good() > 0), 0, None),
    Case("int8", saved((good() * 9).astype(np.int8)), 0, None),
    Case("uint8", saved((good() * 9).astype(np.uint8)), 0, None),
    Case("int16", saved((good() * 9).astype(np.int16)), 0, None),
    Case("compressed .npz of rows that are mostly zeros, 1:900", mostly_zeros, 0, None),
    Case("compressed .npz that claims more than it can hold", bomb, 2, r"x.npz\[a\]: size: expected at most 1032 times"),
    Case("two numpy.savez into one file", archives_in_one_file, 2, "archive: expected one archive, found another .*; save each to a file of its own"),
    Case(
        ".npz: text, dates and objects beside the array", several(npz, "x.npz", acts=good(), **BESIDE), 0,
        r"left aside: names \(text\), when \(dates\), run \(Python objects, never loaded\)",
    ),
    Case(
        ".npz: 2-D integers beside objects", several(npz, "x.npz", tokens=TOKENS, acts=RAGGED), 2,
        r"found tokens \(int64, 20 x 4\), acts \(Python objects, 20\); name one with --key NAME",
    ),
    Case("SciPy's CSC", sparse("csc"), 0, "reading CSC data, indices and indptr of .*x.npz, float32, 20 x 6"),
    Case("SciPy's CSC with another width in --features", sparse("csc", "--features", "20"), 2, "--features: expected 6, as the file says, found 20; leave"),
    Case("SciPy's COO with two values in a place", sparse("coo"), 2, "row 0: expected each feature once, found two values of feature 0; save it as CSR with: python -c"),
    Case("SciPy's BSR", sparse("bsr"), 2, "format: expected csr, csc or coo, found bsr; save it as CSR with: python -c"),
    Case("SciPy's DIA", sparse("dia"), 2, "format: expected csr, csc or coo, found dia; save it as CSR with: python -c"),
    Case("a square matrix of rows or columns, unsaid", square_csr, 0, "warning: .*indptr: its bounds may be those of 20 rows or of as many columns; they are read as rows"),
    Case("a member named ../x", slipping_member, 2, "member: expected plain names"),
    Case("stdin", lambda f: ["-"], 2, "found standard input; write the data to a file first"),
    Case("FIFO", fifo, 2, "expected a regular, seekable file, found a pipe"),
    Case("an empty folder", empty_folder, 2, "shards: expected files in the folder"),
    Case("dangling link", dangling, 2, "found a link to .*gone.npy, which is not there"),
    Case("missing file", lambda f: [f / "x.npy"], 2, "found nothing there; check the path"),
    Case("shard list with ../", shard_list("../rows.npy"), 2, "shard: expected a file within this folder, found '../rows.npy'"),
    Case("shard list with absolute paths", shard_list("HERE/rows.npy"), 2, "shard: expected a file within this folder"),
    Case("a link out of the folder of shards", link_out, 0, None),
    Case("a link to nothing among shards", dangling_shard, 2, "x-2.npy: file: .*found a link to .*gone.npy, which is not there; mend the link"),
    Case("one file by two names", two_names_of_one, 2, "shards: expected each file once, found .*run-1.npy and .*run-2.npy, which are one"),
    Case("HDF5 external storage", hdf5_external_storage, 2, "storage: expected data in the file itself, found another file's"),
    Case("HDF5 external link", hdf5_external_link, 2, "link a: expected data in the file itself, found a link"),
    Case("HDF5 virtual data set", hdf5_virtual, 2, "storage: expected data in the file itself"),
    Case("Zarr with missing chunks", zarr_missing_chunk, 2, "chunks: expected all 4, found 1 of them missing"),
    Case("Zarr with a codec that unpickles", zarr_unpickling, 2, "codec: expected one of .*, found 'pickle'"),
    Case("shards of different widths", shards(a_1=good(), a_2=good(20, 7)), 2, "a-2.npy: features: expected 6, as .*a-1.npy has, found 7"),
    Case("shards of different dtypes", shards(a_1=good(), a_2=good().astype("f8")), 2, "a-2.npy: dtype: expected float32, .*float64"),
    Case("a missing number in the sequence", shards(a_1=good(), a_2=good(), a_4=good()), 0, "warning: .*1 missing among the numbers from 1 to 4, first 3"),
    Case("fewer shards than their names say", shards(**{"a_1_of_3": good(), "a_2_of_3": good()}), 2, "expected 3, as their names say, found 2"),
    Case("shards of several folders", files("*/*.npy", names="rank-2/0.npy rank-10/0.npy"), 0, "2 shards, rank-2/0.npy to rank-10/0.npy"),
    Case("train and test in one folder", files("in", names="in/train-0.npy in/train-1.npy in/test-0.npy"), 2, "found 2 kinds: .*train-.*(2 files)"),
    Case("a folder of folders of shards", files("in", names="in/1/0.npy in/2/0.npy"), 2, r"name those in its folders with a glob: '.*in/\*\*/\*.npy'"),
    Case("a glob that matches nothing", files("y*.npy", names="x.npy"), 2, "shards: expected files that this glob matches, found none"),
    Case("more than 2^31 elements", two_31_elements, 0, None),
    Case("file truncated during the run", changes(cut), 5, "x.npy: size: expected .* as on opening, found 1000"),
    Case("file replaced during the run", changes(replace), 5, "x.npy: .* as on opening, found .*start again"),
    Case("file appended to during the run", changes(append), 5, "x.npy: size: expected .* as on opening"),
    Case("output = input", output_is_input, 2, "--out: .*x.npy: expected another place than the input"),
    Case("output folder holds another run", another_run, 2, "holds a run of another input"),
    Case("output folder holds other files", other_files, 2, "expected a new or empty folder or a run of this input, found other files"),
    Case("read-only output", read_only, 4, "cannot be written .Permission denied"),
    Case("no space", no_space, 4, "cannot be written .No space left on device"),
    Case("unicode and blanks in paths", unicode_paths, 0, None),
    Case("NaN", with_values(at_7_2=np.nan, at_9_0=np.nan), 2, "row 7: expected finite values, .* in 2 of 20 rows.*--drop-nonfinite"),
    Case("Inf", with_values(at_3_1=-np.inf), 2, "row 3: expected finite values, .* in 1 of 20 rows"),
    Case("NaN with --drop-nonfinite", dropping, 0, "warning: .*2 of 20 rows have NaN or infinite values; they are left out and NaN"),
    Case("float16 sums overflow (60000²)", large_halves, 0, None),
    Case("one column times 1e30", wild_column, 0, "warning: feature 3: its values are millions of times those of the others"),
    Case("all-zero rows", zero_rows, 0, "2 rows are all zeros; they are marked is_zero"),
    Case("duplicate rows, by the thousand", duplicates, 0, "2,500 rows repeat an earlier row; they are marked duplicate_of"),
    Case("rows that share no active feature", disjoint, 0, "edges, in [2-9] pieces"),
    Case("constant columns, dead features", constant_columns, 0, None),
    Case("N = 1", saved(good(1)), 2, "shape: expected at least 3 rows, found 1"),
    Case("N = 2", saved(good(2)), 2, "shape: expected at least 3 rows, found 2"),
    Case("N <= n_neighbors", saved(good(9)), 0, "warning: n_neighbors: 15 is more than the 9 rows; 9 are used"),
    Case("D = 1", saved(good(20, 1)), 0, None),
    Case("TopK pairs of an unknown width", bad_pairs(0, 0, 0), 2, "features: expected one of n_features.*; give the width with --features"),
    Case("TopK index beyond the width", bad_pairs(7, 1, 64, "--features", "64"), 2, "row 7: expected indices from 0 to 63, .*found 64"),
    Case("TopK feature twice in a row", bad_pairs(7, 1, 0, "--features", "64"), 2, "row 7: expected each feature once, found feature 0 twice"),
    Case("headerless file of another size", written(BODY, "x.bin", "--shape", "20,7", "--dtype", "float32"), 2, "size: expected 560 bytes"),
    Case("headerless file without a dtype", written(BODY, "x.bin", "--shape", "20,6"), 2, "--dtype: expected one of .*, found none"),
    Case("safetensors cut off", written(safetensors({"a": TENSOR}, BODY[:-1]), "x.safetensors"), 2, "body: expected 480 bytes, found 479"),
    Case(
        "safetensors whose tensors overlap", written(safetensors({"a": TENSOR, "b": TENSOR}, BODY), "x.safetensors"), 2,
        "data_offsets: expected 480, where the one before ends, found 0",
    ),
    Case(
        "safetensors whose header disagrees", written(safetensors({"a": TENSOR | {"shape": [20, 7]}}, BODY), "x.safetensors"), 2,
        "data_offsets: expected 560 bytes .*, found 480",
    ),
    *(
        Case(
            f"{kind}: 3-D activations beside 2-D tokens", several(write, name, acts=CUBE, tokens=TOKENS), 2,
            r"arrays: expected only one that can be the rows, found acts \(float16, 20 x 4 x 6\), tokens \(int64, 20 x 4\); name one with --key NAME",
        )
        for kind, write, name in (
            (".npz", npz, "x.npz"), (".pt", pt, "x.pt"), ("safetensors", safe, "x.safetensors"), ("HDF5", hdf5, "x.h5"), ("Zarr", zarr_group, "x.zarr"),
        )
    ),
    Case("the same with --key tokens", several(npz, "x.npz", "--key", "tokens", acts=CUBE, tokens=TOKENS), 0, "reading tokens of .*x.npz, int64, 20 x 4"),
    Case("the same with --key acts", several(npz, "x.npz", "--key", "acts", acts=CUBE, tokens=TOKENS), 2, r"x.npz\[acts\]: shape: .*flatten it to \(80, 6\) with"),
    Case("3-D activations and no other matrix", several(npz, "x.npz", acts=CUBE, labels=np.arange(20)), 2, r"x.npz\[acts\]: .*flatten it to \(80, 6\) with"),
    Case("2-D integers beside 1-D floats", several(npz, "x.npz", locations=TOKENS, activations=np.ones(20)), 2, r"found locations \(int64, 20 x 4\), activations \(float64, 20\); name"),
    Case("2-D floats beside 1-D labels", several(npz, "x.npz", acts=good(), labels=np.arange(20)), 0, "reading acts of .*x.npz, float32, 20 x 6"),
    Case(
        "Parquet: tensors beside lists of integers", several(parquet, "x.parquet", input_ids=TOKENS, emb=CUBE.astype("f4")), 2,
        r"columns: expected only one that can be the rows, found emb \(tensor<float>\[4 x 6\]\), input_ids \(list<int64>\); name one with --key NAME, or save",
    ),
    Case("Parquet: bytes beside lists of integers", several(parquet, "x.parquet", bbox=TOKENS, emb=np.array([b"12"] * 20)), 2, r"found emb \(binary\), bbox \(list<"),
    Case("Parquet: lists of floats in two columns", several(parquet, "x.parquet", text=good(), image=good()), 2, r"found text \(list<.*\), image \(list<.*\); name one with --key"),
    Case("Parquet: lists of floats beside lists of integers", several(parquet, "x.parquet", input_ids=TOKENS, emb=good()), 0, "reading emb of .*x.parquet, float32, 20 x 6"),
    Case("SAE checkpoint that is read right", sae(STANDARD), 0, "6.0 latents are active on average in the first 20 rows, and its decoder gives back 100.0%"),
    Case("SAE that does not belong to the rows", sae(STANDARD, decoder=-1.0), 0, "warning: .*gives back -.*, less than their mean would; check that"),
    Case("SAE checkpoint without its config", sae(), 2, "layout: expected a checkpoint of SAELens .*, found the tensors W_dec, .* no JSON file"),
    Case("SAE checkpoint without a bias", sae(STANDARD, b_enc=None), 2, "tensors: expected those of SAELens standard.*, found no b_enc among W_dec"),
    Case("SAE checkpoint with an unknown tensor", sae(STANDARD, pre_bias=np.ones(6)), 2, "found pre_bias, which may change the codes; encode the rows"),
    Case("SAE with an activation that is not supported", sae({"architecture": "abstopk", "k": 2}), 2, "architecture: expected one of standard, topk, jumprelu, found 'abstopk'"),
    Case("SAE with a normalisation that is not supported", sae(STANDARD | {"normalize_activations": "expected_average_only_in"}), 2, "normalize_activations: expected one of none"),
    Case("SAE with a field that may change codes", sae(STANDARD | {"input_scaling": 2.5}), 2, "config: expected only fields that are understood .*, found input_scaling 2.5"),
    Case("OpenAI's SAE without its activation", sae(**OPENAI), 2, "activation: expected one of TopK, ReLU, found none; say it in the JSON file"),
    Case("safetensors header of 2^60 bytes", written(struct.pack("<Q", 2**60) + b"{}", "x.safetensors"), 2, "header length: expected at most"),
]  # fmt: skip


def run(args, monkeypatch, capsys):
    """Runs the command line and returns its exit code and standard error."""
    command = [] if args[0] in ("plan", "inspect") else ["embed"]
    limits = ["--device", "cpu", "--budget", "2GB", "--n-epochs", "2"] if command else []
    monkeypatch.setattr(sys, "argv", ["streamumap", *command, *map(str, args), *limits])
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().err


def told(err, pattern, folder):
    """Returns the line of the message without the folder."""
    lines = [line for line in err.splitlines() if pattern and re.search(pattern, line)]
    text = re.sub(r"\d{17,}|\b\d+\.\d s", "…", lines[-1]) if lines else ""
    return text.removeprefix("streamumap: ").replace(f"{folder}/", "").replace(str(folder), "")


@pytest.fixture
def tmp_path(tmp_path_factory):
    """A folder whose name is short: errors cut off long ones, and the document has them whole."""
    return tmp_path_factory.mktemp("x")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_what_arrives_broken(case, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CANARY", str(tmp_path / "nest"))
    (tmp_path / "nest").mkdir()
    needs_patch = case.make.__code__.co_argcount == 2
    args = case.make(tmp_path, monkeypatch) if needs_patch else case.make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.npy") if path.is_file()} if case.code == 2 else {}
    code, err = run(args, monkeypatch, capsys)
    assert code == case.code, err
    assert "Traceback" not in err and "pickle" not in err.replace("renamed", "").lower() or "codec" in case.what, err
    assert list((tmp_path / "nest").iterdir()) == [], "the canary hatched"
    if case.code:
        assert (
            err.count("streamumap: ") == 1 and len([x for x in err.splitlines() if x.startswith("streamumap: ")]) == 1
        )
        assert not list(tmp_path.rglob("embedding.npy"))
        if "python -c" in err:
            check_pasted(err, tmp_path)
    elif args[0] not in ("plan", "inspect"):
        check_map(case, Path(args[0]), tmp_path)
    assert case.says is None or re.search(case.says, err), err
    assert all(path.read_bytes() == content for path, content in before.items())
    message = told(err, case.says, tmp_path)
    RESULTS[case.what] = f"| {case.what} | {case.code} | ✓ {escaped(message) if message else 'works'} |"


def check_pasted(err, folder):
    """Runs the command at the end of a message, and opens what it saves."""
    before = set(folder.iterdir())
    command = shlex.split(err[err.index("python -c") :].strip())
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=60)
    (saved,) = set(folder.iterdir()) - before
    with in_place(open_source(saved)) as rows:
        assert np.isfinite(rows.read(0, rows.n_rows)).all() and rows.n_features in (2, 6)


def check_map(case, path, folder):
    found = np.load(cli.default_out(str(path)) / "embedding.npy")
    left_out = ~np.isfinite(found).all(axis=1)
    assert np.flatnonzero(left_out).tolist() == ([7, 9] if "--drop" in case.what else [])
    if case.what == "big-endian":
        from streamumap import engine
        from streamumap.params import Params

        engine.embed(Request(folder / "little.npy", Params(n_epochs=2), device="cpu", budget="2GB"), folder / "little")
        np.testing.assert_array_equal(found, np.load(folder / "little" / "embedding.npy"))
    if case.what == "all-zero rows":
        assert np.linalg.norm(found[3] - found[8]) < np.ptp(found)


def escaped(text):
    text = text.replace("|", r"\|").replace("`", "'")
    return f"`{text}`"


MARK = "## What arrives broken"


def document():
    """Returns the document up to MARK, followed by the table."""
    written = DOCS.read_text(encoding="utf-8")
    lines = [
        *written[: written.index(MARK)].splitlines(),
        MARK,
        "",
        "Written by `UPDATE_DOCS=1 pytest tests/test_broken_inputs.py`: every line is a test, and every message is what that test saw.",
        "Exit codes: 0 done, 2 the input or an option is wrong, 4 the output cannot be written, 5 the input changed during the run.",
        "Nothing is ever unpickled, the input is opened read-only, and no error shows a traceback.",
        "",
        "| case | exit code | what the user is told |",
        "| --- | --- | --- |",
    ]
    return "\n".join([*lines, *(RESULTS[case.what] for case in CASES)]) + "\n"


def test_the_document_is_what_the_tests_saw():
    if len(RESULTS) < len(CASES):
        pytest.skip("needs all of the cases above")
    if os.environ.get("UPDATE_DOCS"):
        DOCS.write_text(document(), encoding="utf-8")
    assert DOCS.read_text(encoding="utf-8") == document()


def test_reading_of_standard_input_needs_no_pipe(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("data"))
    assert run(["-"], monkeypatch, capsys)[0] == 2
