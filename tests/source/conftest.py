import numpy as np
import pytest


@pytest.fixture
def save(tmp_path):
    def save(content, name="x.npy"):
        path = tmp_path / name
        if isinstance(content, np.ndarray):
            np.save(path, content)
        else:
            path.write_bytes(content)
        return path

    return save
