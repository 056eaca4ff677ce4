"""`.npy` files in Fortran order are read as their rows, and files of two arrays are refused with the command that joins them."""

import shlex
import subprocess
import sys

import numpy as np
import pytest
from npy_checks import DTYPES, numbers

from streamumap.errors import InputError
from streamumap.source import Reading, ToConvert, in_place, open_source
from streamumap.source.formats import convert


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
def test_fortran_order(dtype, save, tmp_path, monkeypatch):
    """Panels end within the rows, and the last one is shorter."""
    x = numbers(1001, 301, dtype)
    for name, n_bytes in (("PANEL_BYTES", 100_000), ("BLOCK_BYTES", 30_000)):
        monkeypatch.setattr(convert, name, n_bytes)
    path = tmp_path / ("x.npy" if save is np.save else "x.npz")
    save(path, np.asfortranarray(x))
    source, ticks = open_source(path), []
    assert isinstance(source, ToConvert) and (source.n_rows, source.n_features) == x.shape
    copies = 2 if save is np.savez_compressed else 1
    assert source.n_bytes == copies * x.nbytes
    folder = tmp_path / "scratch"
    folder.mkdir()
    found = source.convert(folder, ticks.append)
    assert found.dtype == x.dtype.newbyteorder("=").name and sum(ticks) == 1001
    assert np.array_equal(found.read(0, 1001), x)
    assert sum(file.stat().st_size for file in folder.iterdir()) == x.nbytes


def test_bfloat16_in_fortran_order(tmp_path):
    bits = np.arange(60, dtype=np.uint16).reshape(20, 3)
    np.save(tmp_path / "x.npy", np.asfortranarray(bits.view("V2")))
    with in_place(open_source(tmp_path / "x.npy", Reading("bfloat16"))) as found:
        assert found.dtype == "bfloat16" and np.array_equal(found.read(0, 20), bits)


def test_a_file_in_fortran_order_that_is_cut_off(tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(numbers(20, 6)))
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content[:-1])
    with pytest.raises(InputError, match="body: expected 480 bytes .*, found 479; the file was cut off"):
        open_source(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(content + b"tail")
    assert "4 more; they are ignored" in open_source(tmp_path / "x.npy").warnings[0]


@pytest.mark.parametrize("as_rows", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_two_arrays_in_one_file(as_rows, order, tmp_path):
    """The command in the message joins them, those of one row each too."""
    path, x = tmp_path / "it's here.npy", numbers(30, 5)
    with open(path, "wb") as file:
        for part in list(x) if as_rows else np.split(x, [7, 11]):
            np.save(file, np.asarray(part, order=order))
    with pytest.raises(InputError, match="body: expected one array, found another one behind it") as caught:
        open_source(path)
    message = str(caught.value)
    command = shlex.split(message[message.index("python -c") :])
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=60)
    with in_place(open_source(tmp_path / "it's here-rows.npy")) as found:
        assert np.array_equal(found.read(0, 30), x)
