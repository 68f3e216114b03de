"""What the gates refuse is not written; everything else is."""

from __future__ import annotations

import json

import pytest

from kdsearch.cli import main
from kdsearch.errors import RefusedError
from kdsearch.store.files import read_json
from tests.stages.tiny import run_tiny, write_study


def test_drop_beyond_its_bound(copied, capsys, monkeypatch):
    """INT4 loses accuracy; every other file is there."""
    from kdsearch.stages import export

    real = export._check_drop

    def strict(materials, form, metrics, reference):
        metrics = {**metrics, "accuracy": reference["accuracy"] - 0.25} if form == "onnx-int4" else metrics
        real(materials, form, metrics, reference)

    monkeypatch.setattr(export, "_check_drop", strict)
    study = copied / "study"
    command = ["run", str(write_study(copied)), "--dir", str(study), "--json"]
    sets = ["--set", "export.max_drop={onnx-int8: 1.0, onnx-int4: 0}"]
    assert main([*command, *sets]) == 3
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert [each["format"] for each in result["refused"]] == ["onnx-int4"]
    assert "0.2500 below fp32's" in result["refused"][0]["reason"]
    assert "the study allows 0" in err
    assert [row["format"] for row in result["exports"]] == ["onnx-fp32", "onnx-int8"]
    assert sorted(each.name for each in (study / "export").iterdir()) == [
        "tiny-fp32.json",
        "tiny-fp32.onnx",
        "tiny-int8.json",
        "tiny-int8.onnx",
    ]
    assert read_json(study / "result.json") == result
    assert main([*command, *sets]) == 3, "a refusal stays one"
    monkeypatch.setattr(export, "_check_drop", real)
    capsys.readouterr()
    assert main([*command, "--set", "export.max_drop={onnx-int8: 1.0, onnx-int4: 0.999}"]) == 0
    assert (study / "export" / "tiny-int4.onnx").exists()


def test_drop_is_counted_on_the_metric_of_the_task(finished):
    """The bound is against the fp32 file's accuracy, in fractions."""
    from types import SimpleNamespace

    from kdsearch.stages.export import _check_drop

    metric = SimpleNamespace(direction="max")
    materials = SimpleNamespace(
        task=SimpleNamespace(objective="accuracy"),
        metrics={"accuracy": metric},
        study=SimpleNamespace(config=SimpleNamespace(export=SimpleNamespace(max_drop={"onnx-int8": 0.02}))),
    )
    _check_drop(materials, "onnx-int8", {"accuracy": 0.88}, {"accuracy": 0.9})
    _check_drop(materials, "onnx-int4", {"accuracy": 0.895}, {"accuracy": 0.9})
    with pytest.raises(RefusedError, match=r"0.8790 is 0.0210 below fp32's 0.9000; the study allows 0.02"):
        _check_drop(materials, "onnx-int8", {"accuracy": 0.879}, {"accuracy": 0.9})
    with pytest.raises(RefusedError, match=r"the study allows 0.01"):
        _check_drop(materials, "onnx-int4", {"accuracy": 0.889}, {"accuracy": 0.9})


def test_parity_beyond_its_bound(copied):
    with pytest.raises(RefusedError, match=r"onnx-fp32: differs from torch by .*; the study allows 1e-12") as caught:
        run_tiny(copied, "export.parity=1e-12")
    result = caught.value.result
    assert [each["format"] for each in result["refused"]] == ["onnx-fp32"]
    assert [row["format"] for row in result["exports"]] == ["onnx-int8", "onnx-int4"]
    assert not (copied / "study" / "export" / "tiny-fp32.onnx").exists()
    assert (copied / "study" / "export" / "tiny-int8.onnx").exists()


@pytest.mark.parametrize("limit", ["constraints.params=100", "constraints.macs=500", "constraints.onnx_bytes=600"])
def test_nothing_is_feasible(limit, copied):
    study = copied / "study"
    before = {each.name for each in (study / "artifacts").iterdir()}
    with pytest.raises(RefusedError) as caught:
        run_tiny(copied, limit)
    assert caught.value.exit_code == 3
    said = str(caught.value)
    assert f"{limit.partition('.')[2].partition('=')[0]} <= {limit.partition('=')[2]}" in said
    assert "the smallest" in said
    assert "tiny.yaml:15" in said or "--set" in said
    assert {each.name for each in (study / "artifacts").iterdir()} == before
    assert not list(study.rglob("*.part"))


def test_only_the_file_is_too_large(copied):
    """Its four bytes a weight fit, the graph around them does not."""
    with pytest.raises(
        RefusedError, match=r"none of \d+ exported candidates keeps the constraints .*onnx_bytes \+\d+%"
    ):
        run_tiny(copied, "constraints.onnx_bytes=6000", "search.candidates=2", "search.keep=2")
