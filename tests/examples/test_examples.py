"""The examples run as a user runs them, and do what their texts say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from kdsearch.host import Host
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.verbs.run import run_study

EXAMPLES = Path(__file__).parents[2] / "examples"


def loaded(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # pydantic looks annotations up there
    spec.loader.exec_module(module)
    return module


def test_own_model(tmp_path, capsys):
    result = loaded("own_model").main(tmp_path / "study")
    out = capsys.readouterr().out
    accuracy = {name: result[name]["accuracy"] for name in ("teacher", "student", "baseline")}
    assert accuracy["teacher"] > 0.94
    assert accuracy["student"] > accuracy["baseline"] + 0.05  # labels for a tenth, a teacher for the rest
    assert result["student"]["params"] <= 20_000
    assert [each["format"] for each in result["exports"]] == ["onnx-fp32", "onnx-int8"]
    assert all((tmp_path / "study" / each["path"]).is_file() for each in result["exports"])
    assert [line.split()[0] for line in out.splitlines()] == [
        *("teacher", "student", "baseline", "onnx-fp32", "onnx-int8", "predicted"),
    ]
    predicted, labels = (
        part.strip("[] ").split() for part in out.splitlines()[-1].removeprefix("predicted").split("of")
    )
    assert sum(a == b for a, b in zip(predicted, labels, strict=True)) >= 6


def test_own_loop_goes_on_where_it_was(tmp_path, capsys, monkeypatch):
    example = loaded("own_loop")
    monkeypatch.setattr(example, "STEPS", 12)
    trained, calls = example.trained, []

    def interrupted(candidate, *arguments):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(candidate.number)
        return trained(candidate, *arguments)

    monkeypatch.setattr(example, "trained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        example.main(tmp_path / "cut")
    monkeypatch.setattr(example, "trained", lambda c, *a: (calls.append(c.number), trained(c, *a))[1])
    best = example.main(tmp_path / "cut")
    assert calls == [0, 1, 2, 3, 4, 5]
    assert best["objectives"]["params"] <= 30_000
    assert "best of 6" in capsys.readouterr().out
    monkeypatch.setattr(example, "trained", trained)
    assert example.main(tmp_path / "whole") == best


def test_pieces(tmp_path):
    found = loaded("pieces").main(tmp_path)
    assert found["scores"]["teacher"] > 0.95
    assert found["scores"]["student"] > 0.8
    assert set(found["terms"]) == {"kd.kl", "fitnet.hint"}
    assert len({row.key for row in found["rows"]}) == 8
    assert all(0 < row.scores["auto"] < 1 for row in found["rows"])
    fp32, int8, int4 = found["files"]
    assert fp32.parity_max_abs < 1e-4
    assert int4.bytes < fp32.bytes
    assert int4.weight_share["4"] > 0.9
    assert int8.weight_share["8"] > 0.9
    assert (fp32.quantization, "7 bits" in " ".join(int8.quantization)) == ((), True)
    assert min(int8.top1_agreement, int4.top1_agreement) >= 0.9
    for each in found["files"]:
        onnx.checker.check_model(onnx.load(each.file), full_check=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "predict.py",
        *(f"student-{name}.{suffix}" for name in ("fp32", "int4", "int8") for suffix in ("json", "onnx")),
    ]


SMALL_SEGMENTATION = (
    "data.options={side: 32, train: 64, val: 16, test: 32}",
    "teacher.options={space: seg, spec: {widths: [12, 16, 24], depth: 1, dec: 16}, epochs: 3, batch_size: 16, lr: 0.01}",
    "search.proxy=params",
    "search.candidates=4",
    "search.keep=2",
    "refine.trials=2",
    "refine.epochs=1",
    "distill.epochs=1",
    "distill.controls=[]",
    "compress.quantize=[{use: int8, options: {samples: 16}}]",
    "export.exporter={use: onnx, options: {engine: torchscript}}",
    "export.max_drop={onnx-int8: 0.5}",
    "run.device=cpu",
    "run.executor={use: inprocess}",
)


def segmentation(folder, *sets):
    host = Host.load()
    study = load_study(EXAMPLES / "segmentation.yaml", host, sets=(*SMALL_SEGMENTATION, *sets))
    return study, run_study(study, host, folder, workers=1, progress=False)


def test_segmentation_from_yaml_to_int8(tmp_path):
    """The files are read from scratch: their mIoU on all test pixels is what the result says, for any batch."""
    study, result = segmentation(tmp_path / "study")
    assert result["refused"] == []
    assert [row["format"] for row in result["exports"]] == ["onnx-fp32", "onnx-int8"]
    data = open_materials(study, Host.load()).data
    test = data.split("test")
    batch = test.load(range(len(test.ids)))
    truth = batch["mask"]
    for row in result["exports"]:
        session = onnxruntime.InferenceSession(tmp_path / "study" / row["path"])
        (logits,) = session.run(None, {"image": batch["image"].numpy()})
        (alone,) = session.run(None, {"image": batch["image"][:1].numpy()})
        assert alone.shape == (1, 11, 32, 32)
        found = torch.from_numpy(logits).argmax(1)
        each = [((found == k) & (truth == k)).sum() / ((found == k) | (truth == k)).sum() for k in range(11)]
        miou = torch.stack(each).nanmean().item()
        quality = row["quality"]
        assert (quality["metric"], quality["unit"], quality["n"]) == ("miou", "share", 32)
        assert quality["value"] == pytest.approx(miou, abs=0.004)  # of int8, blocks of other batches round otherwise
        assert "accuracy" not in row
    (names,) = (tmp_path / "study" / "export").glob("*-classes.txt")
    assert names.read_text(encoding="utf-8").splitlines() == data.facts["classes"]


@pytest.mark.parametrize("distiller", ["kd", "fitnet"])
def test_segmentation_with_transformers_and_other_distillers(tmp_path, distiller):
    _, result = segmentation(
        tmp_path / "study",
        "student={space: tiny_mit, spec: {widths: [16, 16, 16], depths: [1, 1, 1], dec: 16}}",
        f"recipe.distillers=[{{use: {distiller}}}]",
        "constraints={}",
        "search.proxy=auto",
    )
    assert result["refused"] == []
    assert [row["format"] for row in result["exports"]] == ["onnx-fp32", "onnx-int8"]
