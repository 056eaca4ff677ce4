"""torch's memory on a GPU: a cap, a release, and a retry in halves when it runs out."""

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

_shrunk: list[str] = []


def load() -> None:
    """Imports torch with a memory pool that grows by pages: blocks of different sizes then leave no holes that count
    against the cap."""
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    import torch  # noqa: F401


def cap(device: str, n_bytes: int) -> None:
    """Limits torch's pool on this device ("cuda:N") to `n_bytes`."""
    import torch

    total_bytes = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, n_bytes / total_bytes), device)


def release() -> None:
    """Returns memory that no array uses to the driver."""
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.cuda.empty_cache()
        getattr(torch._C, "_host_emptyCache", int)()  # not in a CPU build


def pinned_peak() -> int:
    """Peak bytes of host memory that torch has pinned since the last call. The driver maps them, so they do not count as
    anonymous memory of the process."""
    cuda = sys.modules["torch"].cuda if "torch" in sys.modules else None
    if cuda is None or not cuda.is_initialized():
        return 0
    peak = int(cuda.host_memory_stats().get("allocated_bytes.peak", 0))
    cuda.reset_peak_host_memory_stats()
    return peak


def ran_out(error: BaseException) -> bool:
    """Whether the error says that the device, or torch's share of it, had no more memory."""
    return "torch" in sys.modules and isinstance(error, sys.modules["torch"].OutOfMemoryError)


def on_host(array: Any) -> np.ndarray:
    """An array or tensor as a NumPy array."""
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def as_tensor(array: np.ndarray) -> Any:
    """A tensor that shares the memory of an array."""
    import torch

    return torch.from_numpy(array)


def in_halves(work: Callable[[int, int], None], start: int, stop: int, least: int = 1) -> None:
    """Calls `work(start, stop)`, and again on two halves where the device runs out of memory, down to `least` rows.

    Memory runs out where an estimate was wrong or another process took it. `shrunk` then says so. `work` must change
    nothing where it fails, so it adds or writes its result at its end.
    """
    try:
        return work(start, stop)
    except Exception as error:
        if not ran_out(error) or stop - start <= least:
            raise
        _shrunk.append(f"a block of {stop - start:,} rows was done in halves ({str(error).split('. ')[0]})")
    release()
    middle = start + max(least, (stop - start) // 2 // least * least)
    in_halves(work, start, middle, least)
    in_halves(work, middle, stop, least)


def shrunk() -> list[str]:
    """The sentences of `in_halves` since the last call."""
    said = _shrunk.copy()
    _shrunk.clear()
    return said
