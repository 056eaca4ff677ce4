"""torch's memory on a GPU: capped, given back, and what to do when it runs out."""

import os
import sys
from typing import Any

import numpy as np


def cap(device: str, n_bytes: int) -> None:
    """From now on torch's pool holds at most `n_bytes` on this device ("cuda:N").

    It grows by pages, so that blocks of ever different sizes leave no holes that count against the cap.
    """
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
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
