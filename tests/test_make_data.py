"""tools/make_data.py: what its files hold, and that the same command gives the same bytes."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

TOOL = Path(__file__).parent.parent / "tools" / "make_data.py"
REAL = Path(os.environ.get("STREAMUMAP_DATA", "")) / "debian"
N_BASE, N_DIMS, WIDTH, ACTIVE = 300, 12, 40, 4


def load_tool():
    spec = importlib.util.spec_from_file_location("make_data", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


make_data = load_tool()


def save_safetensors(path, arrays):
    header, body = {"__metadata__": {"by": "a test"}}, b""
    for name, array in arrays.items():
        dtype = {"float16": "F16", "float32": "F32"}[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(body), len(body) + array.nbytes]}
        body += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


@pytest.fixture(scope="module")
def sae():
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (WIDTH, N_DIMS), "b_enc": (WIDTH,), "b_dec": (N_DIMS,), "mean": (N_DIMS,)}
    arrays = {
        name: rng.normal(0, 1 if name == "W_enc" else 0.1, shape).astype(np.float32) for name, shape in shapes.items()
    }
    return arrays | {"scale": np.array([0.5], np.float16)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, sae):
    folder = tmp_path_factory.mktemp("data")
    rows = np.random.default_rng(1).normal(size=(N_BASE, N_DIMS))
    np.save(folder / "minilm.npy", (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16))
    save_safetensors(folder / "sae.safetensors", sae)
    (folder / "sae.json").write_text(json.dumps({"k": ACTIVE}))
    return folder


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make("clusters", ..., rows=...) -> the array of the file that the command wrote."""
    monkeypatch.setattr(make_data, "BLOCK_ROWS", 64)

    def call(*command, rows, name="out.npy", seed=42):
        kind, *rest = map(str, command)
        head = [kind] if kind == "clusters" else [kind, rest.pop(0)]
        out = tmp_path / name
        assert make_data.main([*head, str(out), "--rows", str(rows), "--seed", str(seed), *rest]) == 0
        return np.load(out, allow_pickle=False) if out.exists() else tmp_path

    return call


CLUSTERS = ("clusters", "--features", 50, "--active", 7, "--clusters", 5)


def pairs_to_dense(indices, values, n_features):
    rows = np.zeros((len(indices), n_features), values.dtype)
    np.put_along_axis(rows, indices.astype(np.int64), values, 1)
    return rows


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_clusters_have_exactly_k_positive_values_a_row(make, dtype):
    rows = make(*CLUSTERS, "--dtype", dtype, rows=150)
    assert rows.shape == (150, 50) and rows.dtype == dtype
    assert ((rows > 0).sum(1) == 7).all() and (rows >= 0).all() and np.isfinite(rows).all()


@settings(max_examples=25)
@given(active=st.integers(1, 12), extra=st.integers(0, 30), n_clusters=st.integers(1, 4), seed=st.integers(0, 2**63))
def test_no_feature_meets_itself_in_a_row_of_any_shape(active, extra, n_clusters, seed):
    gen, n_features = make_data.generator(seed, 0, "cpu"), 4 * active + extra
    features, sizes = make_data.templates(gen, n_clusters, n_features, active)
    indices, values = make_data.cluster_rows(gen, features, sizes, n_features)
    assert (indices.diff(dim=1) > 0).all() and indices.min() >= 0 and indices.max() < n_features
    assert (values > 0).all() and torch.isfinite(values.half()).all()


def test_a_row_keeps_most_of_its_cluster_and_swaps_some():
    gen = make_data.generator(3, 0, "cpu")
    features, sizes = make_data.templates(gen, 6, 200, 20)
    indices, _ = make_data.cluster_rows(gen, features, sizes, 200)
    kept = (indices[:, None, :, None] == features[None, :, None, :]).sum((2, 3))
    assert kept.max(1).values.float().mean() == pytest.approx(20 * (1 - make_data.SWAPPED), abs=0.3)
    assert kept.float().mean() < 6  # the clusters themselves have little in common
    strangers = torch.bincount(indices.reshape(-1), minlength=200)
    assert (strangers > 0).all()


def test_the_largest_prime():
    assert [make_data.prime_to(n) for n in (2, 3, 4, 10, 3040)] == [2, 3, 3, 7, 3037]


@pytest.mark.parametrize("kind", ["clusters", "like"])
def test_the_same_seed_gives_the_same_bytes_and_a_longer_file_begins_with_a_shorter_one(make, data_dir, kind):
    command = CLUSTERS if kind == "clusters" else ("like", data_dir)
    long = make(*command, rows=200, name="long.npy")
    assert np.array_equal(long, make(*command, rows=200, name="again.npy"))
    assert np.array_equal(long[:70], make(*command, rows=70, name="short.npy"))
    assert not np.array_equal(long, make(*command, rows=200, name="other.npy", seed=1))
    assert len(np.unique(long, axis=0)) == 200


def test_equal_embeddings_do_not_give_equal_rows(make, data_dir, tmp_path):
    for name in ("sae.safetensors", "sae.json"):
        (tmp_path / name).write_bytes((data_dir / name).read_bytes())
    embeddings = np.load(data_dir / "minilm.npy")
    embeddings[50:] = embeddings[50]
    np.save(tmp_path / "minilm.npy", embeddings)
    assert len(np.unique(make("like", tmp_path, rows=500), axis=0)) == 500


