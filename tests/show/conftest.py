import json
from types import SimpleNamespace

import numpy as np
import pytest
from show_checks import REPORT, cloud

from streamumap.show.table import write_parquet
from streamumap.source import open_source


@pytest.fixture
def run(tmp_path):
    """The files of a finished run of 50 rows that pictures need."""
    np.save(tmp_path / "embedding.npy", cloud(50))
    (tmp_path / "run.json").write_text(json.dumps(REPORT))
    return tmp_path


@pytest.fixture
def real(tmp_path):
    """A run of 300 rows whose input is beside it: positions in two islands, feature 3 in the first one only."""
    X = np.zeros((300, 8), np.float32)
    X[:150, 3], X[:, 5] = np.arange(1, 151), 0.5
    map_ = cloud(300) + np.repeat([[0, 0], [40, 0]], 150, axis=0).astype(np.float32)
    run = tmp_path / "run.umap"
    run.mkdir()
    np.save(tmp_path / "a b.npy", X)
    np.save(run / "embedding.npy", map_)
    write_parquet(run / "embedding.parquet", map_, np.zeros(300, bool), np.full(300, -1))
    source = open_source(tmp_path / "a b.npy")
    recorded = {"name": "a b.npy", "rows": 300, "features": 8, "dtype": "float32", "fingerprint": source.fingerprint}
    (run / "run.json").write_text(json.dumps(REPORT | {"input": recorded}))
    (tmp_path / "names.txt").write_text("".join(f"{'apple' if i < 150 else 'pear'} {i}\n" for i in range(300)))
    return SimpleNamespace(run=run, input=tmp_path / "a b.npy", names=tmp_path / "names.txt", X=X)
