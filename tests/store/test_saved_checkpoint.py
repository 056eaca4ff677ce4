"""Checkpoints of every stage: a stage that is resumed ends with the same bytes."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from neighbor_checks import as_csr, compared, search_request

from streamumap.errors import Stopped
from streamumap.graph import build
from streamumap.neighbors.dense import search as dense
from streamumap.neighbors.sparse import search as sparse
from streamumap.reduce.pca import StreamedPCA
from streamumap.run.recorder import Meter
from streamumap.source import open_source
from streamumap.source.scan.cpu import scan
from streamumap.source.sparse.csr_rows import pack
from streamumap.store import saved_checkpoint
from streamumap.store.saved_checkpoint import SavedCheckpoint
from streamumap.store.workdir import Workdir

METRICS = ("euclidean", "cosine")


def as_bytes(found):
    return tuple(np.asarray(array).tobytes() for array in found)


def clustered(n, n_features=60, active=6):
    """Rows that are mostly zeros and repeat after 25."""
    random = np.random.default_rng(0)
    homes = random.random((n // 25, n_features)).argsort(1)[:, : 2 * active]
    values = np.zeros((n, n_features), np.float32)
    for row, home in zip(values, homes[random.integers(0, len(homes), n)], strict=True):
        row[random.choice(home, active, replace=False)] = random.gamma(2.0, size=active)
    values[[3, 90]] = 0
    return values


# The stages


@pytest.mark.parametrize("metric", METRICS)
def test_all_with_all_of_packed_rows(metric, restarted):
    rows = clustered(300)
    blocks = dict(query_rows=64, batch_rows=0)
    request = search_request(compared(rows, metric, as_csr(rows)), 6, blocks, is_zero=~rows.any(1), sample=np.arange(9))
    found, n_times, _ = restarted(
        lambda checkpoint, advance: sparse.search(replace(request, checkpoint=checkpoint, advance=advance))
    )
    assert n_times == 5 and as_bytes(found) == as_bytes(sparse.search(request))


@pytest.mark.parametrize("reaches", [True, False], ids=["enough at once", "never enough"])
def test_packed_rows_by_cells(reaches, restarted, monkeypatch):
    monkeypatch.setattr("streamumap.neighbors.sparse.cells.mean_cell_rows", lambda n_rows: 8)
    rows = clustered(500)
    blocks, given = dict(query_rows=64, batch_rows=10), compared(rows, "cosine", as_csr(rows))
    options: dict = dict(is_zero=~rows.any(1), sample=np.arange(50), reached=lambda near: reaches)
    request = search_request(given, 6, blocks, **options)
    found, n_times, _ = restarted(
        lambda checkpoint, advance: sparse.search(replace(request, checkpoint=checkpoint, advance=advance))
    )
    assert n_times >= (4 if reaches else 15)
    assert as_bytes(found) == as_bytes(sparse.search(request))


@pytest.mark.parametrize("how", ["exhaustive", "enough at once", "never enough"])
def test_dense_rows(how, restarted, monkeypatch):
    monkeypatch.setattr(dense, "all_with_all_is_cheaper", lambda n_rows, n_features: False)
    rows = compared(np.random.default_rng(0).normal(size=(400, 20)).astype(np.float32), "euclidean")
    options: dict = dict(n_threads=2, exhaustive=how == "exhaustive", reached=lambda near: how == "enough at once")
    request = search_request(rows, 6, {"cell_rows": 90}, **options)
    found, n_times, _ = restarted(
        lambda checkpoint, advance: dense.search(replace(request, checkpoint=checkpoint, advance=advance))
    )
    assert n_times >= 5 and as_bytes(found) == as_bytes(dense.search(request))


def test_the_graph(restarted, codes_knn, as_file, create, tmp_path):
    knn = [as_file(array) for array in codes_knn]
    how: dict = dict(local_connectivity=1.0, set_op_mix_ratio=1.0, block_rows=70)

    def make(checkpoint, advance):
        return build.build(*knn, checkpoint.create, checkpoint=checkpoint, advance=advance, **how)

    (made, sizes), n_times, _ = restarted(make)
    right, right_sizes = build.build(*knn, create, **how)
    assert n_times == 9 and np.array_equal(sizes, right_sizes)
    for name in ("indptr", "targets", "weights"):
        file, expected = getattr(made, name), getattr(right, name)
        assert len(file) == len(expected) and file.path.read_bytes() == expected.path.read_bytes()
        assert file.written.rows == len(file) and file.written.crc == expected.checksum()


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_reading(kind, restarted, codes):
    rows = codes[:300].copy()
    rows[7, 3], rows[200, 4], rows[250] = np.nan, np.inf, rows[2]
    if kind == "sparse":
        import scipy.sparse

        rows = scipy.sparse.csr_matrix(rows)
    source = open_source(rows)
    found, n_times, _ = restarted(lambda checkpoint, advance: scan(source, 40, advance, checkpoint))
    right = scan(source, 40)
    assert n_times >= 1 and all(
        np.array_equal(value, getattr(right, name), equal_nan=True) if name != "dtype" else True
        for name, value in vars(found).items()
    )


@pytest.mark.parametrize("on_disk", [False, True])
def test_packing(on_disk, restarted, codes, tmp_path):
    source, n = open_source(codes), int(np.count_nonzero(codes))
    made, n_times, _ = restarted(
        lambda checkpoint, advance: pack(source, 100, n, tmp_path if on_disk else None, advance, checkpoint)
    )
    assert n_times == 6 and as_bytes(made.block(0, 600)) == as_bytes(pack(source, 100, n).block(0, 600))
    made.close()


def test_principal_components_once_they_are_found(codes):
    pca = StreamedPCA(4).fit([codes[:300]])
    expected = pca.transform(codes[:10])
    assert "moment" not in pca.state()
    again = StreamedPCA.from_state(4, pca.state())
    assert np.array_equal(again.transform(codes[:10]), expected)
    assert np.array_equal(again.explained_variance_ratio_, pca.explained_variance_ratio_)


# What is kept


class Process:
    """A run's folder, and the units of a process that works in it."""

    def __init__(self, path):
        self.work, self.warned, self.said = Workdir(path, {}), [], []
        self.grown, self.table = np.arange(20, dtype=np.int32).reshape(10, 2), np.arange(6.0)

    def checkpoint(self, key="k", stopping=False):
        self.meter = Meter("work", 10, "rows", lambda event: None, lambda: False, 0.0)
        run = SimpleNamespace(stopping=lambda: stopping, warn=self.warned.append, reuse=self.said.append)
        return SavedCheckpoint(self.work, "work", key, "the work", self.meter, run)

    def do(self, n, checkpoint=None, **facts):
        checkpoint = checkpoint or self.checkpoint()
        self.meter.done = n
        checkpoint.done(lambda: ({"table": self.table + n}, {"grown": self.grown[:n]}), **facts)

    def resume(self, key="k"):
        table, grown = np.zeros(6), np.zeros((10, 2), np.int32)
        facts = self.checkpoint(key).resume({"table": table}, {"grown": grown})
        return facts, table, grown

    def path(self, name):
        return self.work.scratch / f"work{name}"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_checkpoint, "SAVE_SECONDS", 0)
    kept = Process(tmp_path / "run")
    yield kept
    kept.work.close()