@pytest.mark.parametrize("features", [WIDTH, 3 * WIDTH])
def test_pairs_and_dense_rows_are_the_same_codes(make, data_dir, features):
    rows = make("like", data_dir, "--features", features, rows=100)
    folder = make("like", data_dir, "--features", features, "--pairs", rows=100, name="codes.npy")
    folder = Path(folder)
    indices, values = (np.load(folder / f"codes_{part}.npy") for part in ("indices", "values"))
    assert indices.shape == values.shape == (100, ACTIVE) and indices.dtype == np.uint16 and values.dtype == np.float16
    assert (np.diff(indices.astype(int), axis=1) > 0).all() and (values >= 0).all()
    assert np.array_equal(pairs_to_dense(indices, values, features), rows)
    assert rows.shape == (100, features) and (values > 0).mean() > 0.9


def test_wide_pairs_have_32_bit_indices(make, data_dir):
    folder = Path(make("like", data_dir, "--features", WIDTH * 2000, "--pairs", rows=70, name="wide.npy"))
    indices = np.load(folder / "wide_indices.npy")
    assert indices.dtype == np.uint32 and 65536 < indices.max() < WIDTH * 2000
    assert (np.diff(indices.astype(np.int64), axis=1) > 0).all()


def test_a_wider_code_is_the_narrow_one_with_features_renamed_by_group(make, data_dir, monkeypatch):
    monkeypatch.setattr(make_data, "GROUP_ROWS", 100)
    narrow, wide = (
        make("like", data_dir, rows=100),
        make("like", data_dir, "--features", 4 * WIDTH, rows=100, name="wide.npy"),
    )
    assert np.array_equal(wide.reshape(100, 4, WIDTH).sum(1), narrow)  # one copy at most is not zero
    table = make_data.copies(3, WIDTH, 4)
    assert table.shape == (3, WIDTH) and (table % WIDTH == np.arange(WIDTH)).all()
    assert all(len(np.unique(group // WIDTH)) == 4 for group in table) and not np.array_equal(table[0], table[1])
    for row in wide:
        assert any(np.isin(np.flatnonzero(row), group).all() for group in table)


def test_the_encoder_is_topk_of_relu(sae, data_dir):
    embeddings, encoder = make_data.load(data_dir, "cpu")
    indices, values = (array.numpy() for array in encoder(embeddings))
    x = (embeddings.numpy() - sae["mean"]) / np.float32(sae["scale"])
    full = np.maximum((x - sae["b_dec"]) @ sae["W_enc"].T + sae["b_enc"], 0)
    full[full < np.sort(full, axis=1)[:, [-ACTIVE]]] = 0
    np.testing.assert_allclose(pairs_to_dense(indices, values, WIDTH), full, rtol=1e-4, atol=1e-5)


def test_neighbours_are_exact_in_whatever_order_they_are_asked_for():
    rows = torch.nn.functional.normalize(torch.randn(90, 5, generator=torch.Generator().manual_seed(0)))
    nearest = make_data.Nearest(rows)
    similarity = (rows @ rows.T).fill_diagonal_(-9)
    expected = similarity.topk(make_data.N_NEAREST).indices
    for wanted in ([5, 5, 2], [89, 5, 0], list(range(90))):
        assert torch.equal(nearest(torch.tensor(wanted)), expected[wanted])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["clusters", "OUT", "--rows", "0", "--features", "50", "--active", "2"], "--rows"),
        (["clusters", "OUT", "--rows", "9", "--features", "50", "--active", "20"], "--features"),
        (["clusters", "OUT", "--rows", "9", "--features", "50", "--active", "0"], "--features"),
        (["like", "nowhere", "OUT", "--rows", "9"], "nowhere: expected minilm.npy, sae.safetensors, sae.json"),
        (["like", "DATA", "OUT", "--rows", "9", "--features", "50"], "multiple of 40"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_no_file(tmp_path, data_dir, capsys, options, said):
    names = {"OUT": str(tmp_path / "out.npy"), "DATA": str(data_dir)}
    assert make_data.main([names.get(option, option) for option in options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("body", [b"", b"\x08\0\0\0\0\0\0\0no json!", b"\xff" * 20])
def test_a_damaged_autoencoder_is_one_sentence(tmp_path, data_dir, capsys, body):
    for name in ("minilm.npy", "sae.json"):
        (tmp_path / name).write_bytes((data_dir / name).read_bytes())
    (tmp_path / "sae.safetensors").write_bytes(body)
    assert make_data.main(["like", str(tmp_path), str(tmp_path / "out.npy"), "--rows", "9"]) == 2
    error = capsys.readouterr().err
    assert "safetensors" in error and error.count("\n") == 1


def test_a_file_that_cannot_be_written_is_exit_4(tmp_path, capsys):
    command = ["clusters", str(tmp_path / "no" / "out.npy"), "--rows", "9", "--features", "50", "--active", "2"]
    assert make_data.main(command) == 4
    assert "out.npy" in capsys.readouterr().err


@pytest.mark.skipif(not REAL.exists(), reason="needs STREAMUMAP_DATA, a folder with the real rows in debian/")
def test_the_real_embeddings_give_the_real_codes():
    embeddings, encoder = make_data.load(REAL, "cpu")
    expected, values = (np.load(REAL / f"topk_{part}.npy") for part in ("indices", "values"))
    every = slice(None, None, 8)
    indices, _ = encoder(embeddings[every])
    found = pairs_to_dense(indices.numpy(), np.ones(indices.shape, bool), len(encoder.weights))
    same = np.take_along_axis(found, expected[every].astype(np.int64), 1)
    assert same.mean() >= 0.999
