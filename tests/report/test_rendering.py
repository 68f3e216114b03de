"""Any result and evidence render to well-formed HTML with one mark a datum."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsearch.report import render
from kdsearch.report.summary import verdict

VOID = {"meta", "br", "hr", "img", "wbr", "link"}
STRANGE = [math.nan, math.inf, -math.inf, 0, -1, 1e-320, 1e308, 10**400, True, None]
STRANGE += ["", "</script>", "\x00\ud800", "很长" * 200, [], {}]
anything = st.one_of(st.sampled_from(STRANGE), st.floats(), st.integers(), st.text(max_size=20))
loose = st.recursive(
    anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def of(*keys: str, values: st.SearchStrategy[Any] = loose) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(keys), values, max_size=len(keys))


KEYS = "study dir seed teacher student baseline all_labels exports recommended refused metrics seconds notes data "
KEYS += "compare constraints provenance report"
RESULTS = of(
    *KEYS.split(),
    values=loose
    | of("params", "accuracy", "architecture", "macs", "recipe", "counts", "classes", "format", "why")
    | st.lists(
        of("format", "path", "bytes", "accuracy", "latency_ms", "weight_share", "reason", "name", "params"), max_size=3
    ),
)
CANDIDATE = of("key", "architecture", "params", "macs", "scores", "rank", "kept", "feasible")
TRIAL = of(
    "number", "architecture", "values", "state", "objectives", "feasible", "params", "macs", "latency_ms", "error"
)
EPOCH = of("epoch", "loss", "terms", "score")


class Nesting(HTMLParser):
    """Fails where a tag is not closed by its own end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.marks: dict[str, int] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.count(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count(attrs)

    def count(self, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name.startswith("on")]
        classes = (dict(attrs).get("class") or "").split()
        for name in classes[1:2] if classes[:1] == ["mark"] else ():
            self.marks[name] = self.marks.get(name, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(result: Any, evidence: Any) -> Nesting:
    page = render(result, evidence)
    page.encode("utf-8")
    assert "\x00" not in page
    svg = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    pixels = [
        re.sub(r'(data-[a-z]+|aria-[a-z]+|id)="[^"]*"|<(title|desc|text).*?</\2>', "", each, flags=re.DOTALL)
        for each in svg
    ]
    assert not [each for each in pixels if re.search(r"\b(nan|inf|None)\b", each)]
    return Nesting(page)


@settings(max_examples=60, deadline=None)
@given(result=RESULTS, evidence=of("candidates", "trials", "objectives", "curves", "ladder", "finals", "weightings"))
def test_any_json_renders(result: dict[str, Any], evidence: dict[str, Any]) -> None:
    checked(result, evidence)


@settings(max_examples=60, deadline=None)
@given(
    candidates=st.lists(CANDIDATE, max_size=6),
    trials=st.lists(TRIAL | of("objectives", values=of("accuracy", "latency_ms")), max_size=6),
    curve=st.lists(EPOCH, max_size=4),
    ladder=st.lists(of("name", "accuracy", "interval", "bytes", "params", "macs", "latency_ms"), max_size=4),
    finals=st.lists(of("architecture", "scores", "accuracy"), max_size=4),
)
def test_one_mark_a_datum_whatever_its_values(
    candidates: list[Any], trials: list[Any], curve: list[Any], ladder: list[Any], finals: list[Any]
) -> None:
    evidence = {
        "candidates": candidates,
        "trials": trials,
        "objectives": {"accuracy": "max"},
        "curves": {"student": curve},
        "ladder": ladder,
        "finals": finals,
    }
    marks = checked({}, evidence).marks
    assert marks.get("candidate", 0) == len(candidates)
    assert marks.get("kept", 0) == sum(bool(each.get("kept")) for each in candidates)
    assert marks.get("trial", 0) == marks.get("tried", 0) == len(trials)
    assert marks.get("epoch", 0) == len(curve)
    assert marks.get("rung", 0) == 3 * len(ladder)
    assert marks.get("final", 0) % max(len(finals), 1) == 0


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, -3e-9, 1e9, math.nan])
def test_equal_values_and_single_points(n: int, value: float) -> None:
    trial = {"number": 0, "state": "complete", "objectives": {"loss": value}, "params": 10, "feasible": True}
    evidence = {
        "candidates": [{"architecture": "a", "params": 10, "rank": value, "kept": True}] * n,
        "trials": [trial] * n,
        "objectives": {"loss": "min"},
        "curves": {"student": [{"epoch": 1, "loss": value, "score": value}] * n},
        "finals": [{"architecture": "a", "scores": {"nwot": value}, "accuracy": value}] * n,
    }
    marks = checked({}, evidence).marks
    assert (marks["candidate"], marks["trial"], marks["epoch"], marks["final"]) == (n, n, n, 2 * n)


