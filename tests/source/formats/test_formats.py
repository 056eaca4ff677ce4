"""Every format is read exactly, scanned alike, and gives the map of the dense `.npy`."""

import io
import json
import os
import struct
import sys
import tempfile
import zipfile

import anndata
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import safetensors.numpy
import scipy.sparse
import torch
import zarr

from streamumap import cli, engine
from streamumap.errors import InputChanged, InputError
from streamumap.params import Params
from streamumap.planning.job import job_of
from streamumap.request import Request
from streamumap.source import Reading, SparseSource, ToConvert, in_place, open_source
from streamumap.source.formats.csr_writer import pack_file
from streamumap.source.scan.cpu import scan

N, D, K = 70, 50, 5
BOUNDS = dict(budget="1GB", device="cpu")


def pairs():
    random = np.random.default_rng(3)
    indices = np.stack([np.sort(random.choice(D, K, replace=False)) for _ in range(N)]).astype(np.int32)
    return indices, random.integers(1, 99, (N, K)).astype(np.float32)


def rows():
    dense = np.zeros((N, D), np.float32)
    indices, values = pairs()
    np.put_along_axis(dense, indices, values, axis=1)
    return dense


def npy(folder):
    np.save(folder / "x.npy", rows())
    return folder / "x.npy"


def npy_folder(folder):
    for i, part in enumerate(np.split(rows(), [9, 10, 31, 33, 50, 51, 52, 60, 61, 66])):
        np.save(folder / f"data-{i}.npy", part)
    (folder / "notes.md").write_text("not a shard")
    return folder


def npy_glob(folder):
    return f"{npy_folder(folder)}/data-*.npy"


def shard_list(folder):
    (folder / "deep").mkdir()
    for name, part in (("b.npy", rows()[:40]), ("deep/a.npy", rows()[40:])):
        np.save(folder / name, part)
    (folder / "shards.txt").write_text("b.npy\n\ndeep/a.npy\n")
    return folder / "shards.txt"


def npz_stored(folder):
    np.savez(folder / "x.npz", acts=rows(), labels=np.arange(N))
    return folder / "x.npz"


def npz_compressed(folder):
    np.savez_compressed(folder / "x.npz", acts=rows(), labels=np.arange(N))
    return folder / "x.npz"


def npy_fortran(folder):
    np.save(folder / "x.npy", np.asfortranarray(rows()))
    return folder / "x.npy"


def npz_fortran(folder):
    np.savez(folder / "x.npz", acts=np.asfortranarray(rows()), labels=np.arange(N))
    return folder / "x.npz"


def npz_fortran_compressed(folder):
    np.savez_compressed(folder / "x.npz", acts=np.asfortranarray(rows().astype(">f4")))
    return folder / "x.npz"


def npz_beside(folder):
    names, dates = np.array([f"row {i}" for i in range(N)]), np.datetime64("2024-01-01") + np.arange(N)
    others = {
        "text": names.reshape(35, 2),
        "when": dates,
        "lists": np.array([[1], [2, 3]], object),
        "run": {"layer": 3},
    }
    np.savez(folder / "x.npz", acts=rows(), shape=names, format=names, fields=np.zeros(N, "i4, f4"), **others)
    return folder / "x.npz"


def pairs_fortran(folder):
    for name, part in zip(("indices", "values"), pairs(), strict=True):
        np.save(folder / f"x_{name}.npy", np.asfortranarray(part))
    return folder / "x_indices.npy", Reading(n_features=D)


def npz_shards(folder):
    for i, part in enumerate(np.split(rows(), [30])):
        (np.savez, np.savez_compressed)[i](folder / f"{i}.npz", acts=part)
    return folder


def npz_pairs(folder):
    np.savez(folder / "x.npz", indices=pairs()[0], values=pairs()[1], n_features=D)
    return folder / "x.npz"


def npz_pairs_compressed(folder):
    np.savez_compressed(folder / "x.npz", indices=pairs()[0], values=pairs()[1], n_features=D)
    return folder / "x.npz"


def csr_stored(folder):
    scipy.sparse.save_npz(folder / "x.npz", scipy.sparse.csr_matrix(rows()), compressed=False)
    return folder / "x.npz"


