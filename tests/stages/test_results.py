"""What the final JSON says of every network and file, whatever the objective."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from kdsearch.builtin.classification import Classification, ClassificationOptions
from kdsearch.builtin.onnx_exporter import OnnxExporter
from kdsearch.kinds import IO, Batch, Field, Model, Product
from kdsearch.stages.export import _figures
from kdsearch.stages.teacher_latency import teacher_latency
from kdsearch.store.files import read_json
from kdsearch.study.schema import Constraints
from kdsearch.verbs.summary import summary_of
from tests.stages.tiny import run_tiny


def told(result):
    """Every row that has an accuracy."""
    rows = [result[name] for name in ("teacher", "student", "baseline", "all_labels", "pruned") if result[name]]
    return [*rows, *result["exports"], *result["compare"]]


def test_quality_stands_beside_every_accuracy(finished):
    result = finished.result
    assert len(told(result)) >= 9
    for row in told(result):
        quality = row["quality"]
        assert (quality["metric"], quality["direction"], quality["unit"]) == ("accuracy", "max", "share")
        assert quality["value"] == row["accuracy"]
        hits = round(quality["value"] * quality["n"])
        theirs = binomtest(hits, quality["n"]).proportion_ci(0.95, method="wilson")
        assert quality["interval"] == pytest.approx([theirs.low, theirs.high])
    validation = [row["validation"] for row in result["exports"]]
    assert all(each["n"] != quality["n"] for each in validation), "another split"


def test_int4_is_measured_as_anybody_opens_it(finished):
    """Both figures where a setting helps; the card's lines set it."""
    for row in finished.result["exports"]:
        helps = row["latency_tuned_ms"] is not None
        assert helps == bool(row["session_options"])
        assert set(row["latency_ms"]) == {"min", "median", "spread"}
        if helps:
            assert row["format"] == "onnx-int4"
            assert row["latency_tuned_ms"]["median"] < row["latency_ms"]["median"]
        for path in row["paths"]:
            card = read_json((finished.folder / "study" / path).with_suffix(".json"))
            assert card["session_options"] == row["session_options"]
            assert card["latency_ms"] == row["latency_ms"]
            assert any("add_session_config_entry" in line for line in card["use"]["run"]) == helps


def test_another_objective_is_named(copied):
    """A study of nll: everything that was .97 is nats now, lower is better, in JSON, notes, terminal and card."""
    little = ("compress.prune=null", "distill.compare=null", "export.min_agreement={onnx-int4: 0.5}")
    result = run_tiny(copied, "objectives={nll: min}", *little)
    for row in told(result):
        quality = row["quality"]
        assert (quality["metric"], quality["direction"], quality["unit"]) == ("nll", "min", "nats")
        low, high = quality["interval"]
        assert low < quality["value"] < high
    lines = summary_of(result, copied).splitlines()
    said = "\n".join(line for line in lines if not line.startswith("WARNING"))
    assert said.startswith("objective   nll, lower is better\n")
    assert "%" not in said
    files = {row["format"]: row for row in result["exports"]}
    chosen = result["recommended"]
    assert chosen["why"].startswith(f"nll {files[chosen['format']]['quality']['value']:.4g} nats, ")
    page = (copied / "study" / "report" / "index.html").read_text(encoding="utf-8")
    page = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    shown = page[: page.index('id="answers"')] + page[page.index('id="limits"') : page.index('id="kdsearch-result"')]
    assert shown.lower().count("accuracy") == shown.count('<th scope="row">accuracy</th>') == 1, "among further metrics"
    assert "nll (nats), lower is better" in shown


def test_the_teachers_latency_is_measured_like_a_files(finished):
    teacher = finished.result["teacher"]
    assert teacher["latency_in"] == "onnxruntime"
    assert 0 < teacher["latency_ms"]["min"] <= teacher["latency_ms"]["median"]
    study = finished.folder / "study"
    assert not list((study / "export").glob("teacher*")), "it is measured, not delivered"


def test_a_teacher_that_is_no_onnx_file_is_timed_in_torch(monkeypatch, tmp_path):
    """And one that does not answer the task not at all."""
    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path))
    image, logits = Field("image", "image", (3, 4, 4)), Field("logits", "logits", (2,))
    io = IO((image,), (logits,))
    task = Classification(ClassificationOptions())
    config = SimpleNamespace(constraints=Constraints(), run=SimpleNamespace(threads_per_trial=1))
    materials = SimpleNamespace(task=task, io=io, teacher_io=io, study=SimpleNamespace(config=config))
    exporter = OnnxExporter(OnnxExporter.options_class())
    example = Batch(("a",), {"image": torch.zeros(1, 3, 4, 4)})

    class Odd(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, : 2 if x.sum() < 1 else 3]  # which way, no exporter can know

    def taken(module, inputs=("image",)):
        return teacher_latency(
            materials, exporter, Model(module, inputs, {}, ("logits",)), example, tmp_path / "t.onnx"
        )

    assert taken(Odd())["latency_in"] == "torch"
    assert taken(Odd())["latency_ms"]["median"] > 0
    assert taken(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)))["latency_in"] == "onnxruntime"
    assert taken(Odd(), ("tokens",)) is None


def test_figures_that_a_task_fails_at_cost_no_study():
    said = []

    class Failing:
        def figures(self, *_):
            raise ValueError("no picture")

    target = SimpleNamespace(
        materials=SimpleNamespace(task=Failing(), data=SimpleNamespace(facts={})),
        part=SimpleNamespace(product=Product({}, lambda calls, batch: {}), named=str),
        exporter=None,
        setup=None,
        out=None,
    )
    tools = SimpleNamespace(progress=SimpleNamespace(say=said.append))
    assert _figures(target, {"graphs": [], "format": "onnx-fp32"}, tools) == []
    assert said[0].startswith("export: the task's figures of onnx-fp32 failed: ValueError: no picture")
