import json
import sys

import anndata
import numpy as np
import pandas as pd
import pytest

from streamumap.errors import InputError, OutputError
from streamumap.show.export import export_run
from streamumap.show.table import write_parquet

N = 40
NAMES = [f'row "{i}", <b>&é' for i in range(N)]


@pytest.fixture
def run(tmp_path):
    """A finished run of 40 rows with names and labels beside it; row 3 has no position."""
    X = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
    X[3] = np.nan
    np.save(tmp_path / "embedding.npy", X)
    write_parquet(tmp_path / "embedding.parquet", X, np.arange(N) == 3, np.full(N, -1))
    knn = (np.arange(N)[:, None] + np.arange(5)) % N
    np.save(tmp_path / "knn_indices.npy", knn.astype(np.int32))
    np.save(tmp_path / "knn_distances.npy", np.tile(np.arange(5, dtype=np.float32), (N, 1)))
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    (tmp_path / "section.txt").write_text("a\nb\n" * (N // 2))
    return tmp_path


def test_csv(run):
    path = export_run(run, "csv", None, run / "section.txt", run / "names.txt")
    frame = pd.read_csv(path)
    assert path == run / "map.csv" and frame["row_id"].tolist() == list(range(N))
    assert frame["name"].tolist() == NAMES and frame["section"].tolist() == ["a", "b"] * (N // 2)
    np.testing.assert_allclose(frame[["x", "y"]], np.load(run / "embedding.npy"), rtol=1e-6)


def test_geojson(run):
    path = export_run(run, "geojson", run / "m.geojson", run / "section.txt", run / "names.txt")
    found = json.loads(path.read_text())
    assert found["type"] == "FeatureCollection" and len(found["features"]) == N
    assert found["features"][3]["geometry"] is None
    third = found["features"][2]
    assert third["id"] == 2 and third["properties"]["name"] == NAMES[2] and third["properties"]["section"] == "a"
    np.testing.assert_allclose(third["geometry"]["coordinates"], np.load(run / "embedding.npy")[2], atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of anndata's own
def test_anndata(run):
    data = anndata.read_h5ad(export_run(run, "anndata", None, run / "section.txt", run / "names.txt"))
    assert np.array_equal(data.obsm["X_umap"], np.load(run / "embedding.npy"), equal_nan=True)
    assert data.obs["section"].tolist() == ["a", "b"] * (N // 2) and data.obs["name"].tolist() == NAMES
    distances = data.obsp[data.uns["neighbors"]["distances_key"]]
    assert distances.shape == (N, N) and distances.nnz == 4 * N and distances[0, 2] == 2
    assert data.uns["neighbors"]["params"]["n_neighbors"] == 5


def test_what_cannot_be_exported(run, monkeypatch):
    with pytest.raises(InputError, match="--to: expected anndata, csv, geojson, found xls"):
        export_run(run, "xls")
    with pytest.raises(OutputError, match="no/x.csv: cannot be written"):
        export_run(run, "csv", run / "no" / "x.csv")
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(InputError, match="install it with pip install anndata"):
        export_run(run, "anndata")
    (run / "embedding.parquet").write_text("text")
    with pytest.raises(InputError, match="expected the table of a run"):
        export_run(run, "csv")
    (run / "embedding.parquet").unlink()
    with pytest.raises(InputError, match="expected the table of a finished run, found none"):
        export_run(run, "csv")
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