def csr_compressed(folder):
    scipy.sparse.save_npz(folder / "x.npz", scipy.sparse.csr_array(rows()))
    return folder / "x.npz"


def csc_stored(folder):
    scipy.sparse.save_npz(folder / "x.npz", scipy.sparse.csc_matrix(rows()), compressed=False)
    return folder / "x.npz"


def csc_compressed(folder):
    scipy.sparse.save_npz(folder / "x.npz", scipy.sparse.csc_array(rows()))
    return folder / "x.npz"


def csc_plain(folder):
    """Without SciPy's name of the form: the shape tells."""
    matrix = scipy.sparse.csc_array(rows())
    np.savez(folder / "x.npz", data=matrix.data, indices=matrix.indices, indptr=matrix.indptr, shape=matrix.shape)
    return folder / "x.npz"


def coo(folder):
    matrix = scipy.sparse.coo_array(rows())
    order = np.random.default_rng(0).permutation(matrix.nnz)
    values = (matrix.data[order], (matrix.row[order], matrix.col[order]))
    scipy.sparse.save_npz(folder / "x.npz", scipy.sparse.coo_matrix(values, matrix.shape))
    return folder / "x.npz"


def h5ad_csc(folder):
    anndata.AnnData(scipy.sparse.csc_matrix(rows())).write_h5ad(folder / "x.h5ad")
    return folder / "x.h5ad"


def zarr_csc(folder):
    """As anndata lays it out."""
    matrix, group = scipy.sparse.csc_matrix(rows()), zarr.open_group(folder / "x.zarr", mode="w")
    group.create_group("obs")
    inner = group.create_group("X")
    inner.attrs.update({"encoding-type": "csc_matrix", "shape": list(matrix.shape)})
    for name in ("data", "indices", "indptr"):
        inner.create_array(name, data=getattr(matrix, name))
    return folder / "x.zarr"


def safetensors_file(folder):
    safetensors.numpy.save_file({"acts": rows(), "labels": np.arange(N)}, folder / "x.safetensors", {"by": "us"})
    return folder / "x.safetensors"


def safetensors_shards(folder):
    for i, part in enumerate(np.split(rows(), [20, 41])):
        safetensors.numpy.save_file({"acts": np.ascontiguousarray(part)}, folder / f"x-{i + 1:05}-of-00003.safetensors")
    return folder


def safetensors_pairs(folder):
    safetensors.numpy.save_file(dict(zip(("top_indices", "top_acts"), pairs(), strict=True)), folder / "x.safetensors")
    return folder / "x.safetensors", Reading(n_features=D)


def pair_shards(folder):
    for i, (indices, values) in enumerate(zip(*(np.split(part, [11, 40]) for part in pairs()), strict=True)):
        np.save(folder / f"x-{i}_indices.npy", indices)
        np.save(folder / f"x-{i}_values.npy", values)
    (folder / "sae.json").write_text(f'{{"num_features": {D}}}')
    return folder


def raw(folder):
    rows().astype("<f4").tofile(folder / "x.bin")
    return folder / "x.bin", Reading(dtype="float32", shape=(N, D))


def parquet(folder, list_size=D, **options):
    column = pa.array(rows().tolist(), pa.list_(pa.float32(), list_size))
    table = pa.table({"id": np.arange(N), "acts": column})
    pa.parquet.write_table(table, folder / "x.parquet", row_group_size=16, **options)
    return folder / "x.parquet"


def parquet_lists(folder):
    return parquet(folder, -1)


def arrow(folder, compression="zstd"):
    table = pa.table({"acts": pa.array(rows().tolist(), pa.list_(pa.float32(), D))})
    pa.feather.write_feather(table, folder / "x.feather", compression, chunksize=16)
    return folder / "x.feather"


def pt(folder):
    torch.save({"run": {"acts": torch.from_numpy(rows())}, "labels": torch.arange(N)}, folder / "x.pt")
    return folder / "x.pt"


def pt_shards(folder):
    for i, part in enumerate(np.split(rows(), [20, 41])):
        torch.save(torch.from_numpy(part), folder / f"{i}.pt")
    return folder


def hdf5(folder, **options):
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("acts", data=rows(), **options)
        file["labels"] = np.arange(N)
    return folder / "x.h5"