def test_two_objectives_keep_one_trial_mark_each(evidence: dict[str, Any], result: dict[str, Any]) -> None:
    for trial in evidence["trials"]:
        if trial["objectives"]:
            trial["objectives"]["latency_ms"] = trial["latency_ms"]
    evidence["objectives"]["latency_ms"] = "min"
    page = Nesting(render(result, evidence))
    assert page.marks["trial"] == page.marks["trial-again"] == page.marks["tried"] == len(evidence["trials"])


def test_what_the_trials_begin_with_is_said(result: dict[str, Any], evidence: dict[str, Any]) -> None:
    said = "Trial 0 has the best of 1,024 loss weightings"
    assert said not in render(result, evidence)
    assert said in render(result, {**evidence, "weightings": 1024})


def test_a_final_without_architecture_borrows_no_parameters() -> None:
    evidence = {"candidates": [{"params": 10}], "finals": [{"scores": {"nwot": 1.0}, "accuracy": 0.5}]}
    assert Nesting(render({}, evidence)).marks["final"] == 1


def test_nan_becomes_null_in_the_json(result: dict[str, Any]) -> None:
    result["metrics"]["nll"] = math.nan
    found = re.search(r'id="kdsearch-result">(.*?)</script>', render(result, {}), re.DOTALL)
    assert found is not None
    assert json.loads(found[1])["metrics"]["nll"] is None


def test_verdict_says_how_far_from_teacher_and_baseline(result: dict[str, Any]) -> None:
    said = verdict(result)
    assert "1.31 points below the teacher" in said
    assert "5.72 points above the same network trained without a teacher" in said
    assert "14.5 times smaller than its teacher" in said
    assert said.endswith(
        "Recommended file: onnx-int8 (98.3 kB), because it is the smallest file that is no slower than fp32."
    )


def test_verdict_does_not_flatter(result: dict[str, Any]) -> None:
    result["baseline"]["accuracy"] = 0.98
    assert "0.89 points below the same network trained without a teacher" in verdict(result)
    result["student"]["accuracy"] = None
    assert "this study measured no accuracy" in verdict(result)
    result["recommended"] = None
    assert verdict(result).endswith("No file is recommended.")


def test_broken_constraint_and_slow_file_are_said(result: dict[str, Any]) -> None:
    page = render(result, {})
    assert '<td class="n">3,000,000</td><td class="n">3,900,000</td><td><span class="no">broken</span>' in page
    assert "onnx-int4 is slower than fp32 on this machine." in page
    assert "accuracy fell by 0.031" in page


def test_the_same_input_gives_the_same_page(result: dict[str, Any], evidence: dict[str, Any]) -> None:
    assert render(result, evidence) == render(result, evidence)


def test_proxies_are_judged_beside_parameter_count() -> None:
    finals = [
        {"architecture": str(n), "scores": {"good": n, "bad": -n, "params": p}, "accuracy": 0.5 + n / 100}
        for n, p in enumerate((10, 30, 20, 50, 40))
    ]
    page = render({}, {"finals": finals})
    assert "Above parameter count (τ = +0.60): good (+1.00). Over 5 students" in page
    assert page.count("τ = -1.00, n = 5") == 2  # in the panel and in its description
    for final in finals:
        del final["scores"]["good"]
    assert "No proxy ranked these students better than their parameter count (τ = +0.60)." in render(
        {}, {"finals": finals}
    )


def test_a_candidate_s_score_is_the_better_the_higher_whoever_was_kept() -> None:
    kept = {"architecture": "small", "params": 10, "score": 0.2, "kept": True, "feasible": True}
    other = {**kept, "architecture": "large", "params": 20, "score": 0.8, "kept": False}
    page = render({}, {"candidates": [other, kept]})
    assert "score (higher is better)" in page
    assert page.index(">small<") < page.index(">large<"), "kept ones first in the table"
