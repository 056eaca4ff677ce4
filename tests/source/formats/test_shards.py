"""Shards: which files belong to one input, and their order."""

import glob
import re
import shlex

import numpy as np
import pytest
import safetensors.numpy

from streamumap import engine
from streamumap.errors import InputError
from streamumap.events import Note
from streamumap.params import Params
from streamumap.request import Request
from streamumap.source import Reading, open_source
from streamumap.source.formats.shard_files import natural

BOUNDS = dict(budget="1GB", device="cpu")


@pytest.fixture
def shard(tmp_path):
    """shard(name, number) saves three rows of this number."""

    def make(name, number=0):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((3, 2), number, np.float32))
        return path

    return make


def order(x, reading=None):
    """The numbers of the shards in the order in which they are read."""
    source = open_source(x, reading)
    return source.read(0, source.n_rows)[::3, 0].astype(int).tolist()


def question(x):
    with pytest.raises(InputError) as caught:
        open_source(x)
    return str(caught.value)


def pasted(message):
    """The globs of a message, as a shell hands them on."""
    return [shlex.split(glob_)[0] for glob_ in re.findall(r"('[^']*'|\S+) \([0-9]+ files?\)", message)]


@pytest.mark.parametrize("pattern", ["rank*/*.npy", "**/*.npy", "rank[0-9]*/[0-9]*.npy"])
def test_folders_come_in_natural_order_and_then_their_files(shard, tmp_path, pattern):
    for rank in range(12):
        for i in range(11):
            shard(f"rank{rank}/{i}.npy", 100 * rank + i)
    assert order(tmp_path / pattern) == [100 * rank + i for rank in range(12) for i in range(11)]
    assert open_source(tmp_path / pattern).notes == ("132 shards, rank0/0.npy to rank11/10.npy",)


def test_two_stars_reach_any_depth(shard, tmp_path):
    for i, name in enumerate(["0.npy", "1/0.npy", "1/2/0.npy", "1/2/10.npy", "10/0.npy", ".hidden/0.npy"]):
        shard(f"in/{name}", i)
    assert "names that differ in their numbers only" in question(tmp_path / "in" / "**" / "*.npy")
    (tmp_path / "in" / "0.npy").unlink()
    (tmp_path / "in" / "10" / "0.npy").rename(tmp_path / "in" / "1" / "0.npy")
    assert "2 kinds" in question(tmp_path / "in" / "**" / "*.npy")
    assert order(tmp_path / "in" / "1" / "2" / "**" / "*.npy") == [2, 3]


def test_the_order_is_said_in_the_run(shard, tmp_path):
    for rank in (0, 1, 10, 2):
        shard(f"rank{rank}/x.npy", rank)
    heard = []
    request = Request(str(tmp_path / "rank*" / "x.npy"), Params(n_epochs=2), **BOUNDS)
    engine.embed(request, tmp_path / "run", listener=heard.append)
    assert Note("info", "4 shards, rank0/x.npy to rank10/x.npy") in heard


def test_one_folder_needs_no_words(shard, tmp_path):
    for i in (2, 0, 1):
        shard(f"in/{i}.npy", i)
    source = open_source(tmp_path / "in")
    assert (source.notes, source.warnings) == ((), ())


def test_natural_order_of_paths():
    paths = ["a/2.npy", "a/10.npy", "a/b/1.npy", "a2/0.npy", "a10/0.npy", "b/0.npy", "b/00.npy", "b/01.npy", "b/1x.npy"]
    for seed in range(5):
        assert sorted(np.random.default_rng(seed).permutation(paths).tolist(), key=natural) == paths


@pytest.mark.parametrize(
    "groups",
    [
        ["train-00000-of-00002.npy train-00001-of-00002.npy", "test-00000-of-00001.npy"],
        ["img_emb/img_emb_0.npy img_emb/img_emb_1.npy", "text_emb/text_emb_0.npy text_emb/text_emb_1.npy"],
        ["layer 1_0.npy layer 1_1.npy", "layer[1].npy layer[2].npy", "layer's.npy"],
        ["x_1.npy x_2.npy x_3.npy", "x_1_mean.npy x_2_mean.npy"],
        ["0.npy 1.npy 2.npy", "1a.npy 2a.npy"],
    ],
)
def test_names_that_differ_in_words_are_a_question(shard, tmp_path, groups, monkeypatch):
    number, numbers = 0, {}
    for group in groups:
        for name in re.findall(r".*?\.npy(?: |$)", group):
            path = shard(f"in/{name.strip()}", number)
            numbers.setdefault(group, set()).add(number)
            number, folder = number + 1, path.parent
    monkeypatch.chdir(tmp_path)
    x = "in" if folder == tmp_path / "in" else "in/*/*.npy"
    message = question(x)
    assert f"found {len(groups)} kinds" in message
    globs = pasted(message)
    assert len(globs) == len(groups)
    assert {frozenset(order(glob_)) for glob_ in globs} == {frozenset(found) for found in numbers.values()}
    names = [name for name in glob.glob("**/*.npy", root_dir="in", recursive=True)]
    (tmp_path / "in" / "all.txt").write_text("\n".join(names))
    assert len(order("in/all.txt")) == number, "a list is what the user wants"