def hdf5_chunked(folder):
    return hdf5(folder, chunks=(16, 20), compression="gzip")


def hdf5_pairs(folder):
    with h5py.File(folder / "x.h5", "w") as file:
        file["top_indices"], file["top_acts"] = pairs()
        file.attrs["num_features"] = D
    return folder / "x.h5"


def h5ad(folder):
    matrix = scipy.sparse.csr_matrix(rows())
    with h5py.File(folder / "x.h5ad", "w") as file:
        group = file.create_group("X")
        group.attrs["encoding-type"], group.attrs["shape"] = "csr_matrix", matrix.shape
        for name in ("data", "indices", "indptr"):
            group.create_dataset(name, data=getattr(matrix, name), chunks=(20,), compression="gzip")
        file.create_group("obs")["_index"] = [str(i) for i in range(N)]
    return folder / "x.h5ad"


def h5ad_dense(folder):
    with h5py.File(folder / "x.h5ad", "w") as file:
        file["X"], file["layer"] = rows(), rows()
        file.create_group("obs")
    return folder / "x.h5ad"


def zarr_array(folder, version=3):
    zarr.create_array(folder / "x.zarr", data=rows(), chunks=(16, 20), zarr_format=version)
    return folder / "x.zarr"


def zarr_2_group(folder):
    group = zarr.open_group(folder / "x.zarr", mode="w", zarr_format=2)
    group.create_array("acts", data=rows(), chunks=(70, 50))
    group.create_array("labels", data=np.arange(N))
    return folder / "x.zarr"


FORMATS = [
    npy, npy_folder, npy_glob, shard_list, npz_stored, npz_compressed, npz_shards, npz_pairs, npz_pairs_compressed, csr_stored,
    csr_compressed, safetensors_file, safetensors_shards, safetensors_pairs, pair_shards, raw, parquet, parquet_lists, arrow, pt,
    npy_fortran, npz_fortran, npz_fortran_compressed, npz_beside, pairs_fortran, csc_stored, csc_compressed, csc_plain, coo, h5ad_csc,
    zarr_csc, pt_shards, hdf5, hdf5_chunked, hdf5_pairs, h5ad, h5ad_dense, zarr_array, zarr_2_group,
]  # fmt: skip
CONVERTED = {
    "npz_compressed", "npz_shards", "npz_pairs_compressed", "csr_compressed", "parquet", "parquet_lists", "arrow", "hdf5_chunked",
    "h5ad", "zarr_array", "zarr_2_group", "npy_fortran", "npz_fortran", "npz_fortran_compressed", "pairs_fortran",
    "csc_stored", "csc_compressed", "csc_plain", "coo", "h5ad_csc", "zarr_csc",
}  # fmt: skip
SPARSE = {
    "npz_pairs",
    "npz_pairs_compressed",
    "csr_stored",
    "csr_compressed",
    "safetensors_pairs",
    "pair_shards",
    "pairs_fortran",
    "csc_stored",
    "csc_compressed",
    "csc_plain",
    "coo",
    "h5ad_csc",
    "zarr_csc",
    "hdf5_pairs",
    "h5ad",
}


def made(make, folder):
    folder.mkdir(exist_ok=True)
    found = make(folder)
    return found if isinstance(found, tuple) else (found, Reading())


