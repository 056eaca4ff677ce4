"""Every option for reading an input has an effect, or is an error."""

from contextlib import closing, contextmanager

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import safetensors.numpy
import safetensors.torch
import scipy.sparse
import torch
import zarr

from streamumap import StreamUMAP, engine, plan
from streamumap.errors import InputError, UnusedOption
from streamumap.params import Params
from streamumap.request import Request
from streamumap.source import Reading, in_place, open_source
from streamumap.transform import transform

BOUNDS = dict(budget="1GB", device="cpu")
FAST = dict(n_neighbors=5, n_epochs=3, random_state=0, **BOUNDS)
ROWS = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
WORDS = (ROWS.view(np.uint32) >> 16).astype(np.uint16)


def npy(folder, rows):
    np.save(folder / "x.npy", rows)
    return folder / "x.npy"


def npz(folder, rows):
    np.savez(folder / "x.npz", acts=rows)
    return folder / "x.npz"


def npz_compressed(folder, rows):
    np.savez_compressed(folder / "x.npz", acts=rows)
    return folder / "x.npz"


def tensors(folder, rows):
    safetensors.numpy.save_file({"acts": rows}, folder / "x.safetensors")
    return folder / "x.safetensors"


def parquet(folder, rows):
    values = pa.array(rows.reshape(-1))
    table = pa.table({"acts": pa.FixedSizeListArray.from_arrays(values, rows.shape[1])})
    pa.parquet.write_table(table, folder / "x.parquet")
    return folder / "x.parquet"


def arrow(folder, rows):
    values = pa.array(rows.reshape(-1))
    table = pa.table({"acts": pa.FixedSizeListArray.from_arrays(values, rows.shape[1])})
    pa.feather.write_feather(table, folder / "x.feather")
    return folder / "x.feather"


def pt(folder, rows):
    torch.save({"acts": torch.from_numpy(rows)}, folder / "x.pt")
    return folder / "x.pt"


def hdf5(folder, rows, **options):
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("acts", data=rows, **options)
    return folder / "x.h5"


def hdf5_chunked(folder, rows):
    return hdf5(folder, rows, chunks=(7, 6))


def zarr_group(folder, rows):
    zarr.open_group(folder / "x.zarr", mode="w").create_array("acts", data=rows, chunks=(7, 6))
    return folder / "x.zarr"


def array(folder, rows):
    return rows


def blocks(folder, rows):
    return iter(np.split(rows, [11]))


CONTAINERS = [npz, npz_compressed, tensors, parquet, arrow, pt, hdf5, hdf5_chunked, zarr_group]
MAKERS = [npy, *CONTAINERS, array, blocks]


def called(make):
    return make.__name__


@contextmanager
def opened(x, reading=None):
    with closing(open_source(x, reading)) as source, in_place(source) as found:
        yield found


def refused(x, *parts, **reading):
    with pytest.raises(InputError) as caught, opened(x, Reading(**reading)):
        pass
    message = str(caught.value)
    assert "\n" not in message and not [part for part in parts if part not in message], message


@pytest.mark.parametrize("make", MAKERS, ids=called)
def test_an_option_that_does_nothing_is_an_error(make, tmp_path):
    given = make(tmp_path, ROWS)
    refused(given, "--features", "no such option for ", "found 6; leave --features out", n_features=6)
    refused(given, "--shape", "no such option for ", "leave --shape out", shape=(40, 6), dtype="float32")
    if make not in CONTAINERS:
        refused(given, "--key", "no such option for ", "found 'acts'; leave --key out", key="acts")
    else:
        assert open_source(given, Reading(key="acts")).n_features == 6
    for dtype in ("bfloat16", "float16"):
        given = make(tmp_path, ROWS) if make is blocks else given
        refused(given, f"expected {dtype} as the option says, found float32; leave the", dtype=dtype)


