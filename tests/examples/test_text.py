"""The studies of texts run as a user runs them, at smoke size: verified files of any batch and length, and a report."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.host import Host
from kdsearch.study import load_study
from kdsearch.verbs.run import run_study

EXAMPLES = Path(__file__).parents[2] / "examples"
LESS = (
    "data.train_samples=150",
    "teacher.options.epochs=1",
    "search={candidates: 3, keep: 1, proxy: params}",
    "refine={trials: 1, epochs: 1, stopper: {use: none}}",
    "distill={epochs: 1, controls: [baseline]}",
    "student.spec.layers=1",
    "compress.quantize=[{use: int8, options: {samples: 32, calibration: percentile}}]",
    "export.max_drop={onnx-int8: 1.0}",
    "export.min_agreement={onnx-int8: 0.5}",
    "run.executor={use: inprocess}",
)


@pytest.mark.parametrize(
    ("name", "metric", "less"),
    [
        (
            "text_classification",
            "accuracy",
            ("student.spec.kind=bag", "student.spec.width=16", "student.spec.layers=0"),
        ),
        ("embedding", "ndcg", ("export.min_agreement={}",)),
        ("text_pair", "accuracy", ("student.spec.width=16", "student.spec.embedding=16")),
    ],
)
def test_it_runs_to_verified_files(name, metric, less, tmp_path):
    host = Host.load()
    sets = (*(each for each in LESS if not any(each.split("=")[0] == other.split("=")[0] for other in less)), *less)
    study = load_study(EXAMPLES / f"{name}.yaml", host, sets=sets)
    result = run_study(study, host, tmp_path / "study", progress=False)
    assert [row["format"] for row in result["exports"]] == ["onnx-fp32", "onnx-int8"], result["refused"]
    for row in result["exports"]:
        assert row["quality"]["metric"] == metric
        assert row["quality"]["interval"] is not None
        assert row["files"] == [f"export/{name}-tokenizer.json", f"export/{name}-prepare.py"]
    fp32, int8 = result["exports"]
    assert fp32["parity_max_abs"] < 1e-4
    assert int8["bytes"] < 0.5 * fp32["bytes"]
    (sizes,) = {json.dumps(result["costs_at"])}
    about = json.loads((tmp_path / "study" / "export" / f"{name}-tokenizer.json").read_text())
    card = json.loads((tmp_path / "study" / int8["path"].replace(".onnx", ".json")).read_text())
    assert card["costs_at"] == result["costs_at"]
    assert json.loads(sizes)["tokens"][0] < about["max_length"]
    folder = tmp_path / "study" / "export"
    spec = importlib.util.spec_from_file_location("prepare", folder / f"{name}-prepare.py")
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    call = OnnxExporter(OnnxOptions()).load(tmp_path / "study" / int8["path"])
    said = ["Return", "Return the logger with the specified name, creating it if necessary."]
    if name == "text_pair":
        said = [json.dumps({"text": each, "signature": "logging.getLogger(name)"}) for each in said]
    for text in said:
        feeds = prepare.inputs(text, {"tokenizer.json": folder / f"{name}-tokenizer.json"})
        answer = call(*(torch.from_numpy(feeds[each["name"]]) for each in int8["graphs"][0]["inputs"]))
        assert all(bool(each.isfinite().all()) for each in answer.values())
    done = subprocess.run(
        [sys.executable, "predict.py", *said],
        cwd=folder, capture_output=True, text=True, env={}, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{text}: ") for line, text in zip(lines, said, strict=True))
    if name == "embedding":
        assert len(json.loads(lines[0].partition(": ")[2])["embedding"]) == 64
    else:
        assert lines[0].count("%") == (2 if name == "text_pair" else 3)
    page = (tmp_path / "study" / "report" / "index.html").read_text()
    assert metric in page
