"""Training as quantised: a format whose file loses too much on validation is taught once more, and its file keeps the bound."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdsearch.builtin.int4.quantizer import Int4, Int4Options
from kdsearch.builtin.simulated import in_blocks, simulated
from kdsearch.cli import main
from kdsearch.deploy.parity import Difference, Parity
from kdsearch.errors import RefusedError
from kdsearch.host import Host
from kdsearch.kinds import Model
from kdsearch.ops.settle import settle
from kdsearch.stages import as_quantised, export, one_file
from kdsearch.stages.as_quantised import may_train, wanted
from kdsearch.stages.export import Final, _of, _row
from kdsearch.stages.one_file import Target
from kdsearch.stages.products import fresh_student
from kdsearch.stages.subject import subject_of
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import read_json
from kdsearch.study import load_study
from kdsearch.study.summary import trainings
from kdsearch.training.materials import open_materials
from kdsearch.training.request import QUANTIZER, Request
from kdsearch.training.train import pruned, recovering, staged
from tests.stages.tiny import STAGES, events, made, run_tiny, write_study

# Narrow and deep, in few bits with one scale for 128 weights, rounded without data: what loses accuracy at 4 bits.
TEXT = """\
name: rough
seed: 2
data: {use: digits, options: {resize: 8}}
teacher:
  use: trained
  options: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [8, 16, 16]}, epochs: 6, batch_size: 64}
student: {space: cifar_resnet, spec: {depths: {choices: [3]}, widths: {choices: [4]}}}
recipe:
  distillers: [{use: kd, options: {temperature: 4}}]
  train: {lr: 0.05, batch_size: 64}
search: {proxy: params, candidates: 1, keep: 1, probe: {batch_size: 8}}
refine: {trials: 1, epochs: 1, stopper: {use: none}}
distill: {epochs: 12, controls: []}
compress:
  quantize: [{use: int4, options: {block: 128, rounding: rtn}, recover_epochs: 4}]
export:
  exporter: {use: onnx, options: {engine: torchscript}}
  formats: [onnx-fp32, onnx-int4]
  max_drop: {onnx-int4: 0.02}