@pytest.fixture(autouse=True)
def quiet_libraries():
    """zarr warns of its own future."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_rows_come_back_exactly(make, tmp_path):
    path, reading = made(make, tmp_path / "in put ü")
    before = len(os.listdir("/proc/self/fd"))
    source = open_source(path, reading)
    assert isinstance(source, ToConvert) == (make.__name__ in CONVERTED)
    assert (source.n_rows, source.n_features, source.dtype) == (N, D, "float32")
    planned, ticks = job_of(source), []
    assert planned.sparse == (make.__name__ in SPARSE) and (planned.copied_bytes > 0) == (make.__name__ in CONVERTED)
    with in_place(source, ticks.append) as found:
        assert isinstance(found, SparseSource) == (make.__name__ in SPARSE)
        assert sum(ticks) == (N if make.__name__ in CONVERTED else 0)
        assert (found.name, found.fingerprint) == (source.name, source.fingerprint)
        np.testing.assert_array_equal(found.read(0, N), rows())
        buffer = np.ones((N, D), np.float32)
        np.testing.assert_array_equal(found.read(5, 63, buffer), rows()[5:63])
        some = np.array([0, 8, 9, 10, 11, 31, 32, 69])
        np.testing.assert_array_equal(found.take(some), rows()[some])
        one, other = scan(open_source(rows()), 7), scan(found, 7)
        np.testing.assert_array_equal(one.duplicate_of, other.duplicate_of)
        np.testing.assert_array_equal(one.active_per_feature, other.active_per_feature)
        found.check_unchanged()
        source.check_unchanged()
        found.close()
    source.close()
    del source, found
    assert open_source(path, reading).fingerprint == open_source(path, reading).fingerprint
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_every_format_gives_the_same_map(tmp_path):
    maps = {}
    for make in FORMATS:
        path, reading = made(make, tmp_path / make.__name__)
        out = tmp_path / f"{make.__name__}.umap"
        report = engine.embed(Request(path, Params(n_neighbors=5, n_epochs=3), reading=reading, **BOUNDS), out)
        assert report["input"]["name"] == os.fspath(path) and report["input"]["rows"] == N
        assert not (out / "scratch").exists()
        maps[make.__name__] = (out / "embedding.npy").read_bytes()
    assert [name for name, content in maps.items() if content != maps["npy"]] == []


def test_an_interrupted_conversion_is_made_again(tmp_path):
    """A run that was stopped leaves a part of a converted file, which the next one must not take for the whole."""
    path, _ = made(npz_compressed, tmp_path / "x")
    (tmp_path / "converted_rows.bin").write_bytes(b"the rest of another run" * 10_000)
    with in_place(open_source(path)) as found:
        np.testing.assert_array_equal(found.read(0, N), rows())


def refused(path, *parts, **reading):
    with pytest.raises(InputError) as caught, in_place(open_source(path, Reading(**reading))) as found:
        scan(found, 10)
    message = str(caught.value)
    assert "\n" not in message and "expected" in message and "found" in message and "; " in message
    missing = [part for part in parts if part not in message]
    assert not missing, message


def test_which_array_is_the_rows(tmp_path):
    np.savez(tmp_path / "x.npz", a=rows(), b=rows()[:, :7])
    refused(tmp_path / "x.npz", "a (float32, 70 x 50), b (float32, 70 x 7)", "--key")
    refused(tmp_path / "x.npz", "--key", "found 'c'", key="c")
    assert open_source(tmp_path / "x.npz", Reading(key="b")).n_features == 7
    np.savez(tmp_path / "y.npz", a=np.ones(4), b=np.ones(5))
    refused(tmp_path / "y.npz", "2 dimensions")
    np.savez(tmp_path / "z.npz", a=np.ones((4, 4, 4)))
    refused(tmp_path / "z.npz", "flatten", key="a")
    safetensors.numpy.save_file({"a": rows(), "b": rows()[:, :7].copy()}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", "--key")
    assert open_source(tmp_path / "x.safetensors", Reading(key="b")).n_features == 7
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["deep/a"], file["deep/b"] = rows(), rows()[:, :7]
    refused(tmp_path / "x.h5", "deep/a (float32, 70 x 50)", "--key")
    refused(tmp_path / "x.h5", "--key", "found 'c'", key="deep/c")
    assert open_source(tmp_path / "x.h5", Reading(key="deep/b")).n_features == 7
    torch.save({"a": torch.ones(5, 5), "b": torch.ones(5, 6)}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "--key")
    assert open_source(tmp_path / "x.pt", Reading(key="b")).n_features == 6
    torch.save(torch.empty(5, 5, device="meta"), tmp_path / "y.pt")
    refused(tmp_path / "y.pt", "a tensor on meta without")


def test_bfloat16_of_safetensors_and_torch(tmp_path):
    values = torch.arange(12.0).reshape(4, 3).bfloat16()
    import safetensors.torch

    safetensors.torch.save_file({"a": values}, tmp_path / "x.safetensors")
    torch.save(values, tmp_path / "x.pt")
    for name in ("x.safetensors", "x.pt"):
        source = open_source(tmp_path / name)
        assert source.dtype == "bfloat16"
        np.testing.assert_array_equal(source.read(0, 4), values.view(torch.int16).numpy().view(np.uint16))


def test_big_endian_and_bfloat16_members_of_an_archive(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=rows().astype(">f8"))
    with in_place(open_source(tmp_path / "x.npz")) as found:
        assert found.dtype == "float64"
        np.testing.assert_array_equal(found.read(0, N), rows())
    np.savez_compressed(tmp_path / "y.npz", a=np.arange(12, dtype=np.uint16).reshape(4, 3).view("V2"))
    with in_place(open_source(tmp_path / "y.npz", Reading("bfloat16"))) as found:
        np.testing.assert_array_equal(found.read(0, 4), np.arange(12).reshape(4, 3))
    refused(tmp_path / "y.npz", "--dtype bfloat16")


def test_an_archive_that_changes_while_it_is_converted(tmp_path):
    path, _ = made(npz_compressed, tmp_path / "x")

    def touch(_):
        os.utime(path, ns=(1, 1))

    with pytest.raises(InputChanged, match="mtime_ns"), in_place(open_source(path), touch):
        pass


def test_shards_come_in_natural_order(tmp_path):
    for n in (10, 2, 1):
        np.save(tmp_path / f"data-{n}.npy", np.full((2, 3), n, np.float32))
    for n in range(3, 10):
        np.save(tmp_path / f"data-{n}.npy", np.full((2, 3), n, np.float32))
    assert open_source(tmp_path).read(0, 20)[::2, 0].tolist() == list(range(1, 11))


def test_many_shards_are_not_too_many_open_files(tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    try:
        for n in range(300):
            np.save(tmp_path / f"{n}.npy", np.full((1, 2), n, np.float32))
        source = open_source(tmp_path)
        assert source.read(0, 300)[:, 0].tolist() == list(range(300))
        source.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_member_that_inflates_without_end(tmp_path):
    """A member inflates to as much as is announced and can be, a block at a time."""
    x = np.zeros((30, 1_000_000), np.float32)
    x[::3, 7] = 1
    np.savez_compressed(tmp_path / "x.npz", a=x)
    assert (tmp_path / "x.npz").stat().st_size < 200_000
    with in_place(open_source(tmp_path / "x.npz")) as found:
        assert np.array_equal(found.read(0, 30), x)
    np.savez_compressed(tmp_path / "y.npz", a=np.zeros((3, (16 << 20) + 1), np.float32))
    refused(tmp_path / "y.npz", "[a]: row: expected at most 67108864 bytes", "numpy.save")
    refused(
        claiming(tmp_path / "z.npz", (1 << 20, 1000)), "[a]: size: expected at most 1032 times the", "write it again"
    )
    refused(claiming(tmp_path / "z.npz", (3, 4)), "[a]: member: expected a whole one, found 'the end after 0 of 48")


def claiming(path, shape):
    """Makes an archive whose directory and header claim an array that is not there."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header.getvalue())
    content = bytearray(path.read_bytes())
    at = content.index(b"PK") + 24
    content[at : at + 4] = struct.pack("<I", len(header.getvalue()) + 4 * shape[0] * shape[1])
    path.write_bytes(content)
    return path


