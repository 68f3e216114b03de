"""A training begins when what it takes is free: which trials fail is no matter of what runs beside them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from kdsearch.errors import BusyError, InterruptedRun, TrialError
from kdsearch.kinds import Model
from kdsearch.ops import memory
from kdsearch.training.memory import PATIENCE, needed, wait_for_memory
from tests.search.search_toy import TOY_IO

MODEL = Model(nn.Sequential(nn.Conv2d(3, 5, 1), nn.Flatten(), nn.Linear(320, 4)), ("image",))
NEED = 4 * 10 * (5 * 64 + 320 + 4) + 4 * 2 * (3 * 5 + 5 + 320 * 4 + 4)  # activations of ten samples; weights, twice


def materials(device: str = "cpu") -> Any:
    split = SimpleNamespace(ids=("a",) * 10)
    data = SimpleNamespace(split=lambda name: split)
    return SimpleNamespace(io=TOY_IO, torch_device=torch.device(device), data=data)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Of `total` bytes; `free` ones at each further look, the last for ever."""

    def of(total: int, *free: int) -> None:
        left = list(free)

        def told() -> Any:
            return SimpleNamespace(total=total, available=left.pop(0) if len(left) > 1 else left[0])

        monkeypatch.setattr(psutil, "virtual_memory", told)

    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    return of


def waited(device: str = "cpu", stop: bool = False) -> int:
    """Pauses until it may begin."""
    paused: list[float] = []
    wait_for_memory(materials(device), MODEL, 64, "'student'", lambda: stop, paused.append)
    return len(paused)


def test_what_a_training_takes():
    assert needed(materials(), MODEL, 64) == (10, NEED)
    assert needed(materials(), MODEL, 5)[1] == NEED - 4 * 5 * 644


def test_it_waits_until_others_have_let_go(machine):
    machine(NEED, NEED, NEED)  # the first answer is the total's
    assert waited() == 0
    machine(NEED, 0, NEED - 1, NEED - 1, NEED)
    assert waited() == 2


def test_more_than_there_is_fails_the_trial_at_once(machine, tmp_path):
    machine(NEED - 1, NEED - 1)
    with pytest.raises(
        TrialError, match=r"'student': a batch of 10 samples would need about 0\.0 GiB of memory, there are"
    ):
        waited()
    machine(NEED, NEED)
    (tmp_path / "memory.max").write_text(f"{NEED - 1}\n")
    with pytest.raises(TrialError, match="there are"):
        waited()
    assert waited("meta") == 0, "what is not on the CPU takes none of it"


def test_where_nobody_lets_go_the_run_ends_and_not_the_trial(machine):
    machine(NEED, NEED - 1)
    with pytest.raises(BusyError, match="were free") as busy:
        waited()
    assert "it goes on" in (busy.value.fix or "")
    with pytest.raises(InterruptedRun):
        waited(stop=True)
    paused: list[float] = []
    with pytest.raises(BusyError):
        wait_for_memory(materials(), MODEL, 64, "", lambda: False, paused.append)
    assert len(paused) == PATIENCE
