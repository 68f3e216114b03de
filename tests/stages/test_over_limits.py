"""A file above the study's limits is said to be, everywhere, and not recommended while another one keeps them."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kdsearch.builtin.metrics import Accuracy, NegativeLogLikelihood
from kdsearch.deploy.latency import is_slower
from kdsearch.kinds import NoOptions
from kdsearch.report.page import render
from kdsearch.report.summary import shipped_with
from kdsearch.report.tables import constraints
from kdsearch.stages.notes import _cost_of_pruning, notes_of
from kdsearch.stages.quality import Quality, as_before, no_smaller
from kdsearch.stages.report import _over, _recommended
from kdsearch.study.schema import Constraints, Latency
from kdsearch.verbs.summary import summary_of


def quality(value: float, **changes: Any) -> dict[str, Any]:
    return {**Quality("accuracy", value, "max", "share").as_json(), **changes}


def row(
    name: str, n_bytes: int, ms: float, accuracy: float, validation: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "format": name,
        "path": f"export/{name}.onnx",
        "bytes": n_bytes,
        "accuracy": accuracy,
        "quality": quality(accuracy),
        "validation": validation or quality(accuracy),
        "latency_ms": {"median": ms, "min": ms, "spread": 0.02 * ms},
        "latency_tuned_ms": None,
        "session_options": {},
        "slower_than_fp32": False,
        "weight_share": {},
    }


def exported(**limits: Any) -> list[dict[str, Any]]:
    materials: Any = SimpleNamespace(study=SimpleNamespace(config=SimpleNamespace(constraints=Constraints(**limits))))
    rows = [row("onnx-fp32", 400, 0.5, 0.95), row("onnx-int8", 110, 0.7, 0.94), row("onnx-int4", 70, 1.1, 0.94)]
    return [{**each, "over": _over(materials, each, rows)} for each in rows]


def pair(**limits: Any) -> list[dict[str, Any]]:
    """The files of two students that ship by themselves."""
    materials: Any = SimpleNamespace(study=SimpleNamespace(config=SimpleNamespace(constraints=Constraints(**limits))))
    sizes = {"onnx-fp32": (400, 0.5, 30), "onnx-int8": (110, 0.7, 20)}
    rows = [
        {**row(form, n_bytes, ms, 0.9), "role": role, "peak_bytes": peak}
        for role in ("left", "right")
        for form, (n_bytes, ms, peak) in sizes.items()
    ]
    return [{**each, "over": _over(materials, each, rows)} for each in rows]


@pytest.mark.parametrize(
    ("limits", "over", "chosen"),
    [
        ({"onnx_bytes": 500}, [{"onnx_bytes": pytest.approx(0.6)}, {}], "onnx-int8"),
        ({"latency_ms": 0.8}, [{"latency_ms": pytest.approx(0.25)}, {"latency_ms": pytest.approx(0.75)}], "onnx-fp32"),
        ({"peak_bytes": 50}, [{"peak_bytes": pytest.approx(0.2)}, {}], "onnx-int8"),
        (
            {"onnx_bytes": 800, "latency_ms": 1.0, "peak_bytes": 60},
            [{}, {"latency_ms": pytest.approx(0.4)}],
            "onnx-fp32",
        ),
    ],
)
def test_files_of_several_students_keep_a_limit_together(limits, over, chosen):
    """Each alone keeps all of them."""
    found = pair(**limits)
    assert [each["over"] for each in found] == over * 2
    recommended = _recommended(found)
    assert recommended is not None
    assert {role: each["format"] for role, each in recommended["roles"].items()} == {"left": chosen, "right": chosen}
    assert recommended["format"] == chosen
    shown = re.sub(r"<[^>]+>", " ", constraints({"exports": found, "recommended": recommended, "constraints": limits}))
    assert shown.count("broken") == len(over[0]), "of fp32, which the limits are of"
    assert shown.count("of the fp32 files together") == len(limits)


def test_what_a_refused_file_ships_instead_counts_with_the_others():
    """The right student's INT8 file was refused: the left one's ships with its fp32 one."""
    found = [row for row in pair(onnx_bytes=500) if (row["role"], row["format"]) != ("right", "onnx-int8")]
    assert [row["bytes"] for row in shipped_with(found, "onnx-int8")] == [110, 400]
    limits = {"onnx_bytes": {"max": 500, "format": "onnx-int8"}}
    assert "not measured" in constraints({"exports": found, "constraints": limits})


def test_the_recommended_file_keeps_the_limits_where_one_does():
    chosen = [
        _recommended(exported(**limits))["format"]
        for limits in ({}, {"onnx_bytes": 120}, {"latency_ms": Latency(max=0.6)}, {"onnx_bytes": 60})
    ]
    assert chosen == ["onnx-fp32", "onnx-int8", "onnx-fp32", "onnx-fp32"]
    assert _recommended([]) is None


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        (None, "0.500 ms, 400 bytes: the fastest; where size decides: onnx-int4"),
        (120, "0.700 ms, 110 bytes: the fastest that keeps the study's limits; where size decides: onnx-int4"),
        (100, "1.10 ms, 70 bytes: the only file that keeps the study's limits"),
        (60, "0.500 ms, 400 bytes: the fastest; where size decides: onnx-int4"),
    ],
)
def test_why_a_file_is_recommended_holds_among_all_files(limit, why):
    """One that breaks a limit may be faster; of several fast ones it may be, too."""
    assert why in _recommended(exported(**({"onnx_bytes": limit} if limit else {})))["why"]
    rows = [row(f"onnx-int{n}", n, 0.5, 0.9) for n in (8, 4)]
    faster = [
        {**row("onnx-fp32", 400, 0.1, 0.9), "over": {"onnx_bytes": 1.0}},
        *({**each, "over": {}} for each in rows),
    ]
    assert "no other file that keeps the study's limits is clearly faster" in _recommended(faster)["why"]
    assert _recommended(faster[:1])["why"].endswith("400 bytes: the only file")


def test_it_is_said_in_notes_summary_and_page():
    found = exported(onnx_bytes=100, latency_ms=1.0)
    assert [each["over"] for each in found] == [
        {"onnx_bytes": pytest.approx(3.0)},
        {"onnx_bytes": pytest.approx(0.1)},
        {"latency_ms": pytest.approx(0.1)},
    ]
    nothing: dict[str, Any] = {
        "prepare": {"teachers": {}, "data": {"facts": {}}},
        "search": {"roles": {}},
        "refine": {"first": [["the best score"]], "states": {"failed": 0}},
        "distill": {"runs": {"winner": {"error": ""}}, "winner": "winner", "trial": 0, "epochs": 3, "leftover": 0},
        "compress": {},
        "export": {"shipped": {}, "shipped_roles": {}},
    }
    inputs: Any = {name: SimpleNamespace(facts=facts) for name, facts in nothing.items()}
    export = SimpleNamespace(min_agreement={})
    config = SimpleNamespace(distill=SimpleNamespace(controls=("baseline",)), export=export, metrics=[])
    materials: Any = SimpleNamespace(
        study=SimpleNamespace(students={"student": None}, config=config), io=SimpleNamespace(inputs=())
    )
    assert notes_of(materials, inputs, found)[1:] == [
        "onnx-int8 is 10.0% above the study's limit of onnx_bytes.",
        "onnx-int4 is 10.0% above the study's limit of latency_ms.",
    ]
    assert notes_of(materials, inputs, pair(onnx_bytes=500)) == [
        "onnx-fp32 of all students together is 60.0% above the study's limit of onnx_bytes."
    ]
    larger = [{**each, "over": {}, "bytes": 400} for each in found[:2]]
    assert notes_of(materials, inputs, larger)[-1].startswith("onnx-int8 is no smaller than fp32")
    student = {"accuracy": 0.95, "quality": quality(0.95), "params": 100, "architecture": "{}"}
    result = {"student": student, "exports": found, "recommended": None, "report": "r"}
    result |= dict.fromkeys(["teacher", "baseline", "all_labels", "pruned"])
    result |= {"data": {"recipes": []}, "warnings": [], "notes": []}
    assert "1.100 ms  latency_ms +10.0% above its limit" in summary_of(result, Path())
    page = render({**result, "notes": notes_of(materials, inputs, found)}, {}).replace("&#x27;", "'")
    assert (
        page.partition('id="kdsearch-result"')[0].count("onnx-int4 is 10.0% above the study's limit of latency_ms.")
        == 1
    )


def test_that_a_file_has_nothing_quantised_is_said():
    files = {"onnx-fp32": {"32": 1.0}, "onnx-int8": {"8": 0.9, "32": 0.1}, "onnx-int4": {"4": 0.0, "32": 1.0}}
    said = {name: as_before({**row(name, 1, 1.0, 0.9), "weight_share": share}) for name, share in files.items()}
    assert said.pop("onnx-int4") == "onnx-int4 stores no weight in fewer bits than fp32: it finds none that it can."
    assert {*said.values(), as_before(row("openvino-int8", 1, 1.0, 0.9))} == {""}


def test_a_quantised_file_that_is_no_smaller_is_named():
    """Against the fp32 file of the same exporter and student, where there is one."""
    sizes = {
        "onnx-fp32": 400,
        "openvino-fp32": 90,
        "onnx-int8": 1400,
        "openvino-int8": 89,
        "onnx-int4": 399,
        "other-int8": 999,
    }
    rows = [row(name, n_bytes, 1.0, 0.9) for name, n_bytes in sizes.items()]
    of_roles = [
        {**row(form, n_bytes, 1.0, 0.9), "role": role}
        for role, n_bytes in (("left", 19), ("right", 30), ("even", 20))
        for form, n_bytes in (("onnx-fp32", 20), ("onnx-int8", n_bytes))
    ]
    whole = {**row("onnx-int8", 400, 1.0, 0.9), "weight_share": {"32": 1.0}}  # said by `as_before`
    assert no_smaller([*rows, *of_roles, whole]) == [
        "onnx-int8 is no smaller than fp32: what quantisation adds outweighs what it saves.",
        "right onnx-int8 is no smaller than fp32: what quantisation adds outweighs what it saves.",
        "even onnx-int8 is no smaller than fp32: what quantisation adds outweighs what it saves.",
    ]


@pytest.mark.parametrize(
    ("metric", "scores", "said"),
    [
        (Accuracy(NoOptions()), (0.9125, 0.5, 0.225), "accuracy 91.2 % on validation before, 22.5 % after recovery."),
        (Accuracy(NoOptions()), (0.9125, 0.1, 0.88), ""),
        (NegativeLogLikelihood(NoOptions()), (-0.4, -2.0, -0.8), "0.4000 nats on validation before, 0.8000 nats after"),
        (NegativeLogLikelihood(NoOptions()), (-0.4, -2.0, -0.3), ""),
    ],
)
def test_that_pruning_costs_much_is_said(metric, scores, said):
    """Of the whole way: before the first step, and after the last one's recovery."""
    before, between, after = scores
    steps = [{"score_before": before, "score": between}, {"score_before": between, "score": after}]
    pruned = {"steps": [{"roles": {"student": each}} for each in steps]}
    name = "accuracy" if metric.unit == "share" else "nll"
    materials: Any = SimpleNamespace(objective=name, metrics={name: metric})
    found = _cost_of_pruning(materials, cast(Any, SimpleNamespace(facts={"pruned": pruned})))
    assert [said in each and "'student'" in each for each in found] == [True] * bool(said)


