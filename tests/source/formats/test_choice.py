"""Which array of a container is read: never integers beside floats, never one of several; and it is named."""

import json
import sys
import warnings

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
import zarr
from choice_checks import CUBE, LABELS, ROWS, TOKENS, VECTOR, paste, read, refused
from container_checks import hdf5, zarr_group

from streamumap import cli, engine
from streamumap.params import Params
from streamumap.request import Request
from streamumap.source import open_source


def npz(path, arrays):
    np.savez(path, **arrays)


def npz_compressed(path, arrays):
    np.savez_compressed(path, **arrays)


def pt(path, arrays):
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def safetensors_file(path, arrays):
    safetensors.torch.save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


CONTAINERS = {
    npz: "x.npz", npz_compressed: "x.npz", pt: "x.pt", safetensors_file: "x.safetensors", hdf5: "x.h5", zarr_group: "x.zarr",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet_libraries():
    """zarr warns of its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(params=CONTAINERS, ids=lambda write: write.__name__)
def save(request, tmp_path):
    def saved(**arrays):
        path = tmp_path / CONTAINERS[request.param]
        request.param(path, arrays)
        return path

    return saved


SEVERAL = {
    "3-D floats and 2-D tokens": (dict(activations=CUBE, tokens=TOKENS), "activations (float32, 70 x 10 x 48), tokens (int64, 70 x 10)"),
    "halves": (dict(activations=CUBE.astype("f2"), tokens=TOKENS), "activations (float16, 70 x 10 x 48), tokens (int64, 70 x 10)"),
    "a mask": (dict(acts=CUBE, mask=TOKENS > 9), "acts (float32, 70 x 10 x 48), mask (bool, 70 x 10)"),
    "places of 1-D floats": (dict(activations=VECTOR, locations=TOKENS[:, :3].copy()), "locations (int64, 70 x 3), activations (float32, 70)"),
    "3-D integers": (dict(codes=(CUBE * 9).astype("i1"), tokens=TOKENS), "codes (int8, 70 x 10 x 48), tokens (int64, 70 x 10)"),
    "2-D and 3-D floats": (dict(hidden=CUBE, pooled=ROWS), "hidden (float32, 70 x 10 x 48), pooled (float32, 70 x 48)"),
    "two of floats": (dict(a=ROWS, b=ROWS + 1), "a (float32, 70 x 48), b (float32, 70 x 48)"),
    "floats and tokens": (dict(acts=ROWS, tokens=TOKENS), "acts (float32, 70 x 48), tokens (int64, 70 x 10)"),
    "two of 3-D floats": (dict(keys=CUBE, values_=CUBE + 1), "keys (float32, 70 x 10 x 48), values_ (float32, 70 x 10 x 48)"),
}  # fmt: skip


@pytest.mark.parametrize("arrays, named", SEVERAL.values(), ids=SEVERAL)
def test_several_candidates_are_a_question(save, arrays, named):
    path = save(**arrays)
    expected = f"{path}: arrays: expected only one that can be the rows, found {named}; name one with --key NAME."
    assert refused(path) == expected
    for name, array in arrays.items():
        if array.ndim == 2:
            rows, chosen = read(path, key=name)
            np.testing.assert_array_equal(rows, array)
            assert chosen == f"{name} of {path}, {array.dtype}, 70 x {array.shape[1]}"


ONLY = {
    "alone": dict(acts=ROWS),
    "halves": dict(acts=ROWS.astype("f2")),
    "beside labels": dict(acts=ROWS, labels=LABELS),
    "beside weights": dict(acts=ROWS, weights=VECTOR),
    "beside images": dict(acts=ROWS, images=(CUBE * 9).astype("u1")),
    "integers": dict(acts=TOKENS),
    "integers beside labels": dict(acts=TOKENS, labels=LABELS),
    "integers beside a fact": dict(acts=TOKENS, scale=np.array(0.5)),
}


@pytest.mark.parametrize("arrays", ONLY.values(), ids=ONLY)
def test_the_only_candidate_is_read_and_named(save, arrays):
    path = save(**arrays)
    rows, chosen = read(path)
    np.testing.assert_array_equal(rows, arrays["acts"])
    assert chosen == f"acts of {path}, {rows.dtype}, 70 x {rows.shape[1]}"


def nested_pt(folder):
    torch.save({"run": {"acts'": {3: torch.from_numpy(CUBE).bfloat16()}}}, folder / "x.pt")
    return folder / "x.pt"


def bare_pt(folder):
    torch.save(torch.from_numpy(CUBE).bfloat16(), folder / "x.pt")
    return folder / "x.pt"


def brain_floats(folder):
    safetensors.torch.save_file({"it's": torch.from_numpy(CUBE).bfloat16()}, folder / "x.safetensors")
    return folder / "x.safetensors"


def bare_zarr(folder):
    zarr.create_array(folder / "x.zarr", data=torch.from_numpy(CUBE).bfloat16().float().numpy())
    return folder / "x.zarr"


def plain_npy(folder):
    np.save(folder / "x.npy", torch.from_numpy(CUBE).bfloat16().float().numpy())
    return folder / "x.npy"


@pytest.mark.parametrize(
    "make", [nested_pt, bare_pt, brain_floats, bare_zarr, plain_npy], ids=lambda make: make.__name__
)
def test_the_command_works_whatever_the_names(make, tmp_path):
    folder = tmp_path / 'it\'s "here"'
    folder.mkdir()
    paste(refused(make(folder)))
    expected = torch.from_numpy(CUBE).bfloat16().float().numpy()
    np.testing.assert_array_equal(np.load(folder / "x-rows.npy"), expected.reshape(-1, 48))


def test_two_bytes_that_are_bfloat16_are_floats(tmp_path):
    np.savez(tmp_path / "x.npz", acts=(CUBE.view("u4") >> 16).astype("u2"), tokens=TOKENS)
    assert "acts (bfloat16, 70 x 10 x 48), tokens" in refused(tmp_path / "x.npz", dtype="bfloat16")
    np.savez(tmp_path / "x.npz", acts=(CUBE.view("u4") >> 16).astype("u2").view("V2"), tokens=TOKENS)
    assert "acts (void16, 70 x 10 x 48), tokens" in refused(tmp_path / "x.npz")


@pytest.mark.parametrize("write", [hdf5, zarr_group, pt], ids=lambda write: write.__name__)
def test_arrays_of_inner_groups_are_candidates(write, tmp_path):
    path = tmp_path / CONTAINERS[write]
    arrays = {"tokens": TOKENS, "model/layer_3": CUBE}
    if write is pt:
        torch.save({"tokens": torch.from_numpy(TOKENS), "model": {"layer_3": torch.from_numpy(CUBE)}}, path)
    else:
        write(path, arrays)
    assert "3 (float32, 70 x 10 x 48), tokens (int64, 70 x 10); name one with --key" in refused(path)


def test_groups_that_hold_themselves(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["deep/acts"] = ROWS
        for i in range(100):
            file[f"deep/again{i}"] = file["deep"]
    assert read(tmp_path / "x.h5")[1].startswith("deep/acts of ")


def test_links_beside_integers_may_be_the_activations(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["tokens"], file["acts"] = TOKENS, h5py.ExternalLink("other.h5", "acts")
    assert "found tokens (int64, 70 x 10) and links: acts; name one with --key" in refused(tmp_path / "x.h5")
    np.testing.assert_array_equal(read(tmp_path / "x.h5", key="tokens")[0], TOKENS)
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["acts"], file["again"] = ROWS, h5py.SoftLink("/acts")
    assert read(tmp_path / "y.h5")[1].startswith("acts of ")


@pytest.mark.parametrize("write", [hdf5, zarr_group], ids=lambda write: write.__name__)
def test_x_of_anndata_beside_other_matrices(write, tmp_path):
    path = tmp_path / CONTAINERS[write]
    write(path, {"X": ROWS, "obsm/X_pca": ROWS[:, :5].copy(), "obs/n": LABELS})
    rows, chosen = read(path)
    np.testing.assert_array_equal(rows, ROWS)
    assert chosen == f"X of {path}, float32, 70 x 48"


def test_pairs_are_named_by_both_parts(save):
    indices = np.tile(np.arange(5), (70, 1))
    path = save(top_indices=indices, top_acts=ROWS[:, :5].copy(), tokens=TOKENS)
    rows, chosen = read(path, n_features=48)
    np.testing.assert_array_equal(rows[:, :5], ROWS[:, :5])
    assert chosen == f"TopK pairs top_indices and top_acts of {path}, float32, 70 x 48"


def test_shards_are_named_together(tmp_path):
    for i in range(12):
        np.savez(tmp_path / f"{i}.npz", acts=ROWS, ids=LABELS)
    source = open_source(tmp_path)
    assert source.notes == (f"reading acts of 12 files, {tmp_path}/0.npz to 11.npz, float32, 840 x 48",)
    np.savez(tmp_path / "12.npz", others=ROWS)
    assert "acts, others of 13 files" in open_source(tmp_path).notes[0]


def test_the_run_and_inspect_name_what_was_read(tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "x.npz", acts=ROWS, labels=LABELS)
    np.save(tmp_path / "y.npy", ROWS)
    named = f"acts of {tmp_path}/x.npz, float32, 70 x 48"
    maps = {}
    for name, chosen in (("x.npz", named), ("y.npy", None)):
        events = []
        request = Request(tmp_path / name, Params(n_neighbors=5, n_epochs=3), device="cpu", budget="1GB")
        report = engine.embed(request, tmp_path / f"{name}.umap", listener=events.append)
        assert json.loads((tmp_path / f"{name}.umap" / "run.json").read_text())["input"]["array"] == chosen
        assert report["input"]["array"] == chosen
        assert [e.text for e in events if getattr(e, "text", "").startswith("reading ")] == (
            [f"reading {chosen}"] if chosen else []
        )
        assert not chosen or events[0].text == f"reading {chosen}"
        maps[name] = (tmp_path / f"{name}.umap" / "embedding.npy").read_bytes()
        for options in (["--json"], []):
            monkeypatch.setattr(sys, "argv", ["streamumap", "inspect", str(tmp_path / name), *options])
            with pytest.raises(SystemExit):
                cli.main()
            out, err = capsys.readouterr()
            assert (json.loads(out).get("array") if options else chosen) == chosen
            assert (named in out, named in err) == (bool(chosen), bool(chosen))
        assert not chosen or err.splitlines()[0] == f"reading {chosen}"
        monkeypatch.setattr(sys, "argv", ["streamumap", "plan", str(tmp_path / name), "--device", "cpu"])
        with pytest.raises(SystemExit):
            cli.main()
        assert (capsys.readouterr().out.splitlines()[0] == f"rows     {named}") == bool(chosen)
    assert maps["x.npz"] == maps["y.npy"]
