"""Limits of quantised files: candidates are measured as the file that has to keep them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
from torch import nn

from kdsearch.errors import RefusedError, StudyError
from kdsearch.host import Host
from kdsearch.report.tables import constraints
from kdsearch.search.candidates import Explored
from kdsearch.stages import file_costs, search
from kdsearch.stages.costs import most_params, needs_file, quantizer_of
from kdsearch.stages.labels import label
from kdsearch.stages.products import fresh_product, fresh_student, scatter
from kdsearch.stages.subject import subject_of
from kdsearch.study import load_study
from kdsearch.training.keys import seen_by
from kdsearch.training.materials import open_materials
from tests.python.tiny_live import made
from tests.stages.tiny import write_study

SPEC = {"depths": [1, 1, 1], "widths": [4, 8, 8], "block": "basic"}


def opened(folder, *sets):
    return open_materials(load_study(write_study(folder), Host.load(), sets=sets), Host.load())


@pytest.mark.parametrize("form", ["", "onnx-fp32", "onnx-int4", "onnx-int8"])
def test_it_is_the_file_of_that_format_that_is_measured(form, tmp_path, monkeypatch):
    """The files are looked at before they go: how many there are, what the last one stores, how large it is."""
    limit = f"{{max: 90000, format: {form}}}" if form else "90000"
    seen, own = [], Path.unlink

    def looked(file, missing_ok=False):
        if file.suffix != ".onnx" or not file.name.startswith("costs-"):
            return own(file, missing_ok)
        return seen.append((file.stat().st_size, {each.data_type for each in onnx.load(file).graph.initializer}))

    materials = seen_by(search, opened(tmp_path, f"constraints.onnx_bytes={limit}"))  # it reads what the stage declares
    monkeypatch.setattr(Path, "unlink", looked)
    costs = file_costs.file_costs(materials, "student", SPEC, tmp_path)
    assert len(seen) == (2 if "int" in form else 1)
    assert costs == {"onnx_bytes": seen[-1][0]}
    stored = {
        **dict.fromkeys(("", "onnx-fp32"), onnx.TensorProto.FLOAT),
        "onnx-int4": onnx.TensorProto.INT4,
        "onnx-int8": onnx.TensorProto.INT8,
    }
    assert stored[form] in seen[-1][1]
    assert most_params(materials, "student") == (None if "int" in form else 30000)
    monkeypatch.setattr(file_costs, "fresh_product", lambda *_: pytest.fail("it is remembered"))
    assert file_costs.file_costs(materials, "student", SPEC, tmp_path) == costs


@pytest.mark.parametrize(
    ("engine", "input", "form"),
    [
        ("dynamo", "prepared", "onnx-int8"),
        ("torchscript", "prepared", "onnx-fp32"),
        ("torchscript", "prepared", "onnx-int4"),
        ("torchscript", "any_size", "onnx-fp32"),
    ],
)
def test_what_is_measured_is_as_large_as_what_ships(engine, input, form, tmp_path):
    """Trained biases are no equal numbers, which a file holds once; labels and what is done to images are in the file, too."""
    options = f"export.exporter.options={{engine: {engine}, input: {input}}}"
    materials = opened(tmp_path, options, f"constraints.onnx_bytes={{max: 90000, format: {form}}}")
    model = materials.build_student("student", SPEC, 5)
    rng = torch.Generator().manual_seed(5)
    for norm in (each for each in model.module.modules() if isinstance(each, nn.BatchNorm2d)):
        for name, each in norm.state_dict().items():
            if each.is_floating_point():
                each.copy_(torch.rand(each.shape, generator=rng) + (0.5 if name == "running_var" else 0))
    nn.init.normal_(next(each for each in model.module.modules() if isinstance(each, nn.Linear)).bias)
    graph = materials.task.product(model, materials.io).graphs["model"]
    exporter = materials.make("exporter", materials.study.config.export.exporter, "export.exporter")
    samples, file = materials.data.split("train").load(list(range(64))), tmp_path / "trained.onnx"
    exporter.write(graph, samples, file)
    for at, use in enumerate(materials.study.config.compress.quantize):
        if form.endswith(use.use):
            quantizer = materials.make("quantizer", use, f"compress.quantize[{at}]")
            quantizer.rewrite(
                file, quantizer.plan(None), [{each.name: samples[each.name].numpy() for each in graph.inputs}]
            )
    ends = exporter.ends(graph, materials.data.facts["preprocessing"])
    if ends:
        exporter.finish(file, ends)
    label(materials, exporter, file, "tiny", "0123456789abcdef", ends)
    costs = file_costs.file_costs(materials, "student", SPEC, tmp_path)
    assert costs["onnx_bytes"] == pytest.approx(file.stat().st_size, rel=0.01)


def test_what_begins_as_equal_numbers_is_scattered_and_nothing_else():
    def network():
        frozen = nn.Linear(3, 2).requires_grad_(False)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LayerNorm(8), nn.Linear(8, 4), frozen)

    made, again = network(), network()
    again.load_state_dict(made.state_dict())
    nn.init.zeros_(made[3].weight)
    before = {name: each.clone() for name, each in made.state_dict().items()}
    scatter(made, torch.Generator().manual_seed(1))
    names = {name for name, each in made.state_dict().items() if not torch.equal(each, before[name])}
    assert names == {
        "0.bias",
        *(f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
        *("2.weight", "2.bias", "3.weight", "3.bias"),
    }
    for name in names:
        moved = made.state_dict()[name]
        assert len(moved.unique()) == moved.numel(), "no two are equal"
    assert bool((made[1].running_var > 0).all())
    nn.init.zeros_(again[3].weight)
    scatter(again, torch.Generator().manual_seed(1))
    assert all(torch.equal(again.state_dict()[name], each) for name, each in made.state_dict().items())


def test_what_is_written_to_be_measured_is_scattered(tmp_path):
    (graph,) = fresh_product(opened(tmp_path), "student", SPEC, tmp_path).product.graphs.values()
    norms = [each for each in graph.module.modules() if isinstance(each, nn.BatchNorm2d)]
    assert norms
    assert all(len(each.bias.unique()) == len(each.bias) for each in norms)


def test_what_goes_on_keeps_the_limit_of_that_file(tmp_path):
    """Some INT4 files are above it, and fp32 files of some that go on would be."""
    limit = 11_500
    sets = ("search.keep=null", "search.proxy=params", f"constraints.onnx_bytes={{max: {limit}, format: onnx-int4}}")
    found = made(opened(tmp_path, *sets), tmp_path / "study", "search")["search"]["roles"]["student"]
    costs = [each["costs"] for each in found["kept"]]
    assert 0 < len(costs) < 12
    assert all(each["onnx_bytes"] <= limit for each in costs)
    assert max(4 * each["params"] for each in costs) > limit


def test_the_quantizer_is_the_one_whose_whole_name_a_format_has():
    names = ("int8", "lab:quantizer:my-int8")
    compress = SimpleNamespace(quantize=[SimpleNamespace(use=each) for each in names])
    export = SimpleNamespace(exporter=SimpleNamespace(use="onnx"))
    materials = SimpleNamespace(study=SimpleNamespace(config=SimpleNamespace(compress=compress, export=export)))
    found = [quantizer_of(materials, form) for form in ("onnx-int8", "onnx-my-int8", "onnx-fp32", "")]
    assert found == [*names, "", ""]


def test_a_compressor_is_told_every_limit_as_a_number(tmp_path):
    limits = "constraints={params: 9000, onnx_bytes: {max: 90000, format: onnx-int8}, latency_ms: {max: 9, threads: 2}}"
    materials = opened(tmp_path, limits)
    subject = subject_of(materials, fresh_student(materials, "student", SPEC, tmp_path), "student", {})
    assert subject.budget == {"params": 9000, "onnx_bytes": 90000, "latency_ms": 9}


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ("constraints.onnx_bytes={max: 9, format: onnx-int3}",),
            "constraints.onnx_bytes.format: 'onnx-int3'; did you mean",
        ),
        (
            ("constraints.latency_ms={max: 9, format: onnx-int8}", "export.formats=[onnx-fp32]", "export.max_drop={}"),
            "constraints.latency_ms.format: 'onnx-int8'",
        ),
        (
            (
                "student=null",
                "students={one: {space: cifar_resnet}, two: {space: cifar_resnet}}",
                "recipe.procedure=mutual",
                "constraints.onnx_bytes={max: 9, format: onnx-int8}",
            ),
            "constraints.onnx_bytes.format: a limit of 'onnx-int8', and 2 students. Expected one student",
        ),
    ],
)
def test_a_file_that_is_not_made_is_refused(sets, message, tmp_path):
    with pytest.raises(StudyError) as caught:
        load_study(write_study(tmp_path), Host.load(), sets=sets)
    assert message in str(caught.value)


def test_the_page_says_of_which_file():
    files = [
        {"format": "onnx-fp32", "bytes": 50_000, "latency_ms": {"median": 1.0}},
        {"format": "onnx-int8", "bytes": 15_000, "latency_ms": {"median": 3.0}},
    ]
    limits = {"onnx_bytes": {"max": 20_000, "format": "onnx-int8"}, "latency_ms": {"max": 2.0, "format": None}}
    text = constraints({"exports": files, "constraints": limits})
    assert "bytes of the int8 file" in text
    assert "latency of the fp32 file, median (ms)" in text
    assert text.count(">met<") == 2


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("constraints={params: 10, onnx_bytes: {max: 9000, format: onnx-int8}}",), "keeps params <= 10 (0 "),
        (("constraints={onnx_bytes: {max: 2000}}",), "keeps onnx_bytes <= 2,000 (0 "),
    ],
)
def test_where_no_network_keeps_a_limit_it_is_named(sets, said, tmp_path):
    """Of a quantised file's size no network is known to be too large before it is written."""
    with pytest.raises(RefusedError) as caught:
        search._refuse_none(opened(tmp_path, *sets), "student", Explored((), "gave_up", 0))
    assert said in str(caught.value)


def test_a_size_that_is_minimised_is_measured(tmp_path):
    assert needs_file(opened(tmp_path, "objectives={accuracy: max, onnx_bytes: min}"))
    assert not needs_file(opened(tmp_path, "objectives={accuracy: max, params: min}"))
