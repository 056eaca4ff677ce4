"""The scan on a device, its CsrRows, and blocks sent to the device. Without a GPU, torch on the CPU stands in."""

import numpy as np
import pytest
from source_checks import Rows, make, topk

torch = pytest.importorskip("torch")

from streamumap.errors import Stopped  # noqa: E402
from streamumap.source import Reading, open_source  # noqa: E402
from streamumap.source.base import DEVICE_DTYPES, widen  # noqa: E402
from streamumap.source.scan import cuda, equal_cuda  # noqa: E402
from streamumap.source.scan.cpu import scan  # noqa: E402
from streamumap.source.scan.sizes import device_scan_footprint  # noqa: E402
from streamumap.source.scan.totals import _first_equal  # noqa: E402
from streamumap.source.sparse.csr_rows import csr_footprint, pack  # noqa: E402
from streamumap.source.views.device_feed import Feed  # noqa: E402

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ROOM = 10**9

on_devices = pytest.mark.parametrize("device", DEVICES)


def pairs_of(dtype, n_features, special=False):
    """Makes 83 rows of 6 pairs each: some pairs are zero, some rows duplicates, one row is all zeros."""
    indices, values = topk(83, n_features, 6, dtype, seed=3)
    if special:
        values[[7, 21, 59], [3, 0, 4]] = {"bfloat16": np.array([0x7FC0, 0x7F80, 0xFF80])}.get(
            dtype, [np.nan, np.inf, -np.inf]
        )
    reading = Reading("bfloat16" if dtype == "bfloat16" else None)
    return open_source((indices, values, n_features), reading)


def check_same(found, true):
    """Compares all fields: norms but for the last bits, the others exactly."""
    for name, value in vars(true).items():
        compare = np.testing.assert_allclose if name.startswith("norm") else np.testing.assert_array_equal
        compare(getattr(found, name), value, err_msg=name, **({"rtol": 1e-12} if name.startswith("norm") else {}))
        assert np.asarray(getattr(found, name)).dtype == np.asarray(value).dtype


def check_same_packed(found, true):
    for a, b in zip(found.stored(0, found.n_rows), true.stored(0, true.n_rows), strict=True):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
    assert (found.n_rows, found.n_features, found.n_nonzero, found.dtype, found.host_bytes) == (
        true.n_rows, true.n_features, true.n_nonzero, true.dtype, true.host_bytes,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DEVICE_DTYPES)
@pytest.mark.parametrize("density", [0.02, 0.4, 1.0])
@pytest.mark.parametrize("n_features", [1, 37, 1500])
@on_devices
def test_the_numbers_are_those_of_the_scan(device, dtype, density, n_features):
    source = make(dtype, 83, n_features, density)
    true = scan(source, 19)
    found, csr = cuda.scan(source, 19, device, ROOM)
    check_same(found, true)
    if csr is not None:
        check_same_packed(csr, pack(source, 20, true.n_nonzero))
    if density == 0.02 and n_features == 1500:
        assert (csr is None) == (dtype == "float64")
    if density == 1.0:
        assert csr is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("density", [0.01, 1.0])