def test_validation_decides_not_test():
    """The file that is better on the test split alone is not chosen for it."""
    rows = [
        row("onnx-fp32", 400, 0.5, accuracy=0.90, validation=quality(0.95)),
        row("onnx-int8", 100, 0.5, accuracy=0.96, validation=quality(0.90)),
    ]
    found = _recommended([{**each, "over": {}} for each in rows])
    assert found == {
        "format": "onnx-fp32",
        "path": "export/onnx-fp32.onnx",
        "why": "accuracy 90.0 %, 0.500 ms, 400 bytes: no other file is clearly faster, and the equally fast ones are worse on "
        "validation; where size decides: onnx-int8, accuracy 96.0 %, 0.500 ms, 100 bytes",
    }


def test_a_slower_median_that_says_nothing_is_explained():
    """A file may be chosen at twice another one's median, where sessions differ by as much: it says so."""
    rows = [row("onnx-fp32", 400, 0.5, 0.9, quality(0.9)), row("onnx-int8", 100, 1.0, 0.9, quality(0.9))]
    rows[1]["latency_ms"]["spread"] = 0.6
    found = _recommended([{**each, "over": {}} for each in rows])
    assert found["format"] == "onnx-int8"
    remark = "no other file is clearly faster (0.500 ms of another one is within what its sessions differ by)"
    assert remark in found["why"]