run: {device: cpu, executor: {use: inprocess}}
"""


@pytest.fixture(scope="module")
def rough(tmp_path_factory):
    """The folder of a finished study, and its result."""
    home = tmp_path_factory.mktemp("rough")
    return home, run_tiny(home, text=TEXT)


@pytest.mark.slow
def test_the_plain_file_breaks_its_bound_and_the_trained_one_keeps_it(rough, tmp_path):
    home, result = rough
    (row,) = result["as_quantised"]
    assert row["before"] > row["allowed"] == 0.02
    assert row["after"] <= row["allowed"]
    assert row["used"]
    assert result["refused"] == []
    fp32, int4 = result["exports"]
    drop = fp32["quality"]["value"] - int4["quality"]["value"]
    assert drop <= 0.02, "on the test split too"
    assert int4["weight_share"]["4"] > 0.8
    assert "trained as quantised for 4 epochs" in int4["quantization"][-1]
    card = read_json(home / "study" / "export" / "rough-int4.json")
    assert card["quantization"][-1] == int4["quantization"][-1]
    page = (home / "study" / "report" / "index.html").read_text()
    assert "Training as quantised: what accuracy loses on validation" in page
    assert main(["verify", str(home / "study" / "export" / "rough-int4.onnx"), "--data", str(home / "study")]) == 0
    with pytest.raises(RefusedError, match=r"onnx-int4: accuracy .* the study allows 0\.02"):
        run_tiny(tmp_path, "compress.quantize[0].recover_epochs=0", text=TEXT)


@pytest.mark.slow
def test_it_is_trained_once(rough):
    """Another quantizer beside it, and a bound that changes the decision only, train nothing anew."""
    home, result = rough
    folder = home / "study"
    trained = [each.name for each in (folder / "artifacts").glob("recovered-*")]
    n = len(events(home))
    more = ("compress.quantize=[{use: int8}, {use: int4, options: {block: 128, rounding: rtn}, recover_epochs: 4}]",)
    again = run_tiny(home, *more, text=TEXT)
    assert made(home, n) == ["compress", "export", "report"]
    assert [each.name for each in (folder / "artifacts").glob("recovered-*")] == trained
    assert again["as_quantised"] == result["as_quantised"]
    assert STAGES.index("compress") == 4
    loose = run_tiny(home, *more, "export.max_drop={onnx-int4: 0.5}", text=TEXT)
    (row,) = loose["as_quantised"]
    assert (row["after"], row["used"]) == (None, False), "within its bound it is left alone"
    assert not any("trained as quantised" in line for line in loose["exports"][1]["quantization"])


def test_who_trains(tmp_path):
    """Only a quantizer that is asked to, whose files are exported; the plan says so."""
    study = load_study(write_study(tmp_path, TEXT), Host.load())
    materials = open_materials(study, Host.load())
    assert may_train(materials)
    assert wanted(materials) == {0: "onnx-int4"}
    assert {
        "stage": "compress",
        "what": "as int4, where its file loses too much",
        "count": 1,
        "epochs": 4,
    } in trainings(study)
    fp32 = ("export.formats=[onnx-fp32]", "export.max_drop={}")
    unwritten = load_study(tmp_path / "tiny.yaml", Host.load(), sets=fp32)
    assert wanted(open_materials(unwritten, Host.load())) == {}
    assert not any("int4" in each["what"] for each in trainings(unwritten))
    never = ("compress.quantize[0].recover_epochs=0",)
    assert not may_train(open_materials(load_study(tmp_path / "tiny.yaml", Host.load(), sets=never), Host.load()))


def test_nothing_trains_where_nothing_is_rounded(tmp_path, monkeypatch):
    told, model = list[str](), Model(nn.LSTM(3, 4), ("x",))
    use = SimpleNamespace(use="int4", recover_epochs=4)
    materials = SimpleNamespace(
        study=SimpleNamespace(config=SimpleNamespace(compress=SimpleNamespace(quantize=[use]))),
        make=lambda kind, use, path: Int4(Int4Options()),
    )
    procedure = SimpleNamespace(shipped=lambda: ("student",))
    found = SimpleNamespace(setup=SimpleNamespace(models={"student": model}), procedure=procedure)
    before = SimpleNamespace(materials=materials, found=found)
    monkeypatch.setattr(as_quantised, "_lost", lambda *_: {"before": 0.3, "allowed": 0.1})
    tools = SimpleNamespace(progress=SimpleNamespace(say=told.append))
    plans = {"int4": {"": asdict(Int4(Int4Options()).plan(None))}}
    found, artifact = as_quantised.trained_as(before, 0, "onnx-int4", plans, tools, tmp_path)
    assert (found["epochs"], found["folder"], found["after"], artifact) == (0, "", None, None)
    assert told == ["compress: onnx-int4 loses 0.3 on validation; nothing of it can be rounded in training"]


def test_two_formats_share_no_file(tmp_path):
    """Each is rewritten from the fp32 file of the network that was trained for it."""
    part = SimpleNamespace(role="")
    exporter = SimpleNamespace(suffix=".onnx")
    target = Target(None, exporter, part, None, {}, [], tmp_path, tmp_path, "")
    others = {form: (Final([SimpleNamespace(role="")], None), form) for form in ("onnx-int8", "onnx-int4")}
    files = {form: _of(target, form, others).file("graph", "fp32") for form in ("onnx-fp32", "onnx-int8", "onnx-int4")}
    assert len(set(files.values())) == 3
    assert files["onnx-fp32"] == target.file("graph", "fp32")
    assert _of(target, "onnx-int8", others).said == ("onnx-int8",)


def test_of_several_graphs_all_are_there_in_fp32_before_one_is_quantised(tmp_path, monkeypatch):
    """As the file of each is judged with the others in fp32."""

    class Writer:
        suffix = ".onnx"

        def write(self, graph, example, file):
            file.write_text(graph)

    def quantize(target, kind, name, file):
        assert all(target.file(each, "fp32").exists() for each in target.graphs)
        file.write_text(kind)
        return (name,)

    monkeypatch.setattr(one_file, "_quantize", quantize)
    monkeypatch.setattr(one_file, "copy_parts", lambda exporter, one, other: other.write_bytes(one.read_bytes()))
    monkeypatch.setattr(Target, "example", lambda self, name: None)
    graphs = {"encoder": "first", "decoder": "second"}
    part = SimpleNamespace(role="", product=SimpleNamespace(graphs=graphs))
    target = Target(None, Writer(), part, None, {}, [], tmp_path, tmp_path, "")
    files, notes = one_file.written(target, "int4")
    assert {name: file.read_text() for name, file in files.items()} == dict.fromkeys(graphs, "int4")
    assert notes == ["encoder: encoder", "decoder: decoder"]
    assert {name: target.file(name, "fp32").read_text() for name in graphs} == graphs


def test_a_student_that_was_trained_for_a_format_has_its_own_fp32_file_compared(tmp_path, monkeypatch):
    """Whatever became of the plain student's."""

    class Writer:
        suffix = ".onnx"

        def write(self, graph, example, file):
            file.write_text(graph)

        def load(self, file, threads):
            return file.read_text()

    far = {"plain": 0.0, "trained": 0.5}
    monkeypatch.setattr(
        one_file,
        "_parity",
        lambda target, name, call, bound: Parity(
            far[call], None, differences=(Difference("logits", far[call], 1.0, 2.0),)
        ),
    )
    monkeypatch.setattr(one_file, "latency_threads", lambda materials: 1)
    monkeypatch.setattr(Target, "example", lambda self, name: None)
    monkeypatch.setattr(export, "file_row", lambda target, form, reference: form)
    config = SimpleNamespace(export=SimpleNamespace(parity=1e-4))
    materials = SimpleNamespace(study=SimpleNamespace(config=config))
    plain, trained = (SimpleNamespace(role="", product=SimpleNamespace(graphs={"graph": name})) for name in far)
    target = Target(materials, Writer(), plain, None, {}, [], tmp_path, tmp_path, "")
    others = {"onnx-int4": (Final([trained], None), "trained")}
    assert _row(target, "onnx-int8", others, {}, "") == "onnx-int8"
    for why_none in ("", "its fp32 file is refused: it is far off"):
        with pytest.raises(RefusedError, match=r"^its fp32 file is refused: differs from torch by 0\.5"):
            _row(target, "onnx-int4", others, {}, why_none)
    with pytest.raises(RefusedError, match="it is far off"):
        _row(target, "onnx-int8", others, {}, "its fp32 file is refused: it is far off")
    far["trained"] = 0.0
    assert _row(target, "onnx-int4", others, {}, "its fp32 file is refused: it is far off") == "onnx-int4"