@pytest.mark.parametrize("words", [np.uint16, np.int16], ids=["uint16", "int16"])
@pytest.mark.parametrize("make", MAKERS, ids=called)
def test_words_of_two_bytes_that_are_bfloat16(make, words, tmp_path):
    given = make(tmp_path, WORDS.view(words))
    with opened(given, Reading("bfloat16")) as found:
        assert found.dtype == "bfloat16"
        np.testing.assert_array_equal(found.read(0, 40), WORDS)
        np.testing.assert_array_equal(found.take(np.array([3, 38])), WORDS[[3, 38]])
    with opened(blocks(tmp_path, WORDS.view(words)) if make is blocks else given) as found:
        assert found.dtype == np.dtype(words).name
        np.testing.assert_array_equal(found.read(0, 40), WORDS.view(words))


@pytest.mark.parametrize("make", [npy, npz, npz_compressed, array, blocks], ids=called)
def test_words_of_the_other_byte_order(make, tmp_path):
    for words in (">u2", ">i2"):
        given = WORDS.view(words[1:]).astype(words)
        with opened(make(tmp_path, given), Reading("bfloat16")) as found:
            np.testing.assert_array_equal(found.read(0, 40), WORDS)


def test_a_dtype_that_the_file_names_itself_may_be_said(tmp_path):
    values = torch.from_numpy(ROWS).bfloat16()
    safetensors.torch.save_file({"a": values}, tmp_path / "x.safetensors")
    torch.save(values, tmp_path / "x.pt")
    for x in (tmp_path / "x.safetensors", tmp_path / "x.pt", iter([values])):
        with opened(x, Reading("bfloat16")) as found:
            assert found.dtype == "bfloat16"
    for x in (tmp_path / "x.safetensors", tmp_path / "x.pt", iter([values])):
        refused(x, "expected uint16 as the option says, found bfloat16", dtype="uint16")


def test_pairs_and_sparse_matrices(tmp_path):
    indices, values = np.tile(np.arange(3), (40, 1)), WORDS[:, :3].copy()
    np.save(tmp_path / "x_indices.npy", indices)
    np.save(tmp_path / "x_values.npy", values.view(np.int16))
    safetensors.numpy.save_file({"indices": indices, "values": values}, tmp_path / "x.safetensors")
    for x in (tmp_path / "x_indices.npy", tmp_path / "x.safetensors"):
        found = open_source(x, Reading("bfloat16", n_features=9))
        np.testing.assert_array_equal(found.read(0, 40)[:, :3], values)
    refused(tmp_path / "x_indices.npy", "--key", "files of TopK pairs", n_features=9, key="a")
    refused(tmp_path / "x_indices.npy", "--shape", "files of TopK pairs", n_features=9, shape=(40, 3))
    refused((indices, values, 9), "--features", "pairs that come with their width", n_features=10)
    matrix = scipy.sparse.csr_matrix(WORDS)
    np.testing.assert_array_equal(open_source(matrix, Reading("bfloat16")).read(0, 40), WORDS)
    refused(matrix, "--features", "rows in memory", n_features=6)
    refused(open_source(ROWS), "--dtype", "rows that are open already", dtype="float32")


def test_a_header_is_not_read_as_rows(tmp_path):
    """128 bytes are the header of a .npy and two rows of 16 float32."""
    np.save(tmp_path / "x.npy", np.ones((10, 16), np.float32))
    refused(tmp_path / "x.npy", "--shape", "no such option for .npy files", shape=(12, 16), dtype="float32")
    ROWS.tofile(tmp_path / "y.npy")
    raw = open_source(tmp_path / "y.npy", Reading("float32", shape=(40, 6)))
    np.testing.assert_array_equal(raw.read(0, 40), ROWS)
    numbers = np.frombuffer(b"\x05\0\0\0\0\0\0\0{\0\0\0\0\0\0\0" + b"\0" * 32, np.uint8).reshape(6, 8)
    numbers.tofile(tmp_path / "z.bin")  # begins like safetensors
    assert open_source(tmp_path / "z.bin", Reading("uint8", shape=(6, 8))).n_rows == 6
    refused(tmp_path / "z.bin", "--key", "a file without a header", dtype="uint8", shape=(6, 8), key="a")


