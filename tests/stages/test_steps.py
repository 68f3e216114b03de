"""Several steps of compression, each recovered: what they leave, what is done again, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import numpy_helper

import kdsearch
from kdsearch.errors import PluginError, RefusedError, StudyError
from kdsearch.host import Host
from kdsearch.kit.onnx import read_onnx
from kdsearch.stages.saved_networks import PRUNED
from kdsearch.study import load_study
from kdsearch.training.saved import ABOUT
from tests.stages.tiny import LESS, TEXT, events, made, run_tiny, write_study

TWO = (
    *LESS[:2],
    *LESS[3:],
    "compress.prune=null",
    "compress.steps=[{prune: {use: channels, options: {macs: 0.8}, recover_epochs: 1}},"
    " {sparsify: {use: magnitude, options: {sparsity: 0.6}, recover_epochs: 1}}]",
)


def test_a_cut_then_zeros_to_the_file(tmp_path):
    result = run_tiny(tmp_path, *TWO)
    cut, zeros = result["pruned"]["steps"]
    assert [(each["kind"], each["use"]) for each in (cut, zeros)] == [
        ("pruner", "channels"),
        ("sparsifier", "magnitude"),
    ]
    assert cut["params"] < cut["params_before"]
    assert zeros["params"] == zeros["params_before"] == cut["params"] == result["pruned"]["params"]
    assert result["pruned"]["params_before"] == cut["params_before"]
    assert cut["validation"]["recovered"] == zeros["validation"]["before"]
    assert zeros["zeros"] == pytest.approx(0.6, abs=0.001)
    file = read_onnx(tmp_path / "study" / result["exports"][0]["path"])
    weights = [numpy_helper.to_array(each) for each in file.graph.initializer if len(each.dims) > 1]
    assert sum(int((each == 0).sum()) for each in weights) / sum(each.size for each in weights) == pytest.approx(
        0.6, abs=0.01
    )
    assert all(each.dtype == np.float32 for each in weights)
    row = result["exports"][0]
    assert row["zipped_bytes"] < 0.75 * row["bytes"]
    assert "magnitude" in (tmp_path / "study" / "report" / "index.html").read_text(encoding="utf-8")
    saved = json.loads((tmp_path / "study" / PRUNED / ABOUT).read_text(encoding="utf-8"))
    assert [each["pruner"] for each in saved["history"]] == ["channels"], "zeros are weights, not a change of shape"
    net = kdsearch.load_model(tmp_path / "study" / PRUNED).module
    share = [(each == 0).sum().item() for each in net.parameters() if each.ndim > 1]
    assert sum(share) == pytest.approx(0.6 * sum(each.numel() for each in net.parameters() if each.ndim > 1), rel=0.02)

    before, trainings = len(events(tmp_path)), len(list((tmp_path / "study" / "artifacts").glob("recovered-*")))
    run_tiny(tmp_path, *TWO, "compress.steps[1].sparsify.options.sparsity=0.5")
    assert made(tmp_path, before) == ["compress", "export", "report"]
    assert trainings == 2
    assert len(list((tmp_path / "study" / "artifacts").glob("recovered-*"))) == 3, "the first step is not done anew"
    with pytest.raises(RefusedError, match=r"compress.steps\[1\].sparsify.options.keep"):
        run_tiny(tmp_path, *TWO, "compress.steps[1].sparsify.options.keep=['*']")


def test_a_list_alone_is_that_of_steps(tmp_path):
    begin = TEXT.index("compress:")
    text = (
        TEXT[:begin]
        + "compress:\n  - prune: channels\n  - sparsify: {use: magnitude, recover_epochs: 3}\nrun: {device: cpu}\n"
    )
    study = load_study(write_study(tmp_path, text), Host.load(), sets=("compress.steps[0].prune.options.macs=0.9",))
    first, second = (step for _, step in study.config.compress.chain)
    assert first.use.options == {"macs": 0.9}
    assert second.use.recover_epochs == 3
    line = text.splitlines().index("  - sparsify: {use: magnitude, recover_epochs: 3}") + 1
    assert study.lines["compress.steps[1].sparsify.use"] == line


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (
            "compress.steps=[{prune: channels}]",
            r"compress.prune: both `prune` and `steps` are given. Move it into steps",
        ),
        ("compress={steps: [{}]}", r"compress.steps\[0\]: a step with no key. Expected either prune or sparsify"),
        ("compress={steps: [{prune: channels, sparsify: magnitude}]}", r"compress.steps\[0\]: a step with both keys"),
        (
            "compress={steps: [{sparsify: magnitude}, {prune: channels}]}",
            r"compress.steps\[1\].prune: a pruner after a sparsifier, .*Move it above `sparsify`",
        ),
        ("compress={steps: [{sparsify: channels}]}", r"compress.steps\[0\].sparsify.use: .*'channels'"),
        (
            "compress={steps: [{sparsify: {use: magnitude, options: {until: 2.0}}}]}",
            r"compress.steps\[0\].sparsify.options.until",
        ),
        ("compress={steps: [{prun: channels}]}", r"unknown key 'prun'; did you mean 'prune'"),
    ],
)
def test_what_no_step_is(tmp_path, sets, said):
    export = ("export.formats=[onnx-fp32]", "export.max_drop={}")
    with pytest.raises((StudyError, PluginError), match=said):
        load_study(write_study(tmp_path), Host.load(), sets=(*export, sets))
