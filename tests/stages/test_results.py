"""What the final JSON says of every network and file, whatever the objective."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from kdsearch.stages.commands import summary_of
from kdsearch.store.files import read_json
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
    result = run_tiny(copied, "objectives={nll: min}", "compress.prune=null", "distill.compare=null")
    for row in told(result):
        quality = row["quality"]
        assert (quality["metric"], quality["direction"], quality["unit"]) == ("nll", "min", "nats")
        low, high = quality["interval"]
        assert low < quality["value"] < high
    said = summary_of(result, copied)
    assert said.startswith("objective   nll, lower is better\n")
    assert "%" not in said
    files = {row["format"]: row for row in result["exports"]}
    chosen = result["recommended"]
    assert chosen["why"].startswith(f"nll {files[chosen['format']]['quality']['value']:.4g} nats, ")
