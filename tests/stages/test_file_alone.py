"""An exported file that is found alone: what it says of itself, and the program beside it that runs it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from kdsearch.cli import main

MODELS = ("tiny-fp32.onnx", "tiny-int8.onnx", "tiny-int4.onnx")


@pytest.fixture(scope="module")
def export(finished):
    return finished.folder / "study" / "export"


@pytest.mark.parametrize("name", MODELS)
def test_a_file_says_its_labels_and_how_it_is_fed(name, export):
    model = onnx.load(export / name)
    told = {each.key: each.value for each in model.metadata_props}
    card = json.loads((export / name).with_suffix(".json").read_text())
    assert json.loads(told["labels"]) == [str(digit) for digit in range(10)]
    assert json.loads(told["preprocessing"]) == card["use"]["preprocessing"]
    assert {"mean", "std", "size", "range", "resize_filter"} <= set(json.loads(told["preprocessing"]))
    artifacts = [each.name for each in (export.parent / "artifacts").iterdir()]
    assert told["study"] == card["provenance"]["study"] == "tiny"
    assert told["study_hash"] == card["provenance"]["study_hash"]
    assert f"compress-{told['study_hash']}" in artifacts, "it names what the network was made from"


@pytest.mark.parametrize("key", ["study", "study_hash", "labels"])
def test_verify_reads_what_it_says(key, export, tmp_path, capsys):
    """Also where size and hash in the card were made to fit."""
    model, card = onnx.load(export / MODELS[0]), json.loads((export / "tiny-fp32.json").read_text())
    for each in model.metadata_props:
        each.value = '["other"]' if each.key == key else each.value
    file = tmp_path / MODELS[0]
    file.write_bytes(model.SerializeToString())
    card |= {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size_bytes": file.stat().st_size}
    file.with_suffix(".json").write_text(json.dumps(card))
    assert main(["verify", str(file), "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["differs"] == ["metadata"]
    assert main(["verify", str(export / MODELS[0]), "--json"]) == 0
    said = next(each["said"] for each in json.loads(capsys.readouterr().out)["checks"] if each["check"] == "metadata")
    assert said.startswith("study tiny; study_hash ")


@pytest.mark.parametrize("name", MODELS)
def test_only_the_operator_sets_that_are_used_are_imported(name, export):
    model = onnx.load(export / name)
    used = {node.domain for node in model.graph.node} | {f.domain for f in model.functions} | {""}
    assert {each.domain for each in model.opset_import} <= used


@pytest.mark.parametrize("form", ["png", "npy"])
def test_the_program_beside_it_answers_as_the_study(form, export, tmp_path):
    """Three digits as they were scanned, as a picture (0..255) and as an array (0..16)."""
    session = onnxruntime.InferenceSession(str(export / MODELS[0]), providers=["CPUExecutionProvider"])
    told = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
    low, high = told["range"]
    images = load_digits().images.astype(np.float32)  # (N, 8, 8), 0..16
    files, expected = [], []
    for i in (3, 77, 500):
        image = images[i]
        value = image / 16 * (high - low) + low
        x = (value / told["scale"] - told["mean"][0]) / told["std"][0]
        logits = session.run(None, {session.get_inputs()[0].name: x[None, None].astype(np.float32)})[0][0]
        expected.append(str(int(logits.argmax())))
        files.append(tmp_path / f"{i}.{form}")
        if form == "png":
            Image.fromarray(np.round(image / 16 * 255).astype(np.uint8)).save(files[-1])
        else:
            np.save(files[-1], value)
    words = [
        sys.executable,
        str(export / "predict.py"),
        *map(str, files),
        "--model",
        str(export / MODELS[0]),
        "--top",
        "1",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    assert [line.split(": ")[1].split()[0] for line in done.stdout.splitlines()] == expected