def test_equally_good_is_on_the_metrics_own_scale():
    """An error of 20 px and one of 20.05 are equal, .950 and .944 are not; least is best where less is better."""

    def chosen(a: float, b: float, **changes: Any) -> str:
        rows = [row("a", 400, 0.5, 0.9, quality(a, **changes)), row("b", 100, 0.5, 0.9, quality(b, **changes))]
        found = _recommended([{**each, "over": {}} for each in rows])
        assert found is not None
        return str(found["format"])

    assert chosen(0.95, 0.944) == "a"
    assert chosen(0.95, 0.946) == "b"
    less = {"metric": "distance", "direction": "min", "unit": "px"}
    assert chosen(20.0, 20.05, **less) == "b"
    assert chosen(20.0, 21.0, **less) == "a"
    assert chosen(21.0, 20.0, **less) == "b"


def test_what_repeats_differ_by_is_not_slower():
    """The larger file is no loser for 4 %, nor for 30 % where the same file differs as much from itself."""
    quiet, noisy = {"median": 1.0, "spread": 0.01}, {"median": 1.0, "spread": 0.2}
    assert is_slower({"median": 1.3, "spread": 0.01}, quiet)
    assert not is_slower({"median": 1.04, "spread": 0.0}, quiet)
    assert not is_slower({"median": 1.3, "spread": 0.15}, noisy)
    assert not is_slower(quiet, {"median": 1.3, "spread": 0.01})
