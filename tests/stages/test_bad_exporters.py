"""A file that is not the network, whoever wrote it, is refused by `run` with its reason; nothing of it is left."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from kdsearch.builtin.int4.quantizer import Int4
from kdsearch.builtin.onnx_exporter import OnnxExporter
from kdsearch.deploy.files import read_onnx
from kdsearch.errors import RefusedError
from kdsearch.store.files import read_json
from tests.stages.tiny import run_tiny

ONLY_FP32 = ("export.formats=[onnx-fp32]", "export.max_drop={}", "compress.quantize=[]")


def wrong_weight(model):
    """One weight of the last layer's."""
    tensor = next(each for each in reversed(model.graph.initializer) if len(each.dims) == 2)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] += 0.05 * np.abs(values).max() + 0.05
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def dropped_output(model):
    """Renamed: a graph without outputs is no model at all."""
    model.graph.output[0].name = next(node.output[0] for node in model.graph.node)


def new_opset(model):
    model.opset_import[0].version = 99


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (wrong_weight, "onnx-fp32: differs from torch by .* at output 'logits'"),
        (dropped_output, "onnx-fp32: the file has no output 'logits'"),
        (None, "onnx-fp32: the file that was written is no ONNX model, or is cut off"),
        (new_opset, "onnx-fp32: the file that was written is refused by onnxruntime .*operator set 99 is newer"),
    ],
)
def test_of_an_exporter(spoil, said, copied, monkeypatch):
    real = OnnxExporter.write

    def write(self, graph, example, file):
        real(self, graph, example, file)
        if spoil is None:
            file.write_bytes(file.read_bytes()[:-40])
            return
        model = onnx.load(file)
        spoil(model)
        file.write_bytes(model.SerializeToString())

    monkeypatch.setattr(OnnxExporter, "write", write)
    with pytest.raises(RefusedError, match=said) as caught:
        run_tiny(copied, *ONLY_FP32, "export.parity=1.1e-4")  # another key, so that the stage is made again
    assert caught.value.exit_code == 3
    assert [each["format"] for each in caught.value.result["refused"]] == ["onnx-fp32"]
    assert not (copied / "study" / "export" / "tiny-fp32.onnx").exists()
    assert read_json(copied / "study" / "result.json")["exports"] == []


def test_of_a_quantizer_that_opens_what_it_wrote(copied, monkeypatch):
    def rewrite(self, file, plan, feeds):
        file.write_bytes(file.read_bytes()[:-40])
        read_onnx(file)

    monkeypatch.setattr(Int4, "rewrite", rewrite)
    said = "onnx-int4: the file that was written is no ONNX model, or is cut off"
    with pytest.raises(RefusedError, match=said) as caught:
        run_tiny(copied, "export.formats=[onnx-fp32, onnx-int4]", "export.max_drop={}", "compress.quantize=[int4]")
    assert [each["format"] for each in caught.value.result["exports"]] == ["onnx-fp32"]
