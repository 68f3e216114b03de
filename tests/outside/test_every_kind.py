"""Each kind of capability has implementations that are unlike; the second exporter and pruner, from outside, in a real study."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import numpy_helper

from kdsearch.errors import PluginError, StudyError
from kdsearch.hooks import KINDS
from kdsearch.host import Host
from kdsearch.kit.onnx import read_onnx
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.verbs.run import run_study
from tests.outside.conftest import HERE

STUDY = """\
name: little
seed: 3
data: {use: digits, options: {resize: 8}, labeled: 0.5, train_samples: 400}
teacher: {use: trained, options: {space: mlp, spec: {depth: 2, widths: [64, 64]}, epochs: 3, batch_size: 32}}
student: {space: mlp, spec: {depth: 2, widths: {choices: [[32, 32], [48, 32]]}, activation: relu, norm: batch}}
recipe: {distillers: [kd], train: {batch_size: 32, lr: 0.01}}
search: {proxy: [params], candidates: 2, keep: 1}
refine: {trials: 1, epochs: 1}
distill: {epochs: 6, controls: []}
compress:
  steps:
    - prune: {use: low_rank, options: {share: 0.3}, recover_epochs: 3}
    - sparsify: {use: barred, recover_epochs: 1}
  quantize: [{use: int8, options: {samples: 64}}]
export: {exporter: {use: fx}, formats: [fx-fp32, fx-int8], max_drop: {fx-int8: 0.1}}
run: {device: cpu, executor: {use: inprocess}}
"""


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The study's folder, its result, and its test split's images and labels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        folder, host = tmp_path_factory.mktemp("little"), Host.load()
        (folder / "study.yaml").write_text(STUDY)
        study = load_study(folder / "study.yaml", host)
        result = run_study(study, host, folder / "study", progress=False)
        split = open_materials(study, host).data.split("test")
        return folder / "study", result, split.load(range(len(split.ids)))


def test_each_kind_has_two_implementations(outside):
    host = Host.load()
    assert not host.broken
    made: dict[str, set[type[Any]]] = {kind: set() for kind in KINDS}
    for each in host.entries():
        try:
            made[each.kind].add(host.load_class(each.kind, each.name))
        except PluginError:
            assert host.lacks(each)
    assert {kind: len(found) for kind, found in made.items() if len(found) < 2} == {}


def test_the_file_of_an_outside_exporter_is_what_the_study_says(little):
    folder, result, test = little
    assert result["refused"] == []
    assert [row["format"] for row in result["exports"]] == ["fx-fp32", "fx-int8"]
    assert result["exports"][0]["parity_max_abs"] < 1e-4
    for row in result["exports"]:
        session = onnxruntime.InferenceSession(str(folder / row["path"]), providers=["CPUExecutionProvider"])
        found = session.run(None, {"image": test["image"].numpy()})[0].argmax(1)
        assert row["accuracy"] == pytest.approx(np.mean(found == test["label"].numpy()), abs=1e-9)
        assert row["accuracy"] > 0.5
        assert len(json.loads(session.get_modelmeta().custom_metadata_map["labels"])) == 10
    assert {node.op_type for node in read_onnx(folder / result["exports"][0]["path"]).graph.node} == {
        "BatchNormalization", "Flatten", "Gemm", "Identity", "Relu",
    }  # fmt: skip


def test_the_zeros_of_an_outside_sparsifier_are_in_the_file(little):
    folder, result, _ = little
    cut, zeros = result["pruned"]["steps"]
    assert cut["zeros"] < 0.01
    file = read_onnx(folder / result["exports"][0]["path"])
    weights = [numpy_helper.to_array(tensor) for tensor in file.graph.initializer if len(tensor.dims) == 2]
    share = sum((each == 0).sum() for each in weights) / sum(each.size for each in weights)
    assert share == pytest.approx(zeros["zeros"], abs=1e-6)
    assert 0.2 < share < 0.8


def test_what_an_outside_pruner_planned_is_what_is_delivered(little):
    folder, result, _ = little
    pruned = result["pruned"]
    assert pruned["params"] < pruned["params_before"]
    assert pruned["macs"] < pruned["macs_before"]
    file = read_onnx(folder / result["exports"][0]["path"])
    thin = {tensor.name: tuple(tensor.dims) for tensor in file.graph.initializer if len(tensor.dims) == 2}
    ranks = [min(shape) for name, shape in thin.items() if name.endswith(".0.weight")]
    assert len(ranks) >= 2
    assert max(ranks) <= 0.3 * 48 + 1
    assert pruned["macs"] == sum(a * b for a, b in thin.values())


NO_ONNX = (
    STUDY.partition("compress:")[0]
    + """\
constraints: {onnx_bytes: 60000, latency_ms: 50}
export: {exporter: {use: chain}, formats: [chain-fp32]}
run: {device: cpu, executor: {use: inprocess}}
"""
)


def test_a_file_that_is_no_onnx_goes_all_the_way(tmp_path, outside):
    """Compared, judged and timed by what its exporter loads: in search, export, report and card."""
    host = Host.load()
    (tmp_path / "study.yaml").write_text(NO_ONNX)
    study = load_study(tmp_path / "study.yaml", host)
    result = run_study(study, host, tmp_path / "study", progress=False)
    (row,) = result["exports"]
    assert (row["format"], row["path"]) == ("chain-fp32", "export/little-fp32.safetensors")
    assert row["parity_max_abs"] < 1e-4
    assert row["top1_agreement"] == 1.0
    assert 0 < row["latency_ms"]["median"] < 50
    assert (row["weight_share"], row["session_options"]) == ({}, {})
    assert result["recommended"]["format"] == "chain-fp32"
    split = open_materials(study, host).data.split("test")
    test, call = split.load(range(len(split.ids))), host.load_class("exporter", "chain")(None).load
    found = call(tmp_path / "study" / row["path"])(test["image"])["logits"].argmax(1)
    assert row["accuracy"] == pytest.approx(float((found == test["label"]).double().mean()), abs=1e-9)
    card = json.loads((tmp_path / "study" / "export" / "little-fp32.json").read_text())
    assert card["use"]["run"] == [
        "from safetensors.numpy import load_file",
        "tensors = load_file('little-fp32.safetensors')",
    ]
    assert not (tmp_path / "study" / "export" / "predict.py").exists()
    page = (tmp_path / "study" / "report" / "index.html").read_text()
    assert "little-fp32.safetensors" in page


def test_what_is_no_onnx_is_not_quantised(tmp_path, outside):
    text = NO_ONNX.replace("export: {", "compress: {quantize: [{use: int8}]}\nexport: {")
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(
        StudyError, match=r"'int8' rewrites '.onnx' files, and exporter 'chain' writes '.safetensors' files"
    ):
        load_study(tmp_path / "study.yaml", Host.load())
