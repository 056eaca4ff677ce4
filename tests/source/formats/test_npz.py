"""Members of a `.npz` beside the rows: left aside by name, or a question, and never unpickled."""

import os
import zipfile

import numpy as np
import pytest

from streamumap.errors import InputError
from streamumap.source import Reading, in_place, notes_of, open_source

ROWS = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
LEFT_ASIDE = "left aside: names (text), raw (text), when (dates), run (Python objects, never loaded), kinds (fields)"


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def beside(tmp_path):
    """What people save beside their rows; unpickling it would make a folder."""
    return {
        "names": np.array([f"row {i}" for i in range(20)]),
        "raw": np.array([b"a"] * 20),
        "when": np.datetime64("2024-01-01T00:00:00") + np.arange(20),
        "run": Canary(str(tmp_path / "hatched")),
        "kinds": np.zeros(20, [("a", "i4"), ("b", "f4")]),
    }


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", [None, "acts"])
def test_what_is_no_number_is_left_aside(beside, save, key, tmp_path):
    save(tmp_path / "x.npz", acts=ROWS, **beside)
    source = open_source(tmp_path / "x.npz", Reading(key=key))
    said = [note.text for note in notes_of(source)]
    assert said == [f"reading acts of {tmp_path / 'x.npz'}, float32, 20 x 6", LEFT_ASIDE]
    with in_place(source) as found:
        assert np.array_equal(found.read(0, 20), ROWS)
    assert not (tmp_path / "hatched").exists()


def test_shards_say_once_what_is_left_aside(beside, tmp_path):
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", acts=ROWS + i, **beside)
    source = open_source(tmp_path)
    assert [note.text for note in notes_of(source)][1:] == [LEFT_ASIDE]
    assert np.array_equal(source.read(20, 40), ROWS + 1)


def refusal(path, **reading):
    with pytest.raises(InputError) as caught:
        open_source(path, Reading(**reading))
    return str(caught.value)


def test_objects_that_may_be_the_rows_are_a_question(tmp_path):
    lists = np.empty(20, object)
    lists[:] = [ROWS[i] for i in range(20)]
    np.savez(tmp_path / "x.npz", tokens=np.arange(40).reshape(20, 2), acts=lists)
    assert "found tokens (int64, 20 x 2), acts (Python objects, 20); name one with --key" in refusal(tmp_path / "x.npz")
    assert open_source(tmp_path / "x.npz", Reading(key="tokens")).n_features == 2
    assert "acts]: dtype: expected" in refusal(tmp_path / "x.npz", key="acts")
    np.savez(tmp_path / "y.npz", acts=ROWS, other=ROWS.astype(object))
    assert "found acts (float32, 20 x 6), other (Python objects, 20 x 6); name one" in refusal(tmp_path / "y.npz")
    np.savez(tmp_path / "z.npz", text=ROWS.astype(str), labels=np.arange(20))
    assert "arrays: expected one with 2 dimensions, found" in refusal(tmp_path / "z.npz")
    assert "text]: dtype: expected" in refusal(tmp_path / "z.npz", key="text")


def test_a_member_that_is_no_array(tmp_path):
    np.savez(tmp_path / "x.npz", acts=ROWS)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("README.txt", "what this is")
    source = open_source(tmp_path / "x.npz")
    assert np.array_equal(source.read(0, 20), ROWS) and source.notes[1] == "left aside: README.txt (no array)"
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("labels.npy", "what this is")
    assert "[labels]: magic: expected" in refusal(tmp_path / "x.npz")


def test_two_members_of_one_name(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "acts")
        archive.write(tmp_path / "a.npy", "acts.npy")
    assert "member: expected plain names, each once, found 'acts' twice" in refusal(tmp_path / "x.npz")


def test_two_archives_in_one_file(tmp_path):
    """zipfile and NumPy see the second one only."""
    with open(tmp_path / "x.npz", "wb") as file:
        np.savez(file, acts=ROWS)
        np.savez(file, acts=ROWS + 1)
    assert "archive: expected one archive, found another" in refusal(tmp_path / "x.npz")


def test_bytes_behind_a_compressed_array(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("acts.npy", (tmp_path / "a.npy").read_bytes() + b"tail")
    source = open_source(tmp_path / "x.npz")
    assert source.warnings == (
        f"{tmp_path / 'x.npz'}[acts]: body: expected 480 bytes, found 4 more; they are ignored.",
    )
    with in_place(source) as found:
        assert np.array_equal(found.read(0, 20), ROWS)