def test_options_beside_the_decoder(tmp_path):
    refused(tmp_path, "--of decoder: --dtype", "leave --dtype out", of="decoder", dtype="float32")


def test_plans(tmp_path):
    path = npy(tmp_path, ROWS)
    with pytest.raises(InputError, match="--features: expected no such option for rows|--features: .* .npy files"):
        plan(path, features=6, **BOUNDS)
    with pytest.raises(InputError, match="dtype: expected bfloat16 as the option says, found float32"):
        plan(path, dtype="bfloat16", **BOUNDS)
    assert plan(tensors(tmp_path, WORDS.view(np.int16)), dtype="bfloat16", **BOUNDS).job.dtype == "bfloat16"
    from streamumap.run.prepare import outlook_of

    for option, reading in (
        ("--key", Reading(key="a")),
        ("--sae", Reading(sae="x.pt")),
        ("--of", Reading(of="features")),
    ):
        with pytest.raises(UnusedOption, match=f"plan --rows: {option}: expected no such option"):
            outlook_of(Request(None, reading=reading, **BOUNDS), (1000, 64))


def placed(run, x, reading=None):
    out = run.parent / "placed"
    transform(run, Request(x, reading=reading, fresh=True, **BOUNDS), out)
    return np.load(out / "embedding.npy")


def test_options_of_the_map_that_new_rows_do_not_use_are_left_out(tmp_path):
    exact = torch.from_numpy(WORDS.view(np.int16)).view(torch.bfloat16)
    params = Params(n_neighbors=5, n_epochs=3)
    old = npz(tmp_path, WORDS)
    engine.embed(Request(str(old), params, reading=Reading("bfloat16", key="acts"), **BOUNDS), tmp_path / "old.umap")
    expected = np.load(tmp_path / "old.umap" / "embedding.npy")
    torch.save({"acts": exact}, tmp_path / "new.pt")
    new = [tmp_path / "new.pt", npy(tmp_path, exact.float().numpy()), exact.float().numpy(), WORDS.view(np.int16)]
    for x in new:
        given = str(x) if not isinstance(x, np.ndarray) else x
        np.testing.assert_array_equal(placed(tmp_path / "old.umap", given), expected)
    with pytest.raises(InputError, match="--key: expected no such option for .npy files"):
        placed(tmp_path / "old.umap", str(new[1]), Reading(key="acts"))
    with pytest.raises(InputError, match="expected bfloat16 as the option says, found float32"):
        placed(tmp_path / "old.umap", str(new[1]), Reading("bfloat16"))


def test_new_rows_without_pairs_on_a_map_of_pairs(tmp_path):
    indices, values = np.tile(np.arange(3), (40, 1)), np.abs(ROWS[:, :3])
    np.save(tmp_path / "x_indices.npy", indices)
    np.save(tmp_path / "x_values.npy", values)
    params, x = Params(n_neighbors=5, n_epochs=3), str(tmp_path / "x_indices.npy")
    engine.embed(Request(x, params, reading=Reading(n_features=6), **BOUNDS), tmp_path / "old.umap")
    dense = np.concatenate([values, np.zeros((40, 3), np.float32)], axis=1)
    expected = np.load(tmp_path / "old.umap" / "embedding.npy")
    np.testing.assert_array_equal(placed(tmp_path / "old.umap", str(npy(tmp_path, dense))), expected)


def test_the_estimator(tmp_path):
    with pytest.raises(InputError, match="expected bfloat16 as the option says, found float32"):
        StreamUMAP(**FAST, dtype="bfloat16").fit(str(tensors(tmp_path, ROWS)))
    model = StreamUMAP(**FAST, dtype="bfloat16").fit(str(tensors(tmp_path, WORDS.view(np.int16))))
    exact = (WORDS.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(model.transform(exact), model.embedding_)
    np.testing.assert_array_equal(model.transform(WORDS), model.embedding_)