def test_an_archive_that_is_cut_off_or_damaged(tmp_path):
    path, _ = made(npz_compressed, tmp_path / "x")
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-5])
    refused(path, "zip directory")
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    refused(path, "whole one")


def test_names_in_an_archive_that_lead_elsewhere(tmp_path):
    np.save(tmp_path / "a.npy", rows())
    for name in ("../a.npy", "/etc/a.npy", "x/../../a.npy"):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            info = zipfile.ZipInfo("a.npy")
            info.filename = name
            archive.writestr(info, (tmp_path / "a.npy").read_bytes())
        refused(tmp_path / "x.npz", "member", "plain names")


@pytest.mark.parametrize("package, make", [("h5py", hdf5), ("zarr", zarr_array)])
def test_an_extra_that_is_missing(package, make, tmp_path, monkeypatch):
    path, _ = made(make, tmp_path / "x")
    monkeypatch.setitem(sys.modules, package, None)
    refused(path, "package", f"expected {package}", "pip install 'streamumap[")


@pytest.mark.parametrize("make", [npy, csr_compressed, npz_pairs, parquet], ids=lambda make: make.__name__)
@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16", "int8"])
def test_packed_rows_are_exact_and_read_in_place(make, dtype, tmp_path):
    path, reading = made(make, tmp_path / "in")
    expected = rows()
    if make is npy:
        expected = rows().astype(dtype) if dtype != "bfloat16" else (rows().view(np.uint32) >> 16).astype(np.uint16)
        reading = Reading(dtype if dtype == "bfloat16" else None)
        np.save(path, expected)
    ticks = []
    with in_place(open_source(path, reading)) as source:
        assert pack_file(source, tmp_path / "out.npz", ticks.append) == (tmp_path / "out.npz").stat().st_size
    assert sum(ticks) == N and sorted(os.listdir(tmp_path)) == ["in", "out.npz"]
    again = open_source(tmp_path / "out.npz", reading)
    assert isinstance(again, SparseSource)
    np.testing.assert_array_equal(again.read(0, N), expected)
    if again.dtype in ("float32", "int8"):
        np.testing.assert_array_equal(scipy.sparse.load_npz(tmp_path / "out.npz").toarray(), expected)
    with pytest.raises(InputError, match="output file: expected a new file"):
        pack_file(source, tmp_path / "out.npz")
    with pytest.raises(InputError, match="a name that ends in .npz"):
        pack_file(source, tmp_path / "out.npy")


