"""Machines of plans: this one, or one elsewhere."""

import pytest

from streamumap.errors import InputError
from streamumap.machine import cards, memory
from streamumap.machine.cards import CARDS, machine_to_plan
from streamumap.machine.memory import NO_LIMIT, Device, Machine

GB = 10**9
HERE = Device(0, "Here", 80 * GB, 70 * GB)


@pytest.fixture
def gpus(monkeypatch):
    """gpus(*devices): those that are in this machine."""

    def gpus(*devices):
        monkeypatch.setattr(memory, "devices", lambda: list(devices))
        monkeypatch.setattr(memory, "_torch_has_cuda", lambda: bool(devices))

    gpus()
    return gpus


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:2", 2)])
def test_without_a_gpu_the_budget_is_the_memory_of_one_elsewhere(device, number, gpus):
    found = machine_to_plan(device, 40 * GB)
    assert found == Machine(memory.n_cores(), NO_LIMIT, Device(number, "a GPU of 40 GB", 0, 40 * GB, elsewhere=True))
    assert not found.host_limits and not found.compiled, "neither limits nor kernels are those of this machine"


def test_a_gpu_elsewhere_needs_a_budget_or_a_name(gpus):
    with pytest.raises(
        InputError, match="^--device: .* 'cuda', .*CPU build.*; add --budget 40GB, or name a card as --device h100.$"
    ):
        machine_to_plan("cuda", None)


def test_what_is_here_is_taken_as_a_run_takes_it(gpus):
    assert machine_to_plan("auto", 40 * GB).device is None and machine_to_plan("cpu", 40 * GB).device is None
    gpus(HERE)
    assert machine_to_plan("cuda", 40 * GB).device == machine_to_plan("auto", None).device == HERE
    with pytest.raises(InputError, match="'cuda:3', found none .the driver reports 1 GPUs"):
        machine_to_plan("cuda:3", 40 * GB)


@pytest.mark.parametrize("here", [[], [HERE]])
@pytest.mark.parametrize("name", [*CARDS, "H100"])
def test_a_card_by_its_name(name, here, gpus):
    gpus(*here)
    found, card = machine_to_plan(name, None), CARDS[name.lower()]
    assert found.device == Device(0, card.name, card.size_gb * GB, card.size_gb * GB, elsewhere=True)


def test_a_card_has_no_more_than_its_memory():
    """A card of 40 GB may have 40 GiB, and has no more."""
    assert machine_to_plan("a100-40gb", 40 << 30).device.name == "NVIDIA A100-SXM4-40GB"
    with pytest.raises(InputError, match="^--budget: expected at most 40GiB, the memory of a100-40gb, found 42.9 GB; "):
        machine_to_plan("a100-40gb", (40 << 30) + 1)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "a100", "", "mps", "cpu:0"])
def test_a_device_of_another_name_is_refused(device, gpus):
    with pytest.raises(
        InputError, match=r"^--device: expected auto, cpu, cuda, cuda:N or a card \(l4, .*h100.*\), found "
    ):
        machine_to_plan(device, 40 * GB)


@pytest.mark.parametrize("device", ["h100", "cuda"])
def test_a_run_is_never_elsewhere(device, gpus):
    with pytest.raises(InputError, match="^--device: expected"):
        memory.machine(device)


def test_measured_cards_have_the_names_of_the_driver():
    assert {"NVIDIA H200", "NVIDIA H100 80GB HBM3"} <= {card.name for card in cards.CARDS.values()}
