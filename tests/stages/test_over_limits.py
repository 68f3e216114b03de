"""A file above the study's limits is said to be, everywhere, and not recommended while another one keeps them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdsearch.report import tables
from kdsearch.stages.commands import summary_of
from kdsearch.stages.report import _notes, _over, _recommended
from kdsearch.study.schema import Constraints, Latency


def row(name: str, n_bytes: int, ms: float, accuracy: float) -> dict[str, Any]:
    return {
        "format": name,
        "bytes": n_bytes,
        "accuracy": accuracy,
        "latency_ms": {"median": ms, "min": ms},
        "slower_than_fp32": False,
    }


def exported(**limits: Any) -> list[dict[str, Any]]:
    materials: Any = SimpleNamespace(study=SimpleNamespace(config=SimpleNamespace(constraints=Constraints(**limits))))
    rows = [row("onnx-fp32", 400, 0.5, 0.95), row("onnx-int8", 110, 0.7, 0.94), row("onnx-int4", 70, 1.1, 0.94)]
    return [{**each, "over": _over(materials, each)} for each in rows]


def test_the_recommended_file_keeps_the_limits_where_one_does():
    chosen = [
        _recommended(exported(**limits))["format"]
        for limits in ({}, {"onnx_bytes": 120}, {"latency_ms": Latency(max=0.6)}, {"onnx_bytes": 60})
    ]
    assert chosen == ["onnx-fp32", "onnx-int8", "onnx-fp32", "onnx-fp32"]
    assert _recommended([]) is None


def test_it_is_said_in_notes_summary_and_page():
    found = exported(onnx_bytes=100, latency_ms=1.0)
    assert [each["over"] for each in found] == [
        {"onnx_bytes": pytest.approx(3.0)},
        {"onnx_bytes": pytest.approx(0.1)},
        {"latency_ms": pytest.approx(0.1)},
    ]
    nothing: dict[str, Any] = {"search": {"roles": {}}, "distill": {"runs": {}}}
    inputs: Any = {name: SimpleNamespace(facts=facts) for name, facts in nothing.items()}
    assert _notes(inputs, found)[1:] == [
        "onnx-int8 is 10.0% above the study's limit of onnx_bytes.",
        "onnx-int4 is 10.0% above the study's limit of latency_ms.",
    ]
    student = {"accuracy": 0.95, "params": 100, "architecture": "{}"}
    result = {"student": student, "exports": found, "recommended": None, "report": "r"}
    result |= dict.fromkeys(["teacher", "baseline", "all_labels", "pruned"])
    assert "1.100 ms  latency_ms +10.0% above its limit" in summary_of(result, Path())
    assert "onnx-int4 is 10.00 % above the study's limit of latency_ms." in tables.files(result).replace("&#x27;", "'")