def test_pack_and_inspect_of_the_command_line(tmp_path, capsys, monkeypatch):
    path, _ = made(npy, tmp_path / "in")
    for arguments in (
        ["inspect", path],
        ["pack", path, tmp_path / "out.npz"],
        ["inspect", "--json", "-q", tmp_path / "out.npz"],
    ):
        monkeypatch.setattr(sys, "argv", ["streamumap", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        found = capsys.readouterr()
        if arguments[0] == "pack":
            assert found.out.startswith(f"{tmp_path}/out.npz: ") and "pack" in found.err
        elif "-q" not in arguments:
            assert f"streamumap pack {path} OUT.npz" in found.err and "active per row" in found.out
    report = json.loads(found.out)
    assert (report["nonzero"], report["active_per_row"]["max"]) == (N * K, K)


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_blocks_of_an_iterable(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the machine's own is everybody's
    expected = torch.from_numpy(rows()).to(getattr(torch, dtype))
    plain = expected.view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else expected.numpy()
    source = open_source(iter(expected.split([1, 30, 39])))
    assert (source.n_rows, source.dtype) == (N, dtype)
    np.testing.assert_array_equal(source.read(0, N), plain)
    assert source.fingerprint == open_source(part for part in expected.split(40)).fingerprint
    source.close()
    del source
    assert not os.listdir(tmp_path)


def test_blocks_that_are_no_rows():
    with pytest.raises(InputError, match="blocks: expected 2-D arrays, found none"):
        open_source(iter([]))
    with pytest.raises(InputError, match="block 1: shape: expected 50 features of float32, found 7 of float32"):
        open_source(iter([rows(), rows()[:, :7]]))
    with pytest.raises(InputError, match="block 0: shape: expected 2 dimensions"):
        open_source(iter([rows()[0]]))
    with pytest.raises(InputError, match="type: expected rows of numbers, found a dict"):
        open_source({"a": 1})


def test_a_torch_file_of_the_other_byte_order_is_refused(tmp_path):
    """torch swaps the bytes of its own copy, but rows are read from the file."""
    path, swapped = tmp_path / "rows.pt", tmp_path / "swapped.pt"
    torch.save(torch.arange(12.0).reshape(4, 3), path)
    with zipfile.ZipFile(path) as given, zipfile.ZipFile(swapped, "w", zipfile.ZIP_STORED) as made:
        for info in given.infolist():
            made.writestr(info, b"big" if info.filename.endswith("/byteorder") else given.read(info))
    with pytest.raises(InputError, match="byteorder: expected little, found .*big.*torch.save|save it again"):
        open_source(str(swapped))
