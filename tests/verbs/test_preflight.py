"""What a study names is looked at by `validate`: files and names, then whether data, teachers and controls fit one another."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from kdsearch_spaces.cifar_resnet.space import CifarResNetSpace
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from kdsearch.cli import main
from kdsearch.engine.splits import arrange
from kdsearch.kinds import HIDDEN, IO, Field
from kdsearch.store import weights
from kdsearch.testing.training import TensorSource
from kdsearch.training.controls import check_controls

NAME = "test_efficientnet"
SPEC = {"depths": [1, 1, 1], "widths": [4, 6, 8]}
MEMBER = (
    "{{use: safetensors, options: {{path: member.safetensors, space: cifar_resnet, "
    "spec: {{depths: [1, 1, 1], widths: {widths}}}}}}}"
)
STUDY = """\
data: {{use: image_folder, options: {{path: {data}}}}}
teacher: {teacher}
student: {{space: cifar_resnet, spec: {{depths: [1, 1, 1], widths: [4, 4, 4]}}}}
recipe: {{distillers: [kd]}}
"""


def linear(k):
    """An ONNX model: logits of k classes = the flattened image times a matrix."""
    x = helper.make_tensor_value_info("image", TensorProto.FLOAT, [None, 3, 16, 16])
    y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, k])
    nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    matrix = numpy_helper.from_array(np.ones((768, k), np.float32), "w")
    graph = helper.make_graph(nodes, "linear", [x], [y], [matrix])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name in ("cat", "dog"):
        (folder / "pets" / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(folder / "pets" / name / f"{i}.png")
    weights.write(folder / "net.safetensors", timm.create_model(NAME, num_classes=2).state_dict())
    (folder / "torn.safetensors").write_bytes((folder / "net.safetensors").read_bytes()[:5000])
    space, io = CifarResNetSpace(), IO((Field("image", "image", (3, 16, 16)),), (Field("logits", "logits", (2,)),))
    weights.write(folder / "member.safetensors", space.build(space.parse(SPEC), io).module.state_dict())
    for name, k in (("net", 2), ("other", 5)):
        onnx.save(linear(k), folder / f"{name}.onnx")
    (folder / "empty").mkdir()
    return folder


def said(files, tmp_path, capsys, teacher, data="pets"):
    folder = tmp_path / "study"
    shutil.copytree(files, folder)
    (folder / "s.yaml").write_text(STUDY.format(data=data, teacher=teacher))
    code = main(["validate", str(folder / "s.yaml")])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, err or out


@pytest.mark.parametrize(
    "teacher",
    [
        f"{{use: timm, options: {{name: {NAME}, weights: net.safetensors, epochs: 1}}}}",
        f"{{use: safetensors, options: {{path: net.safetensors, timm: {NAME}}}}}",
        "{use: onnx, options: {path: net.onnx}}",
        MEMBER.format(widths=[4, 6, 8]),
        "trained",
    ],
)
def test_what_is_there_and_loads_is_valid(files, tmp_path, capsys, teacher):
    code, text = said(files, tmp_path, capsys, teacher)
    assert (code, "s.yaml is valid" in text) == (0, True)


@pytest.mark.parametrize(
    ("teacher", "data", "expected"),
    [
        ("trained", "petz", "s.yaml:1: data.options.path: 'petz' does not exist; did you mean 'pets'"),
        ("trained", "net.onnx", "not a folder"),
        ("trained", "empty", "no class folders"),
        ("{use: timm, options: {name: resnt18, epochs: 1}}", "pets", "no network 'resnt18'; did you mean 'resnet18'"),
        (f"{{use: timm, options: {{name: {NAME}, weights: nett.safetensors}}}}", "pets", "did you mean 'net.safeten"),
        ("{use: timm, options: {name: resnet18, weights: net.safetensors}}", "pets", "weights are of another network"),
        (f"{{use: safetensors, options: {{path: torn.safetensors, timm: {NAME}}}}}", "pets", "torn.safetensors"),
        ("{use: onnx, options: {path: torn.safetensors}}", "pets", "not a model that onnxruntime opens"),
        ("{use: onnx, options: {path: other.onnx}}", "pets", "other.onnx answers"),
        (MEMBER.format(widths=[4, 6, 10]), "pets", "weights are of another network: other shape"),
    ],
)
def test_what_is_not_is_named_with_exit_code_2(files, tmp_path, capsys, teacher, data, expected):
    code, text = said(files, tmp_path, capsys, teacher, data)
    assert code == 2
    assert expected in text


@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["", "plan"])
def test_a_proxy_of_classes_is_refused_of_a_task_without(plan, capsys):
    file = Path(__file__).parents[2] / "examples" / "regression.yaml"
    assert main(["validate", str(file), *plan, "--set", "search.proxy=[params, epe_nas]"]) == 2
    said = capsys.readouterr().err
    assert "search.proxy[1]: 'epe_nas' compares classes, and the task answers value (1)" in said
    assert "relation" in said.partition(" Use ")[2]


def test_controls_without_labels_are_refused(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "kdsearch.training.materials.check_controls", lambda study, data: check_controls(study, hidden())
    )
    code, text = said(files, tmp_path, capsys, "trained")
    assert code == 2
    assert "distill.controls: control 'baseline' learns from labels, and the study sees no label" in text


def hidden():
    columns = {"image": torch.zeros(40, 1, 8, 8), "label": torch.full((40,), HIDDEN)}
    return arrange(TensorSource({"train": columns}), labeled=1.0, validation=0.2, test=0.2)
