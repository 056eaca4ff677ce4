"""GPUs that are not in this machine, for plans of runs elsewhere."""

import re
from dataclasses import dataclass

from streamumap.errors import InputError
from streamumap.machine import memory
from streamumap.machine.memory import NO_LIMIT, OF_TORCH, Device, Machine, format_bytes

GB = 10**9


@dataclass(frozen=True)
class Card:
    """A GPU that can be rented or bought: the driver's name of it, and the gigabytes with which it is sold. The driver reports 0 to 7%
    more than so many 10^9 bytes."""

    name: str
    size_gb: int

    @property
    def most_bytes(self) -> int:
        """Bytes that no such card exceeds."""
        return self.size_gb << 30


CARDS = {
    "l4": Card("NVIDIA L4", 24),
    "a10": Card("NVIDIA A10", 24),
    "rtx3090": Card("NVIDIA GeForce RTX 3090", 24),
    "rtx4090": Card("NVIDIA GeForce RTX 4090", 24),
    "rtx5090": Card("NVIDIA GeForce RTX 5090", 32),
    "a100-40gb": Card("NVIDIA A100-SXM4-40GB", 40),
    "a100-80gb": Card("NVIDIA A100-SXM4-80GB", 80),
    "a6000": Card("NVIDIA RTX A6000", 48),
    "l40s": Card("NVIDIA L40S", 48),
    "h100": Card("NVIDIA H100 80GB HBM3", 80),
    "h200": Card("NVIDIA H200", 141),
    "b200": Card("NVIDIA B200", 180),
}
"""Cards by the names that `plan --device` takes."""


def machine_to_plan(device: str, budget_bytes: int | None) -> Machine:
    """The machine that a plan is for: this one; or one elsewhere with the card that `device` names, or, where "cuda" is asked for and no
    GPU is here, with one whose memory is the budget. Raises InputError."""
    card = CARDS.get(device.lower())
    if card is not None:
        _check_budget(device, card, budget_bytes)
        return _elsewhere(Device(0, card.name, card.size_gb * GB, card.size_gb * GB, elsewhere=True))
    if device not in ("auto", "cpu") and not re.fullmatch(OF_TORCH, device):
        raise InputError(
            f"--device: expected auto, cpu, cuda, cuda:N or a card ({', '.join(CARDS)}), found {device!r}; choose one of these."
        )
    if device in ("auto", "cpu") or (gpus := memory.devices()):
        return memory.machine(device)
    if budget_bytes is None:
        raise InputError(
            f"--device: expected a GPU {device!r}, or with --budget the memory of one elsewhere, found neither "
            f"({memory.why_no_gpu(gpus)}); add --budget 40GB, or name a card as --device h100."
        )
    name = f"a GPU of {format_bytes(budget_bytes)}"
    return _elsewhere(Device(int(device.partition(":")[2] or 0), name, 0, budget_bytes, elsewhere=True))


def _elsewhere(device: Device) -> Machine:
    """A machine with this GPU and as much host memory as it takes."""
    return Machine(memory.n_cores(), NO_LIMIT, device)


def _check_budget(device: str, card: Card, budget_bytes: int | None) -> None:
    if budget_bytes is not None and budget_bytes > card.most_bytes:
        raise InputError(
            f"--budget: expected at most {card.size_gb}GiB, the memory of {device}, found {format_bytes(budget_bytes)}; give less, or name "
            "a card with more."
        )