def test_what_is_kept_comes_back(kept):
    assert kept.resume()[0] == {} and not kept.checkpoint().begun
    checkpoint = kept.checkpoint()
    for n in (2, 5, 7):
        kept.do(n, checkpoint, row=n)
    assert os.path.getsize(kept.path("_grown.part")) == 7 * 8
    facts, table, grown = kept.resume()
    assert facts == {"row": 7} and np.array_equal(table, kept.table + 7) and np.array_equal(grown[:7], kept.grown[:7])
    assert not grown[7:].any() and kept.meter.done == 7 and kept.said == ["the work up to 7 of 10 rows"]
    assert kept.checkpoint().begun and not kept.checkpoint("other").begun


def test_arrays_that_are_not_named_are_among_the_facts(kept):
    kept.do(3, row=3)
    grown = np.zeros((10, 2), np.int32)
    facts = kept.checkpoint().resume({}, {"grown": lambda facts: grown[: facts["row"]]})
    assert np.array_equal(facts["table"], kept.table + 3) and np.array_equal(grown[:3], kept.grown[:3])


def test_a_process_that_died_between_two_files_leaves_the_older_state(kept, monkeypatch):
    checkpoint = kept.checkpoint()
    kept.do(2, checkpoint, row=2)
    with monkeypatch.context() as patch:
        patch.setattr(kept.work, "replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            kept.do(5, checkpoint, row=5)
    facts, table, grown = kept.resume()
    assert facts == {"row": 2} and np.array_equal(table, kept.table + 2) and not grown[2:].any()
    kept.do(4, kept.checkpoint(), row=4)  # a process that did not resume
    assert kept.resume()[0] == {"row": 4} and kept.warned == []


@pytest.mark.parametrize("name", [".state", "_grown.part"])
@pytest.mark.parametrize("how", ["bit", "cut", "empty"])
def test_what_is_damaged_is_said_and_not_used(name, how, kept):
    kept.do(4, row=4)
    data = bytearray(kept.path(name).read_bytes())
    for place in range(0, len(data), 3) if how == "bit" else [0]:
        spoilt = bytes(data[:place]) + bytes([data[place] ^ 16]) + bytes(data[place + 1 :])
        kept.path(name).write_bytes({"bit": spoilt, "cut": data[:-3], "empty": b""}[how])
        facts, *_ = kept.resume()
        assert facts == {} and kept.said == []
        assert kept.warned.pop().startswith("the work: what is kept of it in work.state is not what was written;")
        kept.do(4, row=4)


def test_work_of_another_key_or_of_other_sizes_is_not_used(kept):
    kept.do(4, row=4)
    assert kept.resume("other")[0] == {} and not kept.path(".state").exists() and kept.warned == []
    kept.do(4, row=4)
    assert kept.checkpoint().resume({"table": np.zeros(7)}, {}) == {} and kept.warned == []


def test_it_is_kept_every_few_seconds_and_when_the_run_is_to_stop(kept, monkeypatch):
    monkeypatch.setattr(saved_checkpoint, "SAVE_SECONDS", 5.0)
    checkpoint = kept.checkpoint()
    kept.do(1, checkpoint, row=1)
    assert not kept.path(".state").exists()
    checkpoint.saved_at -= 6
    kept.do(2, checkpoint, row=2)
    kept.do(3, checkpoint, row=3)
    assert kept.resume()[0] == {"row": 2}
    checkpoint.saved_at, checkpoint.cost = checkpoint.saved_at - 9, 1.0
    kept.do(4, checkpoint, row=4)
    assert kept.resume()[0] == {"row": 2}, "what takes a second is kept every ten"
    with pytest.raises(Stopped, match="^stopped while work was at 5 of 10 rows; the same command continues the run"):
        kept.do(5, kept.checkpoint(stopping=True), row=5)
    assert kept.resume()[0] == {"row": 5}


def test_a_stop_waits_for_the_end_of_a_unit_but_not_long():
    asked = [True]
    meter = Meter("work", 10, "rows", lambda event: None, lambda: asked[0], 60.0)
    meter(1)
    meter._since -= 61
    with pytest.raises(Stopped, match="at 2 of 10 rows"):
        meter(1)


@pytest.mark.parametrize("stopping", [False, True])
def test_a_run_goes_on_where_there_is_no_room_for_what_it_keeps(stopping, kept, monkeypatch):
    kept.do(2, row=2)
    checkpoint = kept.checkpoint(stopping=stopping)
    checkpoint.resume({"table": np.zeros(6)}, {"grown": np.zeros((10, 2), np.int32)})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        for _ in range(2):
            if stopping:
                with pytest.raises(Stopped):
                    kept.do(4, checkpoint, row=4)
            else:
                kept.do(4, checkpoint, row=4)
    assert len(kept.warned) == 1 and "how far it is cannot be kept" in kept.warned[0] and "No space" in kept.warned[0]
    assert kept.resume()[0] == {"row": 2} and not list(kept.work.scratch.glob(".*"))


def no_room(*_):
    raise OSError(28, "No space left on device")