@on_devices
def test_values_that_are_not_finite(device, dtype, density):
    source = make(dtype, 60, 50, density)
    with np.errstate(all="ignore"):
        special = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
        special = (special.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else special.astype(dtype)
    source.array[[7, 21, 59, 3], [3, 0, 49, 4]] = special
    source.array[:, 11] = special[0]
    check_same(cuda.scan(source, 64, device)[0], scan(source, 64))


@on_devices
def test_negative_zeros_and_float64_as_float32_sees_it(device):
    rows = np.zeros((5, 6))
    rows[1] = -0.0
    rows[2, 1], rows[3, 1], rows[4, 2] = 1e-60, 1e39, 1
    source = Rows(rows)
    found, csr = cuda.scan(source, 2, device, ROOM)
    with np.errstate(over="ignore"):
        check_same(found, scan(source, 2))
    assert csr is None and found.is_zero.tolist() == [True, True, True, False, False]


@on_devices
def test_ticks_are_rows_and_may_stop_the_scan(device):
    source, ticks = make("float16", 50, 8, 1.0), []
    cuda.scan(source, 16, device, advance=ticks.append)
    assert ticks == [16, 16, 16, 2]

    def stop(n):
        raise Stopped("stopped")

    with pytest.raises(Stopped):
        cuda.scan(source, 16, device, advance=stop)


@on_devices
def test_packed_in_the_same_pass_where_there_is_room(device):
    source = make("float16", 800, 300, 0.02)
    needed = csr_footprint(800, 300, np.count_nonzero(source.array), 2, on_disk=False)[0]
    assert cuda.scan(source, 50, device, 2 * needed)[1] is not None
    assert cuda.scan(source, 50, device, needed // 2)[1] is None
    assert cuda.scan(source, 50, device, 0)[1] is None


@on_devices
def test_not_packed_where_the_first_rows_promised_too_little(device):
    source = make("float16", 800, 300, 0.02)
    source.array[:400] = 0
    source.array[0, 0] = 1
    found, csr = cuda.scan(source, 50, device, ROOM)
    check_same(found, scan(source, 50))
    assert csr is None


@on_devices
def test_not_packed_where_it_does_not_pay(device):
    """The builder gives up at once, or later when the first rows were no guide."""
    source = make("float16", 800, 160, 0.02)
    source.array[:50] = 1
    assert cuda.scan(source, 50, device, ROOM)[1] is None
    assert cuda.scan(make("float16", 800, 160, 0.07), 50, device, ROOM)[1] is None


@pytest.mark.parametrize("dtype", DEVICE_DTYPES)
@pytest.mark.parametrize(("n_features", "at_once"), [(37, 1 << 21), (1500, 40), (70_000, 40)])
@on_devices
def test_pairs_are_described_and_packed_as_on_the_host(device, dtype, n_features, at_once, monkeypatch):
    monkeypatch.setattr(cuda, "DEVICE_VALUES", at_once)
    monkeypatch.setattr("streamumap.source.pieces.PIECE_PAIRS", 30)
    source = pairs_of(dtype, n_features)
    true = scan(source, 19)
    found, csr = cuda.scan(source, 19, device, ROOM)
    check_same(found, true)
    assert (csr is None) == (n_features == 37 or dtype == "float64")
    if csr is not None:
        check_same_packed(csr, pack(source, 20, true.n_nonzero))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@on_devices
def test_pairs_that_are_not_finite(device, dtype):
    source = pairs_of(dtype, 50, special=True)
    check_same(cuda.scan(source, 64, device)[0], scan(source, 64))


@on_devices
def test_reading_pairs_that_starts_again_after_every_batch(device, restarted, monkeypatch):
    monkeypatch.setattr(cuda, "DEVICE_VALUES", 40)
    monkeypatch.setattr("streamumap.source.pieces.PIECE_PAIRS", 30)
    source = pairs_of("float16", 1500)
    (found, csr), n_times, _ = restarted(
        lambda checkpoint, advance: cuda.scan(source, 19, device, ROOM, advance, checkpoint)
    )
    check_same(found, scan(source, 19))
    assert n_times > 5
    check_same_packed(csr, pack(source, 20, found.n_nonzero))


@pytest.mark.parametrize(("density", "room"), [(0.02, ROOM), (0.02, 0), (0.9, ROOM)])
@on_devices
def test_reading_that_starts_again_after_every_block(device, density, room, restarted):
    source = make("float16", 83, 1500, density)
    (found, csr), n_times, _ = restarted(
        lambda checkpoint, advance: cuda.scan(source, 19, device, room, advance, checkpoint)
    )
    true, true_packed = cuda.scan(source, 19, device, room)
    check_same(found, true)
    assert n_times == 5 and (csr is None) == (true_packed is None)
    if csr is not None:
        check_same_packed(csr, true_packed)


@pytest.mark.parametrize("dtype", [*DEVICE_DTYPES, "uint16", "int64"])
@on_devices
def test_blocks_are_the_rows_as_stored(device, dtype):
    """Dtypes that a device does not take arrive as float32."""
    source = make(dtype, 23, 7, 0.5)
    feed = Feed(source, 8, device)
    for first, start in ((0, 0), (5, 5), (22, 22), (23, 23)):
        for block_rows in (8, 3):
            at = start
            for number, rows in feed.blocks(block_rows, first):
                assert number == at and len(rows) == min(block_rows, 23 - at)
                assert rows.dtype == (getattr(torch, dtype) if dtype in DEVICE_DTYPES else torch.float32)
                stored = source.array[at : at + len(rows)]
                with np.errstate(all="ignore"):
                    assert np.array_equal(rows.float().cpu().numpy(), widen(stored, dtype))
                at += len(rows)
            assert at == 23
    assert np.array_equal(feed.block(4, 9).float().cpu().numpy(), widen(source.array[4:9], dtype))
    wanted = np.array([0, 3, 22])
    assert np.array_equal(feed.take(wanted).float().cpu().numpy(), widen(source.array[wanted], dtype))
    feed.close()


@on_devices
def test_a_block_stays_while_the_next_are_read(device):
    source = Rows(np.arange(60, dtype=np.float32).reshape(20, 3))
    feed = Feed(source, 4, device)
    kept = [rows for _, rows in feed.blocks(4)] + [feed.block(0, 4)]
    feed.close()
    assert np.array_equal(torch.cat(kept[:-1]).cpu().numpy(), source.array)
    assert np.array_equal(kept[-1].cpu().numpy(), source.array[:4])


@pytest.mark.parametrize("device", DEVICES)
def test_an_error_in_reading_reaches_who_waits(device):
    source = make("float16", 20, 3, 1.0)

    def broken(start, stop, out=None):
        if start >= 8:
            raise OSError("gone")
        return Rows.read(source, start, stop, out)

    source.read = broken
    feed, seen = Feed(source, 4, device), []
    with pytest.raises(OSError, match="gone"):
        for start, _ in feed.blocks(4):
            seen.append(start)
    feed.close()
    assert seen == [0, 4]


@pytest.mark.gpu
@pytest.mark.skipif("cuda" not in DEVICES, reason="needs a GPU: its memory is measured")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
@pytest.mark.parametrize("density", [0.01, 1.0])
def test_the_scan_needs_no_more_than_its_footprint(dtype, density):
    source = Rows(np.tile(make(dtype, 3000, 2048, density).array, (10, 1)))
    block_rows = (64 << 20) // source.row_bytes
    cuda.scan(make(dtype, 100, 2048, density), 50, "cuda")
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    cuda.scan(source, block_rows, "cuda")
    limit = device_scan_footprint(source.n_rows, 2048, dtype, block_rows)[1]
    assert 0.5 * limit <= torch.cuda.max_memory_allocated() - before <= limit


@on_devices
@pytest.mark.parametrize("n_kinds", [1, 20, 10**9])
def test_equal_keys_are_found(device, n_kinds):
    keys = np.random.default_rng(0).integers(0, n_kinds, 999).astype(np.uint64) << np.uint64(40)
    found = equal_cuda.first_equal(keys, device)
    assert found.dtype == np.int64 and np.array_equal(found, _first_equal(keys))
