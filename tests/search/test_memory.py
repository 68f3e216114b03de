"""A network that does not fit into memory fails as itself, before it is built or run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
from torch import nn

from kdsearch.errors import TooLargeError
from kdsearch.kinds import Cost, Model, NoOptions
from kdsearch.ops import memory
from kdsearch.ops.memory import free_bytes
from kdsearch.search import memory as search_memory
from kdsearch.search.memory import activations, check_bytes, check_pass, check_weights
from kdsearch.search.scoring import Scorer
from tests.search.search_toy import TOY_IO, Size, ToySpace, ToySpec, ToyTask


def free(monkeypatch: pytest.MonkeyPatch, n_bytes: int, total: int | None = None) -> None:
    """So much is free, of `total` that there is; none = all of it."""
    told = psutil.virtual_memory()._replace(available=n_bytes, total=n_bytes if total is None else total)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: told)


def scorer_of(space: ToySpace) -> Scorer:
    return Scorer(space, TOY_IO, ToyTask(NoOptions()), {"size": Size(NoOptions())}, batch_size=8)


class Growing(ToySpace):
    """Its network of width 8 would have 10^15 parameters, says its formula; building it is a failure of the test."""

    def cost(self, spec: Any, io: Any) -> Cost | None:
        return Cost(10**15, 10**18) if spec.width == 8 else Cost(100, 1000)

    def build(self, spec: Any, io: Any) -> Model:
        assert spec.width != 8, "it was built"
        return super().build(spec, io)


def test_a_candidate_too_large_for_memory_fails_as_itself_and_the_others_are_scored() -> None:
    scorer = scorer_of(Growing())
    small, large, other = scorer.score_all([{"width": 2}, {"width": 8}, {"width": 4}])
    assert large.errors["build"].startswith(
        "a network of 1,000,000,000,000,000 parameters would need about 3,725,290.3 GiB"
    )
    assert all(value is None for value in large.scores.values())
    assert not small.errors
    assert not other.errors


def test_a_pass_that_does_not_fit_fails_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorer_of(ToySpace())
    scorer.check()
    assert not scorer.score({"width": 2, "depth": 3}).errors
    free(monkeypatch, 100_000)
    row = scorer.score({"width": 8, "depth": 3})
    assert "the answers of its layers to" in row.errors["build"]


def test_answers_are_counted_without_running_the_network() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(320, 4))
    model = Model(net, ("image",))
    assert activations(model, TOY_IO) == (5 * 64 + 5 * 64 + 320 + 4, 320)
    assert all(each.device.type == "cpu" for each in net.parameters())


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(nn.Sequential(nn.Conv2d(3, 5, 1), nn.Flatten(), nn.Linear(320, 4)), ("image",))
    total = 320 + 320 + 4
    free(monkeypatch, 4 * 10 * total)
    check_pass(model, TOY_IO, 10**9, 10)
    with pytest.raises(TooLargeError):
        check_pass(model, TOY_IO, 10**9, 11)
    spec = ToySpec(width=8)
    cost = Growing().cost(spec, TOY_IO)
    assert cost is not None
    free(monkeypatch, 4 * cost.params)
    check_weights(Growing(), spec, TOY_IO)
    free(monkeypatch, 4 * cost.params - 1)
    with pytest.raises(TooLargeError):
        check_weights(Growing(), spec, TOY_IO)


def test_what_is_taken_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a candidate's score is no matter of what runs beside it."""
    waits: list[float] = []

    def others_end(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            free(monkeypatch, 10_000, total=20_000)

    monkeypatch.setattr(search_memory.time, "sleep", others_end)
    free(monkeypatch, 9_999, total=20_000)
    check_bytes(10_000, "a network")
    assert len(waits) == 3
    waits.clear()
    free(monkeypatch, 9_999, total=20_000)
    monkeypatch.setattr(search_memory.time, "sleep", waits.append)
    with pytest.raises(
        TooLargeError, match=r"a network would need about .* GiB of memory, in 60 s there were never so many"
    ):
        check_bytes(10_000, "a network")
    assert len(waits) == 60
    waits.clear()
    with pytest.raises(TooLargeError, match=r"there are 0\.0$"):
        check_bytes(20_001, "a network")
    assert not waits, "it will never fit"


def test_a_container_has_less_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 10_000)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert free_bytes() == 10_000
    for name, text in {"max": "5000\n", "current": "3000\n", "stat": "anon 1\ninactive_file 500\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert free_bytes() == 2500
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes() == 10_000
    (tmp_path / "memory.max").write_text("1000\n")
    assert free_bytes() == 0
