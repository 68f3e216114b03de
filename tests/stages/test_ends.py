"""A study and `compress` whose files read pixels and answer probabilities: judged, verified, described and run as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from kdsearch.cli import main
from kdsearch.deploy.files import open_session
from kdsearch.errors import StudyError
from kdsearch.hooks import hookimpl
from kdsearch.host import Host
from kdsearch.kinds import Metric, NoOptions
from kdsearch.store.files import read_json
from tests.stages.tiny import LESS, run_tiny

ANY = "export.exporter={use: onnx, options: {engine: torchscript, input: any_size, output: probabilities}}"
INT8 = ("compress.quantize=[{use: int8, options: {samples: 32}}]", "export.formats=[onnx-fp32, onnx-int8]")


def test_what_the_data_cannot_give_is_said_before_any_work(tmp_path):
    """Numbers of a table are no pixels."""
    text = """\
data: {use: bundled_table, options: {name: wine}}
student: {space: mlp}
recipe: {distillers: []}
export: {exporter: {use: onnx, options: {input: pixels}}}
"""
    with pytest.raises(StudyError, match=r"the network reads .*one image of a fixed size"):
        run_tiny(tmp_path, text=text)
    assert not (tmp_path / "study").exists()


CLASS = "export.exporter={use: onnx, options: {engine: torchscript, output: class}}"


def test_what_answers_the_class_alone_has_no_objective_of_scores(tmp_path):
    with pytest.raises(StudyError, match="files that answer the class alone have no nll") as caught:
        run_tiny(tmp_path, *LESS, CLASS, "objectives={nll: min}")
    assert caught.value.path == "export.exporter.options.output"
    assert not (tmp_path / "study/artifacts").exists()


class Nowhere(Metric[NoOptions]):
    """As of classes that a split lacks."""

    def measure(self, predict, data, split, services):
        return {"nowhere": float("nan")}


class Plugin:
    @hookimpl
    def kdsearch_register(self, register):
        register.metric("nowhere", f"{__name__}:Nowhere")


def test_a_metric_without_a_number_is_said(tmp_path):
    host = Host.load(extra=[("nowhere", Plugin())])
    result = run_tiny(tmp_path, *LESS, "metrics=[nowhere, nll]", host=host)
    assert "nowhere" not in result["metrics"]
    said = [each for each in result["notes"] if each.startswith("Metric ")]
    assert said == ["Metric 'nowhere' has no finite value on the test split, and is left out."]


def test_what_answers_the_class_alone_is_judged_by_what_it_decides(tmp_path):
    names = ["nll", "ece", "top5", "auroc", "average_precision", "balanced_accuracy", "f1"]
    result = run_tiny(tmp_path, *LESS, CLASS, f"metrics=[{', '.join(names)}]")
    assert {"accuracy", *names} <= result["metrics"].keys(), "the network has scores"
    (row,) = result["exports"]
    assert row["metrics"].keys() == {"accuracy", "balanced_accuracy", "f1", "n"}


@pytest.mark.slow
def test_a_study_of_pixels(tmp_path, capsys):
    result = run_tiny(
        tmp_path, *(each for each in LESS if "quantize" not in each and "formats" not in each), *INT8, ANY
    )
    folder = tmp_path / "study" / "export"
    assert [row["format"] for row in result["exports"]] == ["onnx-fp32", "onnx-int8"]
    images = load_digits().images  # (N, 8, 8), 0..16
    for row in result["exports"]:
        file = folder / row["path"].rpartition("/")[2]
        card = read_json(file.with_suffix(".json"))
        assert card["use"]["inputs"][0]["shape"] == ["batch", "any", "any", 1]
        assert card["use"]["inputs"][0]["dtype"] == "uint8"
        assert card["use"]["outputs"][0]["name"] == "probabilities"
        assert card["use"]["inside"] == {"input": "any_size", "layout": "hwc", "output": "probabilities"}
        probs = open_session(file).run(None, {"image": (images[:50, :, :, None] / 16 * 255).round().astype(np.uint8)})[
            0
        ]
        assert probs.sum(1) == pytest.approx(np.ones(50), abs=1e-5)
        for more in ([], ["--data", str(tmp_path / "study")]):
            assert main(["verify", str(file), *more]) == 0, capsys.readouterr().err
    assert result["exports"][0]["parity"]["relative"] < 1e-4
    drop = result["student"]["quality"]["value"] - result["exports"][0]["quality"]["value"]
    assert abs(drop) < 0.02, "of images in 8 bits"
    Image.fromarray((images[3] / 16 * 255).round().astype(np.uint8)).resize((31, 20)).save(tmp_path / "three.png")
    command = [sys.executable, str(folder / "predict.py"), str(tmp_path / "three.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""})
    picture = np.asarray(Image.open(tmp_path / "three.png"))[None, :, :, None]
    own = open_session(folder / "tiny-fp32.onnx").run(None, {"image": picture})[0][0]
    assert done.stdout.split()[1] == str(own.argmax())
    assert f"{own.max():.1%}" in done.stdout
    model = onnx.load(folder / "tiny-fp32.onnx")
    factor = next(
        each for each in model.graph.initializer if each.name.startswith("ends.constant") and each.dims[:] == [1, 1, 1]
    )
    factor.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(factor), factor.name))
    (folder / "tiny-fp32.onnx").write_bytes(model.SerializeToString())
    capsys.readouterr()
    assert main(["verify", str(folder / "tiny-fp32.onnx"), "--json"]) == 3
    assert "answers as torch's" in json.loads(capsys.readouterr().out)["differs"], (
        "another scale inside is another file"
    )


@pytest.mark.slow
def test_compress_answers_a_class(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    label = np.arange(240) % 3
    x = rng.integers(0, 90, (240, 8, 8)).astype(np.uint8)
    x[label == 1, :4] += 120
    x[label == 2, 4:] += 120
    np.savez(tmp_path / "own.npz", image=x, label=label)
    asked = ["--data", str(tmp_path / "own.npz"), "--format", "onnx-fp32", "--format", "onnx-int4", "--max-drop", "1"]
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n"
        "def net():\n    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    more = [
        "--allow-code",
        "net.py:net",
        "--input",
        "pixels",
        "--output",
        "class",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    assert main(["compress", "net.py:net", *asked, *more]) == 0, capsys.readouterr().err
    rows = json.loads(capsys.readouterr().out.splitlines()[0])["exports"]
    for row in rows:
        session = open_session(tmp_path / row["path"])
        (out,) = session.get_outputs()
        assert (out.name, out.type) == ("class", "tensor(int64)")
        assert session.run(None, {"image": x[:5, :, :, None]})[0].shape == (5,)
        assert main(["verify", row["path"]]) == 0
    assert rows[0]["accuracy"] is not None