def test_a_sparse_network_stays_sparse(tmp_path):
    """The weights behind the rounded ones keep their zeros, so that the rounded ones do."""
    steps = "compress.steps=[{sparsify: {use: magnitude, options: {sparsity: 0.6}}}]"
    materials = open_materials(load_study(write_study(tmp_path, TEXT), Host.load(), sets=(steps,)), Host.load())
    spec = {"depths": [1, 1, 1], "widths": [4, 8, 8], "block": "basic"}
    shape = ("student", spec, 0)
    layers = [name for name, each in materials.build_student(*shape).module.named_modules() if hasattr(each, "weight")]
    convolutions = [f"{name}.weight" for name in layers if "conv" in name]
    plans = [
        {"edits": {"weights": convolutions}},
        {"edits": Int4Options(block=128, min_elements=2).model_dump(mode="json"), QUANTIZER: "int4"},
    ]
    request = Request("as-int4", "recover", {"student": spec}, materials.recipe.default(), 1, plans={"student": plans})
    _, setup = staged(materials, request, {}, tmp_path, 0)
    recovering(materials, request, setup)
    module = setup.models["student"].module
    setup.enforce(0.01)
    found = torch.cat([module.get_submodule(name.removesuffix(".weight")).weight.flatten() for name in convolutions])
    assert (found == 0).float().mean() > 0.59
    settle(module)
    settled = torch.cat([module.get_parameter(name).flatten() for name in convolutions])
    assert torch.equal(settled, found)
    behind = Request(
        "as-int4", "recover", {"student": spec}, materials.recipe.default(), 1, plans={"student": plans[1:]}
    )
    _, dense = staged(materials, behind, {}, tmp_path, 0)
    recovering(materials, behind, dense)
    assert dense.enforce is None


