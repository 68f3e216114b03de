"""Files and names that a study gives are looked at by `validate`, before any data are opened."""

import shutil

import numpy as np
import onnx
import pytest
import timm
from onnx import TensorProto, helper
from PIL import Image

from kdsearch.cli import main
from kdsearch.store import weights

NAME = "test_efficientnet"
STUDY = """\
data: {{use: image_folder, options: {{path: {data}}}}}
teacher: {teacher}
student: {{space: cifar_resnet, spec: {{depths: [1, 1, 1], widths: [4, 4, 4]}}}}
recipe: {{distillers: [kd]}}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name in ("cat", "dog"):
        (folder / "pets" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "pets" / name / "0.png")
    weights.write(folder / "net.safetensors", timm.create_model(NAME, num_classes=7).state_dict())
    (folder / "torn.safetensors").write_bytes((folder / "net.safetensors").read_bytes()[:5000])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in "xy")
    onnx.save(
        helper.make_model(
            helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y]),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=9,
        ),
        folder / "net.onnx",
    )
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
        "trained",
    ],
)
def test_what_is_there_and_loads_is_valid(files, tmp_path, capsys, teacher):
    code, text = said(files, tmp_path, capsys, teacher)
    assert (code, "valid: yes" in text) == (0, True)


@pytest.mark.parametrize(
    ("teacher", "data", "expected"),
    [
        ("trained", "petz", "s.yaml:1: data.options: 'petz' does not exist; did you mean 'pets'"),
        ("trained", "net.onnx", "not a folder"),
        ("trained", "empty", "no class folders"),
        ("{use: timm, options: {name: resnt18, epochs: 1}}", "pets", "no network 'resnt18'; did you mean 'resnet18'"),
        (f"{{use: timm, options: {{name: {NAME}, weights: nett.safetensors}}}}", "pets", "did you mean 'net.safeten"),
        ("{use: timm, options: {name: resnet18, weights: net.safetensors}}", "pets", "weights are of another network"),
        (f"{{use: safetensors, options: {{path: torn.safetensors, timm: {NAME}}}}}", "pets", "torn.safetensors"),
        ("{use: onnx, options: {path: torn.safetensors}}", "pets", "not a model that onnxruntime opens"),
    ],
)
def test_what_is_not_is_named_with_exit_code_2(files, tmp_path, capsys, teacher, data, expected):
    code, text = said(files, tmp_path, capsys, teacher, data)
    assert code == 2
    assert expected in text
