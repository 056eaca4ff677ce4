"""torch's memory on a GPU: capped, given back, and what to do when it runs out."""

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

_shrunk: list[str] = []


def load() -> None:
    """Imports torch. Its pool is to grow by pages, so that blocks of ever different sizes leave no holes that count against a cap."""
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    import torch  # noqa: F401


def cap(device: str, n_bytes: int) -> None:
    """From now on torch's pool holds at most `n_bytes` on this device ("cuda:N")."""
    import torch

    total_bytes = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, n_bytes / total_bytes), device)


def release() -> None:
    """Gives what no array uses any more back to the driver."""
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.cuda.empty_cache()
        getattr(torch._C, "_host_emptyCache", int)()  # not in a CPU build


def pinned_peak() -> int:
    """The most bytes of host memory that torch has pinned since the last time this was asked. The driver maps them: they are no
    anonymous memory of the process."""
    cuda = sys.modules["torch"].cuda if "torch" in sys.modules else None
    if cuda is None or not cuda.is_initialized():
        return 0
    peak = int(cuda.host_memory_stats().get("allocated_bytes.peak", 0))
    cuda.reset_peak_host_memory_stats()
    return peak


def ran_out(error: BaseException) -> bool:
    """Whether the device, or torch's share of it, had no more memory."""
    return "torch" in sys.modules and isinstance(error, sys.modules["torch"].OutOfMemoryError)


def on_host(array: Any) -> np.ndarray:
    """An array or tensor as an array."""
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def as_tensor(array: np.ndarray) -> Any:
    """The same memory as a tensor."""
    import torch

    return torch.from_numpy(array)


def in_halves(work: Callable[[int, int], None], start: int, stop: int, least: int = 1) -> None:
    """`work(start, stop)`. Where the device runs out of memory in it, because an estimate was wrong or another process took it,
    what no array uses any more is given back and that block alone is done again in two halves, down to `least` rows; `shrunk` then says so.

    `work` must leave things as they were where it fails: it adds or writes what it found at its end."""
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
    """What `in_halves` had to say since the last time."""
    said = _shrunk.copy()
    _shrunk.clear()
    return said