def test_a_plan_is_carried_out_by_the_quantizer_whose_name_it_has(tmp_path):
    """Not by a step of compression in its place, nor by another quantizer."""
    both = ("compress.quantize=[{use: int8}, {use: int4, options: {block: 128, rounding: rtn}, recover_epochs: 4}]",)
    materials = open_materials(load_study(write_study(tmp_path, TEXT), Host.load(), sets=both), Host.load())
    spec = {"depths": [3, 3, 3], "widths": [4, 4, 4]}
    found = fresh_student(materials, "student", spec, tmp_path)
    int4 = materials.make("quantizer", materials.study.config.compress.quantize[1], "compress.quantize[1]")
    plan = int4.plan(subject_of(materials, found, "student", {}))
    stored = {**asdict(plan), QUANTIZER: "int4"}
    model = found.setup.models["student"]
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = [
            each.module.eval()(x) for each in (pruned(materials, model, [stored]), int4.apply(model, plan), model)
        ]
    assert torch.equal(answers[0], answers[1])
    assert not torch.allclose(answers[0], answers[2], atol=1e-4)
    request = Request("as-int4", "recover", {"student": spec}, {}, 4, plans={"student": [stored]})
    assert recovering(materials, request, found.setup) is None, "the winner's recipe trains it"


def test_what_is_settled_answers_as_it_trained():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(40, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    rounded = simulated(
        Model(net, ("x",), outputs=("y",), name="net"),
        lambda layers: [in_blocks(16, 4)] * len(layers),
        activations=False,
    ).module.eval()
    x = torch.randn(5, 40)
    with torch.no_grad():
        expected = rounded(x)
    settle(rounded)
    assert set(rounded.state_dict()) == set(net.state_dict())
    with torch.no_grad():
        assert torch.equal(rounded(x), expected)
    levels = rounded[0].weight.detach().view(8, -1)[:, :16]  # the first block of each row
    steps = levels / (levels.abs().amax(1, keepdim=True) / 7)
    assert torch.allclose(steps, steps.round(), atol=1e-4)


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ((math.inf, 0.1), (None, 0.1, "as-int4")),  # the plain file answers no number
        ((math.inf, math.inf), (None, None, "")),
        ((0.3, math.inf), (0.3, None, "")),
        ((0.3, 0.1), (0.3, 0.1, "as-int4")),
        ((0.3, 0.3), (0.3, 0.3, "")),
        ((0.01,), (0.01, None, "")),
    ],
)
def test_what_is_no_number_is_no_fact(lost, expected, tmp_path, monkeypatch):
    """Facts are JSON, which has neither infinity nor NaN."""
    found = iter(lost)
    monkeypatch.setattr(as_quantised, "_lost", lambda *_: {"before": next(found), "allowed": 0.01})
    made = Artifact("recovered", "key", tmp_path, {"request": {"name": "as-int4"}, "step": {"history": []}})
    monkeypatch.setattr(as_quantised, "kept", lambda *_: made)
    monkeypatch.setattr(as_quantised, "load_as", lambda *_: None)
    monkeypatch.setattr(as_quantised, "_rounds", lambda *_: True)
    use = SimpleNamespace(use="int4", recover_epochs=1)
    config = SimpleNamespace(compress=SimpleNamespace(quantize=[use], chain=[]))
    materials = SimpleNamespace(study=SimpleNamespace(config=config))
    before = SimpleNamespace(materials=materials, found=None, teachers={})
    tools = SimpleNamespace(progress=SimpleNamespace(say=lambda _: None))
    facts, artifact = as_quantised.trained_as(before, 0, "onnx-int4", {"int4": {}}, tools, tmp_path)
    json.dumps(facts, allow_nan=False)
    assert (facts["before"], facts["after"], facts["folder"]) == expected
    assert (artifact is None) == (len(lost) == 1)
