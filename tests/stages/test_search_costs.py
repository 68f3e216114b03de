"""What a search minimises beside the score, and which candidates go on where files have limits."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdsearch.errors import RefusedError
from kdsearch.search.candidates import Candidate
from kdsearch.search.scoring import Scored
from kdsearch.stages import distill, keeping
from kdsearch.stages.keeping import Kept, estimates, keep_best
from kdsearch.stages.search import search_costs
from kdsearch.training.tools import Progress


@pytest.mark.parametrize(
    ("objectives", "costs"),
    [
        (["accuracy"], []),
        (["accuracy", "params"], ["params"]),
        (["macs", "accuracy", "params"], ["params", "macs"]),
        (["accuracy", "latency_ms"], ["macs"]),
        (["accuracy", "latency_ms", "macs"], ["macs"]),
        (["accuracy", "latency_ms", "params"], ["params", "macs"]),
        (["accuracy", "onnx_bytes"], ["params"]),
    ],
)
def test_costs_are_those_a_formula_knows_or_what_stands_in(objectives: list[str], costs: list[str]) -> None:
    assert search_costs(objectives) == costs


ROWS = [Scored(f"{i:04}", {"i": i}, 1000 + 10 * i, 50_000 + (7919 * i) % 30_000 + 40 * i, {}, {}) for i in range(2000)]


def materials_of(families: int = 0) -> Any:
    """Of so many families, which take turns."""
    space = SimpleNamespace(
        family_fields=("i",) if families else (), parse=dict, family=lambda spec: f"f{spec['i'] % families}"
    )
    return SimpleNamespace(ships=("student",), spaces={"student": space})


def kept(
    monkeypatch: pytest.MonkeyPatch, cost: Any, limit: float, keep: int = 8, families: int = 0
) -> tuple[list[int], int, Kept]:
    """Of 2,000 candidates whose score is their size: who goes on, and how many were measured. `cost`: (params, macs) -> ms."""
    measured: list[int] = []

    def file_costs(_: Any, role: str, spec: dict[str, Any], folder: Path) -> dict[str, float]:
        measured.append(spec["i"])
        return {"latency_ms": cost(ROWS[spec["i"]].params, ROWS[spec["i"]].macs)}

    monkeypatch.setattr(keeping, "file_costs", file_costs)
    monkeypatch.setattr(keeping, "needs_file", lambda _: True)
    monkeypatch.setattr(keeping, "violations", lambda _, found: {"latency_ms": found["latency_ms"] / limit - 1})
    progress = Progress(shown=False)
    progress.begin("search", 2000)
    progress.at(2000)
    tools: Any = SimpleNamespace(stop=lambda: False, progress=progress)
    materials = materials_of(families)
    candidates = [Candidate(row, float(row.params)) for row in ROWS]
    found = keep_best(materials, "student", candidates, keep, [], Path(), tools, 3)
    assert len(set(measured)) == len(measured), "nothing is measured twice"
    assert progress.done == progress.total == 2000 + len(measured), "each file is a unit of the stage's work"
    assert progress.note == f"{len(measured)} files measured"
    assert progress._had == 2000, "the pace is of files, not of what was scored"
    assert len(found.broken) <= len(measured) - len(found.rows)
    assert [each["short"] for each in found.rows] == [i < 3 for i in range(len(found.rows))]
    return [each["spec"]["i"] for each in found.rows], len(measured), found


def best_of(cost: Any, limit: float, keep: int = 8) -> list[int]:
    return [row.spec["i"] for row in ROWS[::-1] if cost(row.params, row.macs) <= limit][:keep]


def linear(params: int, macs: int) -> float:
    return 0.2 + params / 40_000 + macs / 100_000


@pytest.mark.parametrize("limit", [5.0, 1.2, 1.0, 0.8])
def test_the_best_that_keep_a_limit_are_found_by_few_measurements(
    monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    found, n, _ = kept(monkeypatch, linear, limit)
    assert found == best_of(linear, limit)
    assert n <= 60
    assert n <= 8 + 1 or limit < 5  # and the one with most MACs


@pytest.mark.parametrize("limit", [5.0, 1.2, 1.0, 0.8])
def test_the_largest_that_keeps_the_limits_is_there_by_both_sizes(
    monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    _, _, found = kept(monkeypatch, linear, limit)
    fits = [row for row in ROWS if linear(row.params, row.macs) <= limit]
    assert found.largest["params"]["spec"]["i"] == max(fits, key=lambda row: row.params).spec["i"]
    assert found.largest["macs"]["spec"]["i"] == max(fits, key=lambda row: row.macs).spec["i"]
    assert all(each["costs"]["latency_ms"] <= limit for each in found.largest.values())


def test_the_largest_is_looked_for_by_a_dozen_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no size tells the cost, the largest of those measured that keeps it is taken."""
    noise = np.random.default_rng(0).uniform(0.5, 1.5, len(ROWS))

    def cost(params: int, macs: int) -> float:
        return float(noise[(params - 1000) // 10])

    chosen, _, found = kept(monkeypatch, cost, 0.6)
    assert found.largest["params"]["costs"]["latency_ms"] <= 0.6
    assert found.largest["params"]["spec"]["i"] >= max(chosen)


@pytest.mark.parametrize("slow", [0, 1])
def test_families_that_take_other_times_are_told_apart(monkeypatch: pytest.MonkeyPatch, slow: int) -> None:
    """Five times the time of the other one at equal sizes: a common line would say of the other that nothing fits, or too much."""

    def cost(params: int, macs: int) -> float:
        return linear(params, macs) * (5 if (params - 1000) // 10 % 2 == slow else 1)

    for limit in (0.9, 2.0):
        _, n, found = kept(monkeypatch, cost, limit, families=2)
        fits = [row for row in ROWS if cost(row.params, row.macs) <= limit]
        own = {f: [row.spec["i"] for row in fits if row.spec["i"] % 2 == f] for f in (0, 1)}
        assert found.largest["params"]["spec"]["i"] == max(row.spec["i"] for row in fits)
        best = found.rows[0]["spec"]["i"] % 2
        assert {name: row["spec"]["i"] for name, row in found.families.items()} == (
            {f"f{1 - best}": max(own[1 - best])} if own[1 - best] else {}
        )
        assert n <= 100


def test_networks_without_macs_have_limits_too() -> None:
    """An embedding that is looked up multiplies nothing."""
    rows = [Candidate(Scored(f"{i}", {"i": i}, 1000 + 10 * i, 0, {}, {}), float(i)) for i in range(20)]
    found = {f"{i}": {"params": 1000.0 + 10 * i, "macs": 0.0} for i in range(8)}
    excess = {key: {"onnx_bytes": each["params"] / 1035 - 1} for key, each in found.items()}
    assert [each <= 0 for each in estimates(rows, found, excess)][:8] == [True] * 5 + [False] * 3, (
        "one per cent of slack"
    )


@pytest.mark.parametrize("limit", [5.0, 1.2, 0.8])
def test_the_best_of_each_other_family_that_keeps_the_limits_is_there(
    monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    chosen, _, found = kept(monkeypatch, linear, limit, families=3)
    fits = [row for row in ROWS[::-1] if linear(row.params, row.macs) <= limit]
    best = {f: next(row.spec["i"] for row in fits if row.spec["i"] % 3 == f) for f in range(3) if f != chosen[0] % 3}
    order = sorted(best, key=lambda f: -best[f])
    assert [(name, each["spec"]["i"]) for name, each in found.families.items()] == [(f"f{f}", best[f]) for f in order]
    assert kept(monkeypatch, linear, limit)[2].families == {}, "a space without families has none"


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0.75, 1.8), st.integers(0, 2**31))
def test_where_cost_is_no_line_good_ones_are_found_too(
    monkeypatch: pytest.MonkeyPatch, limit: float, seed: int
) -> None:
    noise = np.random.default_rng(seed).uniform(0.9, 1.1, len(ROWS))

    def cost(params: int, macs: int) -> float:
        return float(noise[(params - 1000) // 10] * (0.2 + (params / 40_000) ** 1.5 + macs / 100_000))

    found, n, _ = kept(monkeypatch, cost, limit)
    possible = best_of(cost, limit, 2000)
    assert len(found) == min(8, len(possible)) or len(possible) < 40
    assert n <= 150
    if len(possible) >= 100:
        assert np.mean([possible.index(i) for i in found]) < 0.1 * len(possible)


def test_where_nothing_fits_few_are_measured_and_the_least_broken_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found, n, kept_ = kept(monkeypatch, linear, 0.5)
    assert found == []
    assert n <= 60
    smallest = min(linear(row.params, row.macs) for row in ROWS)
    assert kept_.broken[0]["latency_ms"] == pytest.approx(smallest / 0.5 - 1, rel=0.05)


def test_without_limits_the_best_go_on_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "violations", lambda _, found: {})
    monkeypatch.setattr(keeping, "needs_file", lambda _: False)
    candidates = [Candidate(row, float(row.params)) for row in ROWS[:5]]
    materials = materials_of()
    arguments: Any = (materials, "student", candidates, 8, [], Path(), SimpleNamespace(stop=lambda: False), 8)
    found = keep_best(*arguments)
    assert [each["spec"]["i"] for each in found.rows] == [4, 3, 2, 1, 0]
    assert found.largest["params"]["spec"]["i"] == 4
    assert found.largest["macs"]["spec"]["i"] == max(range(5), key=lambda i: ROWS[i].macs)


@pytest.mark.parametrize(("broken", "expected"), [((4, 1), [3, 2, 0]), ((0, 1, 2, 3, 4), [4, 3, 2, 1, 0])])
@pytest.mark.parametrize("error", ["build", "process"])
def test_what_could_not_be_built_does_not_go_on(
    broken: tuple[int, ...], expected: list[int], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it the largest that keeps the limits; where none could be, the trials say so."""
    monkeypatch.setattr(keeping, "violations", lambda _, found: {})
    monkeypatch.setattr(keeping, "needs_file", lambda _: False)
    rows = [replace(row, errors={error: "no"}) if i in broken else row for i, row in enumerate(ROWS[:5])]
    candidates = [Candidate(row, float(row.params)) for row in rows]
    materials = materials_of()
    arguments: Any = (materials, "student", candidates, 8, [], Path(), SimpleNamespace(stop=lambda: False), 8)
    found = keep_best(*arguments)
    assert [each["spec"]["i"] for each in found.rows] == expected
    assert found.largest["params"]["spec"]["i"] == expected[0]


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("unwritten", [(4, 1), (0, 1, 2, 3, 4)])
def test_what_has_no_file_does_not_go_on_and_ends_nothing(
    unwritten: tuple[int, ...], keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator that exporters do not know may be in some networks of a space alone."""

    def file_costs(_: Any, role: str, spec: dict[str, Any], folder: Path) -> dict[str, float]:
        if spec["i"] in unwritten:
            raise RefusedError(f"cannot write {spec['i']}")
        return {"onnx_bytes": 100.0}

    monkeypatch.setattr(keeping, "file_costs", file_costs)
    monkeypatch.setattr(keeping, "needs_file", lambda _: True)
    monkeypatch.setattr(keeping, "violations", lambda _, found: {"onnx_bytes": found["onnx_bytes"] / 200 - 1})
    candidates = [Candidate(row, float(row.params)) for row in ROWS[:5]]
    tools: Any = SimpleNamespace(stop=lambda: False, progress=Progress(shown=False))
    arguments: Any = (materials_of(), "student", candidates, keep, [], Path(), tools, keep)
    if len(unwritten) == len(candidates):
        with pytest.raises(RefusedError, match="cannot write 4"):
            keep_best(*arguments)
        return
    found = keep_best(*arguments)
    assert [each["spec"]["i"] for each in found.rows] == [3, 2][:keep]
    assert found.largest["params"]["spec"]["i"] == 3
    assert [str(each) for each in found.unwritten.values()] == ["cannot write 4"]


def test_what_has_no_file_is_no_student_to_compare_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def file_costs(*_: Any) -> dict[str, float]:
        raise RefusedError("cannot write")

    monkeypatch.setattr(distill, "file_costs", file_costs)
    assert not distill._keeps(materials_of(), "student", {"spec": {"i": 1}}, Path())