def test_a_kind_that_no_glob_names(shard, tmp_path):
    for name in ("0", "1", "10", "1a", "2a"):
        shard(f"in/{name}.npy")
    message = question(tmp_path / "in")
    assert "in/0.npy and 2 more like it, " in message and "*a.npy' (2 files)" in message


def test_names_that_differ_in_a_hash_belong_together(shard, tmp_path):
    for i, name in enumerate(["6f3344faa23e9b0a", "aa23e9b0a6f3344f", "12345678deadbeef"]):
        shard(f"hf/train-0000{i}-of-00003-{name}.npy", i)
        shard(f"uuid/part-{i}-{name[:8]}-1a2b-3c4d-5e6f-{name[:12]}.c000.npy", i)
    assert order(tmp_path / "hf") == order(tmp_path / "uuid") == [0, 1, 2]


@pytest.mark.parametrize(
    ("numbers", "warning", "note"),
    [
        ([0, 1, 2], None, None),
        ([0, 1000, 2000, 3000], None, None),
        ([1, 2, 4], "1 missing among the numbers from 1 to 4, first 3; the 3 that are there are read", None),
        ([0, 1000, 3000, 4000], "1 missing among the numbers from 0 to 4000, first 2000", None),
        ([3, 7, 23], None, "the numbers of the shards go from 3 to 23 with gaps"),
        ([20240130, 20240131, 20240201], None, "go from 20240130 to 20240201 with gaps"),
        ([0, 1034, 2099], None, "go from 0 to 2099 with gaps"),
    ],
)
def test_numbers_with_gaps_are_read_and_said(shard, tmp_path, numbers, warning, note):
    for number in numbers:
        shard(f"in/x-{number}.npy", number % 1000)
    (tmp_path / "in" / "x.txt").write_text("\n".join(f"x-{number}.npy" for number in numbers[::-1]))
    for x in (tmp_path / "in", tmp_path / "in" / "x-*.npy"):
        assert order(x) == [number % 1000 for number in numbers]
        source = open_source(x)
        assert len(source.warnings) == (warning is not None) and len(source.notes) == (note is not None)
        assert (warning or note or "") in "".join((*source.warnings, *source.notes))
    listed = open_source(tmp_path / "in" / "x.txt")
    assert (listed.warnings, listed.notes) == ((), ())
    assert order(tmp_path / "in" / "x.txt") == [number % 1000 for number in numbers[::-1]]


def test_gaps_among_folders_and_within_them(shard, tmp_path):
    for rank in (0, 1, 2, 4):
        for i in range(5):
            shard(f"in/rank{rank}/{i}.npy", 10 * rank + i)
    assert (
        "1 missing among the numbers from 0 to 4, first 3" in open_source(tmp_path / "in" / "*" / "*.npy").warnings[0]
    )
    for i in range(5):
        shard(f"in/rank3/{i}.npy", 30 + i)
    assert open_source(tmp_path / "in" / "*" / "*.npy").warnings == ()
    (tmp_path / "in" / "rank2" / "1.npy").unlink()
    assert "numbers from 0 to 4, first 1" in open_source(tmp_path / "in" / "*" / "*.npy").warnings[0]


def test_a_shard_that_the_names_count_is_missing(shard, tmp_path):
    for rank in (0, 1):
        for i in range(4):
            shard(f"rank{rank}/x-{i:05}-of-00004.npy", 10 * rank + i)
    whole = tmp_path / "rank*" / "*.npy"
    assert order(whole) == [0, 1, 2, 3, 10, 11, 12, 13]
    some = tmp_path / "rank1" / "x-0000[0-1]*.npy"
    assert order(some) == [10, 11]
    assert open_source(some).notes == ("2 of the 4 shards that are there by their names",)
    (tmp_path / "rank1" / "x-00003-of-00004.npy").unlink()
    for x in (whole, some, tmp_path / "rank1"):
        message = question(x)
        assert "expected 4, as their names say" in message and "x-00003-of-00004 is missing" in message
    (tmp_path / "rank1" / "mine.txt").write_text("x-00002-of-00004.npy\nx-00000-of-00004.npy\n")
    assert order(tmp_path / "rank1" / "mine.txt") == [12, 10]


