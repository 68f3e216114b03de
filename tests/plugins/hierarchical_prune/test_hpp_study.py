"""A timm ViT on digits through a whole study: cut by contribution, recovered from itself, to verified INT8 and INT4 files."""

import json

import pytest

from kdsearch.host import Host
from kdsearch.kit.onnx import read_onnx
from kdsearch.study import load_study
from kdsearch.verbs.run import run_study

TEXT = """\
name: vit
seed: 5
data: {use: digits, options: {resize: 8}, train_samples: 900}
student: {space: timm, spec: {family: vit, depth: 4, dim: 48, heads: 4, grid: 4}}
recipe: {train: {lr: 0.003, batch_size: 32}}
objectives: {accuracy: max}
search: {proxy: params, candidates: 1}
refine: {trials: 1, epochs: 1, stopper: none}
distill: {epochs: 30, controls: []}
compress:
  steps:
    - prune: {use: hierarchical_prune, options: OPTIONS, recover_epochs: 4, recover_lr: 1.0}
  quantize: [{use: int8, options: {samples: 64}}, int4]
export:
  exporter: {use: onnx, options: {engine: torchscript}}
  formats: [onnx-fp32, onnx-int8, onnx-int4]
  max_drop: {onnx-int8: 0.05, onnx-int4: 0.05}
  min_agreement: {onnx-int8: 0.8, onnx-int4: 0.8}
run: {device: cpu, executor: inprocess}
"""
BLOCKS = "{granularity: block, params: 0.76, samples: 100, sgdistill: inverse, r_thres: 0.2, features: [block, attn]}"


def run(folder, options, *sets):
    folder.mkdir(exist_ok=True)
    file = folder / "vit.yaml"
    file.write_text(TEXT.replace("OPTIONS", options))
    host = Host.load()
    return run_study(load_study(file, host, sets=sets), host, folder / "study", workers=1, progress=False)


def test_blocks_go_and_their_files_are_verified(tmp_path):
    from kdsearch_plugins.hierarchical_prune import contribution

    result = run(tmp_path, BLOCKS)
    pruned, (step,) = result["pruned"], result["pruned"]["steps"]
    assert pruned["params"] < 0.76 * pruned["params_before"]
    assert step["validation"]["recovered"] >= step["validation"]["cut"]
    assert step["validation"]["recovered"] > 0.85
    assert any("SGDistill (inverse)" in line for line in pruned["log"])
    assert sum(line.startswith("Delta P without") for line in pruned["log"]) == 4
    assert {row["format"] for row in result["exports"]} == {"onnx-fp32", "onnx-int8", "onnx-int4"}
    plain = read_onnx(tmp_path / "study" / result["exports"][0]["path"])
    n_softmax = sum(node.op_type == "Softmax" for node in plain.graph.node)
    assert n_softmax == 3 - pruned["log"][0].count(","), "a block that is gone leaves no node"
    first = list((tmp_path / "study" / "work").glob("once-*/once-*.json"))
    assert len(first) == 5, "four blocks and the intact network"

    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contribution, "surgery", lambda *given: calls.append(given))
        other = run(
            tmp_path,
            BLOCKS,
            "compress.steps[0].prune.recover_epochs=0",
            "export.formats=[onnx-fp32]",
            "export.max_drop={}",
            "export.min_agreement={}",
        )
    assert calls == [], "another recovery measures nothing again"
    assert other["pruned"]["params"] == pruned["params"]
    (step,) = other["pruned"]["steps"]
    assert step["validation"]["recovered"] == step["validation"]["cut"]
    json.dumps(other)
