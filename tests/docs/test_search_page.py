"""docs/search.md says what benchmarks/real/rows.jsonl has."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

ROOT = Path(__file__).parents[2]
SEEDS = (3, 4, 5)
Row = Mapping[str, Any]
PAGE = (ROOT / "docs" / "search.md").read_text()
TABLE = re.findall(
    r"^\| (fashion|tiles|docstrings), (few|all)(, \.\d+ ms)? (\|.*)\n\| \| (\|.*)$",
    PAGE.split("Seeds 0 to 2")[0],
    re.MULTILINE,
)


def rows_of(data: str, labels: str, budget: str) -> list[Row]:
    lines = (ROOT / "benchmarks" / "real" / "rows.jsonl").read_text().splitlines()
    every = [json.loads(line) for line in lines]
    keys = {"data": data, "labels": labels, "budget": budget}
    found = [each for each in every if each["seed"] in SEEDS and all(each[key] == keys[key] for key in keys)]
    assert sorted(each["seed"] for each in found) == list(SEEDS)
    return found


def value(row: Row, name: str) -> float:
    found = row[name]
    return statistics.mean(found) if isinstance(found, list) else float(found)


def above(rows: Sequence[Row], name: str) -> list[float]:
    """How many points the study is above a rival, by seed."""
    return [100 * (row["study"] - value(row, name)) for row in rows]


def half_width(differences: Sequence[float]) -> float:
    n = len(differences)
    return float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n)


def numbers(text: str) -> list[float]:
    return [float(each) for each in re.findall(r"-?\d*\.\d+", text)]


def singles(rows: Sequence[Row]) -> list[str]:
    return [name for name in ("fitnet", "dkd", "sp") if name in rows[0]]


def test_the_page_has_all_twelve_rows():
    assert len({row[:3] for row in TABLE}) == len(TABLE) == 12


@pytest.mark.parametrize(
    ("data", "labels", "limit", "means", "differences"), TABLE, ids=["-".join(row[:3]) for row in TABLE]
)
def test_a_row_is_of_its_trainings(data, labels, limit, means, differences):
    rows = rows_of(data, labels, "latency" if limit else "params")
    rivals = ["largest", *singles(rows), "staged", "random"]
    names = ["study", *rivals, "teacher"]
    assert numbers(means) == pytest.approx(
        [statistics.mean(value(row, name) for row in rows) for name in names], abs=0.00051
    )
    wanted = [each for name in rivals for each in (statistics.mean(above(rows, name)), half_width(above(rows, name)))]
    assert numbers(differences) == pytest.approx(wanted, abs=0.051)


def best_single(rows: Sequence[Row]) -> str:
    return max(singles(rows), key=lambda name: statistics.mean(value(row, name) for row in rows))


@pytest.mark.parametrize(
    ("begins", "rival"),
    [
        ("networks drawn at random", lambda rows: "random"),
        ("the largest network", lambda rows: "largest"),
        ("the best other method", best_single),
        ("two studies", lambda rows: "staged"),
    ],
)
def test_the_summary_is_of_the_rows(begins: str, rival: Callable[[Sequence[Row]], str]):
    line = re.search(rf"^\| {begins}.*$", PAGE, re.MULTILINE)
    assert line is not None
    by_labels: dict[str, list[float]] = {"few": [], "all": []}
    for data, labels, limit, *_ in TABLE:
        rows = rows_of(data, labels, "latency" if limit else "params")
        by_labels[labels].append(statistics.mean(above(rows, rival(rows))))
    few, every = by_labels["few"], by_labels["all"]
    wanted = [
        statistics.mean(few),
        half_width(few),
        statistics.mean(every),
        half_width(every),
        min(few + every),
        max(few + every),
    ]
    assert numbers(line[0]) == pytest.approx(wanted, abs=0.051)