def test_two_sets_that_count_differently_in_one_folder(shard, tmp_path):
    for total in (2, 3):
        for i in range(total):
            shard(f"in/x-{i}-of-{total}.npy", 10 * total + i)
    message = question(tmp_path / "in")
    assert "names that say one number of shards" in message
    assert [order(x) for x in pasted(message)] == [[20, 21], [30, 31, 32]]


def test_links_to_shards_are_followed(shard, tmp_path):
    (tmp_path / "in").mkdir()
    for i, name in ((10, "a"), (9, "b"), (8, "c")):
        (tmp_path / "in" / f"{i}.npy").symlink_to(shard(f"blobs/{name}.npy", i))
    (tmp_path / "in" / "list.txt").write_text("10.npy\n8.npy\n")
    (tmp_path / "deep").symlink_to(tmp_path / "in")
    assert order(tmp_path / "in") == order(tmp_path / "deep") == order(tmp_path / "dee*" / "*.npy") == [8, 9, 10]
    assert order(tmp_path / "in" / "list.txt") == [10, 8]
    (tmp_path / "blobs" / "b.npy").unlink()
    for x in (tmp_path / "in", tmp_path / "in" / "*.npy"):
        message = question(x)
        assert "9.npy: file: " in message and "b.npy, which is not there; mend the link" in message


def test_one_file_by_two_names_is_not_read_twice(shard, tmp_path):
    shard("run1/0.npy", 1)
    shard("run2/0.npy", 2)
    (tmp_path / "run3").symlink_to(tmp_path / "run2")
    message = question(tmp_path / "run*" / "0.npy")
    assert "each file once" in message and "run2/0.npy and " in message and "run3/0.npy, which are one file" in message
    (tmp_path / "run2" / "again").symlink_to(tmp_path / "run2")
    assert "each file once" in question(tmp_path / "run2" / "**" / "*.npy")


def test_the_results_of_a_run_are_no_shards_of_the_next(shard, tmp_path):
    for i in range(2):
        shard(f"rank{i}/0.npy", i)
    shard("rows.umap/0.npy", 9)
    assert order(tmp_path / "*" / "*.npy") == [0, 1]
    assert order(tmp_path / "rows.umap" / "*.npy") == [9]


def test_a_folder_of_folders_says_how_to_name_the_shards(shard, tmp_path):
    for i in range(2):
        shard(f"in/rank{i}/0.npy", i)
    message = question(tmp_path / "in")
    assert message.endswith(f"with a glob: '{tmp_path}/in/**/*.npy'.")
    assert order(tmp_path / "in" / "**" / "*.npy") == [0, 1]
    assert "files that this glob matches, found none" in question(tmp_path / "in" / "*.npz")


def test_a_glob_or_list_of_pairs(tmp_path):
    indices, values = np.array([[0, 1], [1, 2], [0, 2]]), np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    for i in range(2):
        np.save(tmp_path / f"x-{i}_indices.npy", indices)
        np.save(tmp_path / f"x-{i}_values.npy", values + 10 * i)
    np.save(tmp_path / "y-0.npy", values)
    first = np.array([[1, 2, 0], [0, 3, 4], [5, 0, 6]], np.float32)
    expected = np.concatenate([first, np.where(first, first + 10, 0)])
    (tmp_path / "x.txt").write_text("x-0_indices.npy\nx-1_values.npy\n")
    (tmp_path / "mixed.txt").write_text("x-0_indices.npy\ny-0.npy\n")
    for x in ("x-*_indices.npy", "x-*_values.npy", "x.txt"):
        np.testing.assert_array_equal(open_source(tmp_path / x, Reading(n_features=3)).read(0, 6), expected)
    assert "expected TopK pairs or other rows, found both" in question(tmp_path / "mixed.txt")
    assert "2 kinds" in question(tmp_path / "x-*.npy")


def test_files_of_two_kinds_by_one_glob(shard, tmp_path):
    shard("in/0.npy", 0)
    safetensors.numpy.save_file({"a": np.ones((3, 2), np.float32)}, tmp_path / "in" / "1.safetensors")
    assert "2 kinds" in question(tmp_path / "in" / "*")
