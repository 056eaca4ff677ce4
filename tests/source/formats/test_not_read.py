"""Files of kinds that are known but not read: the command in the message is run, and what it saves is read."""

import bz2
import gzip
import lzma
import shlex
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse

from streamumap.errors import InputError
from streamumap.source import open_source

ROWS = np.random.default_rng(0).integers(-99, 99, (30, 5)).astype(np.float32) / 8


def csv_of_numpy(folder):
    np.savetxt(folder / "x.csv", ROWS, delimiter=",")
    return folder / "x.csv"


def csv_of_pandas(folder):
    """With its index, names of columns, text with commas and quotes, and a mark at the beginning as Excel writes it."""
    table = pd.DataFrame(ROWS, columns=[f"f, {i}" for i in range(5)])
    table["text"] = ['a "word", and # more'] * 30
    table.to_csv(folder / "x.csv", encoding="utf-8-sig")
    return folder / "x.csv"


def tsv(folder):
    table = pd.DataFrame(ROWS)
    table.insert(0, "name", [f"row {i}" for i in range(30)])
    table.to_csv(folder / "x.tsv", sep="\t", index=False)
    return folder / "x.tsv"


def semicolons(folder):
    pd.DataFrame(ROWS).to_csv(folder / "x.csv", sep=";", index=False, lineterminator="\r\n")
    return folder / "x.csv"


def text(folder):
    """Its first line could be the sizes of another."""
    np.savetxt(folder / "x.txt", np.round(ROWS * 8), fmt="%d")
    return folder / "x.txt"


def word2vec(folder):
    """As gensim's save_word2vec_format and fastText write it: number and width, then a word and its vector a line."""
    lines = [f'wörd#{i}" ' + " ".join(map(str, row)) for i, row in enumerate(ROWS.tolist())]
    (folder / "x.vec").write_text("\n".join(["30 5", *lines]) + "\n", encoding="utf-8")
    return folder / "x.vec"


def glove(folder):
    """As Stanford's GloVe writes it."""
    lines = [f"word{i} " + " ".join(map(str, row)) for i, row in enumerate(ROWS.tolist())]
    (folder / "glove.5d.txt").write_text("\n".join(lines) + "\n")
    return folder / "glove.5d.txt"


def packed(module, name):
    def make(folder):
        with module.open(folder / name, "wb") as file:
            np.save(file, ROWS)
        return folder / name

    make.__name__ = name
    return make


def matlab(folder):
    scipy.io.savemat(folder / "x.mat", {"acts": ROWS, "labels": np.arange(30), "note": "text"}, do_compression=True)
    return folder / "x.mat"


def matlab_73(folder):
    """As MATLAB writes it: HDF5 behind 512 bytes, whose arrays are transposed."""
    with h5py.File(folder / "x.mat", "w", userblock_size=512) as file:
        file["acts"], file["labels"] = ROWS.T, np.arange(30.0).reshape(1, 30)
        file.create_group("#refs#")
    with open(folder / "x.mat", "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return folder / "x.mat"


def matrix_market(folder):
    scipy.io.mmwrite(folder / "x.mtx", scipy.sparse.coo_array(ROWS))
    return folder / "x.mtx"


def matrix_market_array(folder):
    scipy.io.mmwrite(folder / "x.mtx", ROWS)
    return folder / "x.mtx"


def vecs(ending, dtype, rows):
    """A row after its width, as TEXMEX has them."""

    def make(folder):
        width = np.full((30, 1), 5, "<i4").view(np.uint8)
        body = np.ascontiguousarray(rows.astype(dtype)).view(np.uint8).reshape(30, -1)
        np.hstack([width, body]).tofile(folder / f"x{ending}")
        return folder / f"x{ending}"

    make.__name__ = ending
    return make


def bins(ending, dtype, rows):
    """Rows after their number and width, as big-ann-benchmarks has them."""

    def make(folder):
        (folder / f"x{ending}").write_bytes(np.array([30, 5], "<u4").tobytes() + rows.astype(dtype).tobytes())
        return folder / f"x{ending}"

    make.__name__ = ending
    return make


WHOLE = np.abs(np.round(ROWS))
MADE = [
    csv_of_numpy, csv_of_pandas, tsv, semicolons, text, word2vec, glove, packed(gzip, "x.npy.gz"), packed(bz2, "x.npy.bz2"),
    packed(lzma, "x.npy.xz"), packed(gzip, "x.npy"), matlab, matlab_73, matrix_market, matrix_market_array, vecs(".fvecs", "<f4", ROWS),
    vecs(".ivecs", "<i4", WHOLE), vecs(".bvecs", "u1", WHOLE), bins(".fbin", "<f4", ROWS), bins(".u8bin", "u1", WHOLE),
]  # fmt: skip


@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
def test_the_command_saves_the_rows(make, tmp_path):
    folder = tmp_path / "it's here"
    folder.mkdir()
    path = make(folder)
    if path.suffix == ".npy":  # a name that the content belies
        path = path.rename(folder / "x.data")
    with pytest.raises(InputError) as caught:
        open_source(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: content: expected rows in a format that is read, found ")
    assert "\n" not in message
    command = shlex.split(message[message.index("python -c") :])
    before = set(folder.iterdir())
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=60)
    (saved,) = set(folder.iterdir()) - before
    expected = (
        np.round(ROWS * 8) if make is text else WHOLE if make.__name__ in (".ivecs", ".bvecs", ".u8bin") else ROWS
    )
    np.testing.assert_array_equal(open_source(saved).read(0, 30), expected)


def refusal(path):
    with pytest.raises(InputError) as caught:
        open_source(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"{\n  1, 2\n}\n", b"one, two\nthree, four\n", b"1,2\n", b"\n\n", b"5 6\n", b"a\n\xff1,2\n", b"1,2\n1,2\x00\n"],
)
def test_text_that_is_no_table(content, tmp_path):
    (tmp_path / "x.csv").write_bytes(content)
    assert "give --shape and --dtype if it has no header" in refusal(tmp_path / "x.csv")


def test_a_list_of_shards_whose_names_are_numbers(tmp_path):
    for i in (2, 10):
        np.save(tmp_path / f"{i}", ROWS)
    (tmp_path / "x.txt").write_text("2.npy\n10.npy\n")
    assert open_source(tmp_path / "x.txt").n_rows == 60


def test_binary_files_of_another_size(tmp_path):
    for make in (vecs(".fvecs", "<f4", ROWS), bins(".fbin", "<f4", ROWS)):
        path = make(tmp_path)
        path.write_bytes(path.read_bytes()[:-1])
        assert "give --shape and --dtype" in refusal(path)
