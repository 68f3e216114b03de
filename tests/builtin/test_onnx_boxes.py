"""Boxes out: the file's operators and torch's against suppression by hand; what is refused; a detector compressed whole."""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from pydantic import ValidationError
from torch import nn

from kdsearch.builtin.onnx_boxes import Found, Suppression, detections, outputs_of
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.cli import main
from kdsearch.deploy.files import open_session
from kdsearch.deploy.parity import compare, module_call
from kdsearch.deploy.probe import differences, record
from kdsearch.errors import RefusedError, StudyError
from kdsearch.host import Host
from kdsearch.kinds import IO, Batch, Field, Graph, Model, Product
from kdsearch.python.compressed import _check_ends
from kdsearch.python.formats import forms_of
from kdsearch.python.given import Given
from kdsearch.python.recovery import noise
from kdsearch.python.verified import Source, verified_file
from kdsearch.stages.ends import ends_of
from kdsearch.store.files import read_json
from tests.builtin.channels.zoo import Detector

PLACES, CLASSES = 30, 3
TOLD = Field("told", "sequence", (PLACES, 4 + CLASSES))
BOXES, SCORES = Field("boxes", "sequence", (PLACES, 4)), Field("scores", "sequence", (PLACES, CLASSES))


class Handed(nn.Module):
    """Boxes and scores as they are handed in."""

    def __init__(self, turned=False):
        super().__init__()
        self.turned = turned

    def forward(self, told):
        parts = told[..., :4], told[..., 4:]
        return parts[::-1] if self.turned else parts


def graph_of(turned=False):
    return Graph(Handed(turned).eval(), (TOLD,), (SCORES, BOXES) if turned else (BOXES, SCORES))


def made(folder, graph=None, **options):
    graph = graph or graph_of()
    exporter = OnnxExporter(OnnxOptions(engine="torchscript", output="boxes", **options))
    ends, file = exporter.ends(graph, {}), folder / "net.onnx"
    exporter.write(graph, Batch(("a", "b"), {"told": torch.zeros(2, PLACES, 4 + CLASSES)}), file)
    exporter.finish(file, ends)
    return file, ends


def overlap(a, b):
    (ax, ay, au, av), (bx, by, bu, bv) = a, b
    inner = max(0.0, min(au, bu) - max(ax, bx)) * max(0.0, min(av, bv) - max(ay, by))
    return inner / ((au - ax) * (av - ay) + (bu - bx) * (bv - by) - inner)


def by_hand(boxes, scores, iou, least, most):
    """Rows of one sample, one box after another."""
    found = []
    for index in range(scores.shape[1]):
        kept = []
        for at in sorted(range(len(boxes)), key=lambda at: -scores[at, index]):
            if scores[at, index] > least and all(overlap(boxes[at], boxes[other]) <= iou for other in kept):
                kept.append(at)
        found += [[*boxes[at], scores[at, index], index] for at in kept[:most]]
    found = sorted(found, key=lambda row: -row[4])[:most]
    return np.array([*found, *[[0, 0, 0, 0, 0, -1]] * (most - len(found))])


def drawn(seed, n=2):
    """Boxes of whole corners, so that many overlap, scores of which no two are equal."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 12, (n, PLACES, 2))
    boxes = np.concatenate([low, low + rng.integers(3, 9, (n, PLACES, 2))], 2)
    scores = (rng.permutation(n * PLACES * CLASSES) + 0.5).reshape(n, PLACES, CLASSES) / (n * PLACES * CLASSES)
    return boxes.astype(np.float64), scores


def as_told(boxes, scores, way, form):
    if form == "centre":
        boxes = np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], 2)
    if way == "sigmoid":
        scores = np.log(scores / (1 - scores))
    elif way == "softmax":
        scores = np.log(scores)
    return np.concatenate([boxes, scores], 2).astype(np.float32)


@pytest.mark.parametrize(("way", "form"), [*itertools.product(("given", "sigmoid", "softmax"), ("corners", "centre"))])
def test_as_by_hand(way, form, tmp_path):
    asked = {"iou": 0.413, "least": 0.2, "most": 12}  # no two of whole corners share so much
    file, ends = made(tmp_path, scores=way, boxes=form, **asked)
    session = open_session(file)
    (out,) = session.get_outputs()
    assert (out.name, out.type, out.shape[1:]) == ("detections", "tensor(float)", [12, 6])
    full = False
    for seed in range(8):
        boxes, scores = drawn(seed)
        told = as_told(boxes, scores, way, form)
        if way == "softmax":
            scores = scores / scores.sum(2, keepdims=True)
        expected = np.stack([by_hand(*each, **asked) for each in zip(boxes, scores, strict=True)])
        assert session.run(None, {"told": told})[0] == pytest.approx(expected, abs=1e-4)
        assert ends.graph.module(torch.from_numpy(told))[0].numpy() == pytest.approx(expected, abs=1e-4)
        full |= bool((expected[..., 5] >= 0).all())
    assert full, "there is more than is asked for"


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return made(tmp_path_factory.mktemp("wide"), least=0.0, most=10_000)


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 3), st.booleans())
def test_file_and_torch_agree_on_anything(wide, seed, n, tied):
    """Corners in any order, flat boxes, scores below 0, and equal ones, of which the first place is the first."""
    file, ends = wide
    rng = np.random.default_rng(seed)
    boxes, scores = rng.integers(-4, 5, (n, PLACES, 4)), rng.normal(size=(n, PLACES, CLASSES))
    told = np.concatenate([boxes, scores.round(1) if tied else scores], 2).astype(np.float32)
    session = open_session(file)
    assert session.get_outputs()[0].shape[1:] == [PLACES * CLASSES, 6]
    found = session.run(None, {"told": told})[0]
    assert found.shape == (n, PLACES * CLASSES, 6), "never more than there are"
    assert np.array_equal(found, ends.graph.module(torch.from_numpy(told))[0].numpy())
    assert (found[..., 4] >= 0).all()


def test_nothing_is_found_where_nothing_scores(wide):
    told = torch.cat([torch.rand(2, PLACES, 4), -torch.rand(2, PLACES, CLASSES)], 2)
    found = open_session(wide[0]).run(None, {"told": told.numpy()})[0]
    assert (found == [0, 0, 0, 0, 0, -1]).all()


class Joined(nn.Module):
    """Boxes and scores in one, with a score of there being anything between, if there is one; rows and columns exchanged."""

    def __init__(self, turned):
        super().__init__()
        self.turned = turned

    def forward(self, told):
        return told.transpose(1, 2) if self.turned else told


@pytest.mark.parametrize("form", ["corners", "centre"])
@pytest.mark.parametrize("way", ["given", "sigmoid"])
@pytest.mark.parametrize("objectness", [False, True])
@pytest.mark.parametrize(("turned", "places"), [(False, "auto"), (True, "auto"), (False, "first"), (True, "last")])
def test_boxes_and_scores_in_one(turned, places, objectness, way, form, tmp_path):
    columns = 4 + CLASSES + objectness
    shape = (columns, PLACES) if turned else (PLACES, columns)
    told = Field("told", "sequence", (PLACES, columns))
    graph = Graph(Joined(turned).eval(), (told,), (Field("joined", "sequence", shape),))
    asked, more = {"iou": 0.413, "least": 0.05, "most": 12}, {"scores": way, "boxes": form, "places": places}
    exporter = OnnxExporter(OnnxOptions(engine="torchscript", output="boxes", objectness=objectness, **asked, **more))
    ends, file = exporter.ends(graph, {}), tmp_path / "net.onnx"
    exporter.write(graph, Batch(("a", "b"), {"told": torch.zeros(2, PLACES, columns)}), file)
    exporter.finish(file, ends)
    session = open_session(file)
    assert session.get_outputs()[0].shape[1:] == [12, 6]
    assert {name: ends.about.get(name) for name in ("places", "objectness")} == {
        "places": None if places == "auto" else places, "objectness": objectness or None,
    }  # fmt: skip
    for seed in range(4):
        boxes, scores = drawn(seed)
        values = as_told(boxes, scores, way, form)
        if objectness:
            rng = np.random.default_rng(seed)
            anything = rng.uniform(0.2, 1, (2, PLACES, 1))
            scores = scores * anything
            anything = np.log(anything / (1 - anything)) if way == "sigmoid" else anything
            values = np.concatenate([values[..., :4], anything, values[..., 4:]], 2).astype(np.float32)
        expected = np.stack([by_hand(*each, **asked) for each in zip(boxes, scores, strict=True)])
        assert session.run(None, {"told": values})[0] == pytest.approx(expected, abs=1e-4)
        assert ends.graph.module(torch.from_numpy(values))[0].numpy() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        (
            (7, 7),
            {},
            "export.exporter.options.places: joined (7, 7): which axis counts places is not evident. Expected first or",
        ),
        ((None, None), {}, "export.exporter.options.places: joined (?, ?): which axis counts places"),
        ((30, 5), {"objectness": True}, "the network answers joined (30, 5)"),
        ((30, 7), {"places": "last"}, None),
        ((4, 30), {}, "the network answers joined (4, 30)"),
        ((None, 7), {}, None),
        ((7, None), {}, None),
        ((None, None), {"places": "first"}, None),
    ],
)
def test_which_axis_counts_places(shape, options, said):
    exporter = OnnxExporter(OnnxOptions(output="boxes", **options))
    graph = Graph(nn.Identity(), (TOLD,), (Field("joined", "sequence", shape),))
    if said is not None:
        with pytest.raises(StudyError) as caught:
            exporter.ends(graph, {})
        assert said in str(caught.value)
        return
    (rows, columns) = exporter.ends(graph, {}).graph.outputs[0].shape
    assert columns == 6
    assert rows == (None if None in shape else 100)


@pytest.mark.parametrize(
    ("shapes", "options", "found"),
    [
        ([(30, 5)], {}, Found(0, 0, 30, 1)),
        ([(30, 6)], {"objectness": True}, Found(0, 0, 30, 1)),
        ([(7, 30)], {}, Found(0, 0, 30, 3, True)),
        ([(None, 7)], {}, Found(0, 0, None, 3)),
        ([(7, None)], {}, Found(0, 0, None, 3, True)),
        ([(None, None)], {"places": "last"}, Found(0, 0, None, None, True)),
        ([(30, 4), (30, 3)], {}, Found(0, 1, 30, 3)),
        ([(30, 3), (30, 4)], {}, Found(1, 0, 30, 3)),
        ([(30, 4), (30, 4)], {}, Found(0, 1, 30, 4)),
        ([(None, None), (30, 4)], {}, Found(1, 0, 30, None)),
        ([(None, 4), (30, None)], {}, Found(0, 1, 30, None)),
        ([(None, None), (None, 3)], {}, Found(0, 1, None, 3)),
        ([(None, 3), (None, None)], {}, Found(1, 0, None, 3)),
    ],
)
def test_where_boxes_and_scores_are(shapes, options, found):
    outputs = tuple(Field(f"y{at}", "sequence", shape) for at, shape in enumerate(shapes))
    asked = Suppression("corners", "given", 0.5, 0.05, 100, **options)
    assert outputs_of(Graph(nn.Identity(), (TOLD,), outputs), asked) == found


def test_boxes_and_scores_of_other_places():
    """Which a file that leaves its sizes open shows in a pass alone."""
    outputs = Field("a", "sequence", (None, 4)), Field("b", "sequence", (None, None))
    asked = Suppression("corners", "given", 0.5, 0.05, 100)
    with pytest.raises(StudyError, match=r"the network answers \(30, 4\) and \(31, 3\)"):
        detections([torch.zeros(1, 30, 4), torch.zeros(1, 31, 3)], Graph(nn.Identity(), (TOLD,), outputs), asked)


def test_columns_of_one_output_alone():
    for options, said in (({"places": "first"}, "places"), ({"objectness": True}, "objectness")):
        with pytest.raises(StudyError, match=rf"options\.{said}: boxes and scores are outputs of their own"):
            OnnxExporter(OnnxOptions(output="boxes", **options)).ends(graph_of(), {})
    with pytest.raises(ValidationError, match="'scores: given' or 'sigmoid' beside 'objectness: true'"):
        OnnxOptions(output="boxes", objectness=True, scores="softmax")


def test_boxes_are_the_output_of_four_columns(tmp_path):
    boxes, scores = drawn(0)
    told = as_told(boxes, scores, "given", "corners")
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
    one, other = (made(tmp_path / folder, graph_of(folder == "other"))[0] for folder in ("one", "other"))
    assert np.array_equal(*(open_session(file).run(None, {"told": told})[0] for file in (one, other)))


@pytest.mark.parametrize(
    "outputs",
    [
        (Field("logits", "logits", (5,)),),
        (BOXES,),
        (BOXES, SCORES, SCORES),
        (Field("a", "sequence", (30, 5)), Field("b", "sequence", (30, 3))),
        (BOXES, Field("b", "sequence", (31, 3))),
    ],
)
def test_what_answers_no_boxes_is_refused(outputs):
    exporter = OnnxExporter(OnnxOptions(output="boxes"))
    with pytest.raises(StudyError, match=r"the network answers .*Expected boxes \(N, 4\)") as caught:
        exporter.ends(Graph(nn.Identity(), (TOLD,), outputs), {})
    assert caught.value.path == "export.exporter.options.output"


@pytest.mark.parametrize(
    "outputs", [(BOXES, replace(SCORES, dtype="float16")), (replace(BOXES, dtype="float64"), SCORES)]
)
def test_boxes_are_of_float32(outputs):
    """What onnxruntime's own suppression reads, said before any work."""
    with pytest.raises(StudyError, match=r"(scores is float16|boxes is float64)\. Expected float32"):
        OnnxExporter(OnnxOptions(output="boxes")).ends(Graph(nn.Identity(), (TOLD,), outputs), {})


def test_nothing_judges_boxes():
    """Neither a study's metrics nor those of `--data`: said before any work."""
    asked = {"output": "boxes"}
    with pytest.raises(StudyError, match="no metric of a study judges what such files answer"):
        ends_of(OnnxExporter(OnnxOptions(**asked)), Product({"net": graph_of()}, lambda calls, batch: {}), {})
    (form,) = forms_of(["onnx-fp32"], asked, Host.load())
    model = Model(graph_of().module, ("told",), outputs=("boxes", "scores"), name="handed")
    io, opened = IO((TOLD,), (BOXES, SCORES)), SimpleNamespace(arranged=SimpleNamespace(facts={}))
    _check_ends([form], model, io, None, Given())
    with pytest.raises(StudyError, match="--output: no metric judges what such files answer"):
        _check_ends([form], model, io, opened, Given())


def test_options_of_boxes_alone():
    with pytest.raises(ValidationError, match="'output: boxes' beside iou, most"):
        OnnxOptions(output="class", iou=0.4, most=3)
    with pytest.raises(StudyError, match="of the middle that is cut out"):
        OnnxExporter(OnnxOptions(output="boxes", input="any_size")).ends(graph_of(), {})


@pytest.mark.parametrize(("option", "other"), [("iou", 0.7), ("least", 0.9), ("most", 9), ("boxes", "centre")])
def test_a_file_of_other_options_is_refused(option, other, tmp_path):
    asked = {"iou": 0.4, "least": 0.1, "most": 12, "boxes": "corners"}
    file, _ = made(tmp_path, **{**asked, option: other})
    graph = OnnxExporter(OnnxOptions(output="boxes", **asked)).ends(graph_of(), {}).graph
    told = torch.from_numpy(np.concatenate([as_told(*drawn(seed, 4), "given", "corners") for seed in range(4)]))
    samples = Batch(tuple(map(str, range(16))), {"told": told})
    call = OnnxExporter(OnnxOptions()).load(file)
    with pytest.raises(RefusedError, match=r"at output 'detections'|output 'detections' at .* is"):
        compare(module_call(graph), call, graph.inputs, graph.outputs, samples, bound=1e-4).check(1e-4)


def test_two_places_that_change_theirs_are_none_the_worse(tmp_path):
    """A file may order scores otherwise that differ by rounding alone; what it drops is another matter."""
    file, ends = made(tmp_path, least=0.7, most=90)
    graph, plain = ends.graph, OnnxExporter(OnnxOptions()).load(file)
    samples = Batch(("a",) * 8, {"told": torch.from_numpy(as_told(*drawn(3, 8), "given", "corners"))})

    def found(change):
        def call(*inputs):
            return {"detections": change(plain(*inputs)["detections"].clone())}

        return compare(module_call(graph), call, graph.inputs, graph.outputs, samples, bound=1e-4)

    def dropped(rows):
        rows[:, 0, 5] = -1  # the best, of some fifteen
        return rows

    turned = found(lambda rows: rows.flip(1))
    assert (turned.max_abs, turned.top1_agreement) == (0, 1)
    assert 100 < turned.judged < 40 * 8  # batches of 1, 2 and 5
    turned.check(1e-4)
    less = found(dropped)
    assert less.top1_agreement < 1
    with pytest.raises(RefusedError, match=r"differs from torch by .* at output 'detections'"):
        less.check(1e-4)

    def invented(rows):
        rows[:, -1] = rows.new_tensor([90, 90, 99, 99, 0.8, 1])
        return rows

    more = found(invented)
    assert more.top1_agreement == 1
    with pytest.raises(RefusedError, match=r"differs from torch by .* at output 'detections'"):
        more.check(1e-4)

    def broken(rows):
        rows[0, 0, 1] = torch.nan
        return rows

    with pytest.raises(RefusedError, match="the file answers NaN at output 'detections'"):
        found(broken).check(None)


def test_a_card_finds_detections_wherever_they_stand(tmp_path):
    file, ends = made(tmp_path, least=0.0, most=40)
    graph, plain = ends.graph, OnnxExporter(OnnxOptions()).load(file)
    kept = record(graph, module_call(graph), plain, bound=1e-4)
    (told,) = kept["outputs"]
    assert len(told["torch"]) == len(told["file"]) == len(told["at"]) == 48 * 6, "sixteen of each of three samples"

    def run(change):
        return lambda feeds: {"detections": change(plain(torch.from_numpy(feeds["told"]))["detections"]).numpy()}

    (same,), (turned,) = (
        differences(kept, run(change), "torch") for change in (torch.clone, lambda rows: rows.flip(1))
    )
    assert same.max_abs == turned.max_abs < 1e-6
    (moved,) = differences(kept, run(lambda rows: rows + rows.new_tensor([0, 0, 0.5, 0, 0, 0])), "file")
    assert moved.max_abs > 0.1


CODE = """\
import sys, torch
sys.path.insert(0, {root!r})
from tests.builtin.channels.zoo import Detector
def make():
    torch.manual_seed(0)
    return Detector()
"""
ASKED = ("--output", "boxes,scores=sigmoid,boxes=centre", "--format", "onnx-fp32")


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A detector's file of boxes in three formats, by the command."""
    folder = tmp_path_factory.mktemp("detector")
    (folder / "own.py").write_text(CODE.format(root=str(Path(__file__).parents[2])))
    model, out = f"{folder}/own.py:make", folder / "out"
    asked = [*ASKED, "--format", "onnx-int8", "--format", "onnx-int4", "--calibration", "random"]
    assert main(["compress", model, "--allow-code", model, "--input-shape", "3,64,64", "--out", str(out), *asked]) == 0
    return out


def test_a_detector_in_three_formats(detector, capsys):
    for form in ("fp32", "int8", "int4"):
        file = detector / f"make-{form}.onnx"
        card = read_json(file.with_suffix(".json"), dict)
        assert card["use"]["inside"] == {
            "input": "prepared", "output": "boxes", "boxes": "centre", "scores": "sigmoid", "iou": 0.5, "least": 0.05,
            "most": 100,
        }  # fmt: skip
        assert card["use"]["outputs"][0]["shape"] == ["batch", 100, 6]
        assert main(["verify", str(file)]) == 0
        scope = {}
        exec("\n".join(card["use"]["run"]).replace(json.dumps(file.name), json.dumps(str(file))), scope)
        assert scope["outputs"][0].shape == (1, 100, 6)
    assert "has a detection" not in json.dumps(card)
    agreement = card["metrics"]["top1_agreement_with_torch"]
    assert agreement["n"] > 1000
    assert "answers as torch's" in capsys.readouterr().out


def test_a_changed_weight_is_found(detector, tmp_path, capsys):
    """Where the hash was made to fit, by the answers."""
    source = detector / "make-fp32.onnx"
    model, card = onnx.load(source), read_json(source.with_suffix(".json"), dict)
    weight = next(each for each in model.graph.initializer if each.name == "boxes.weight")
    numbers = numpy_helper.to_array(weight).copy()
    numbers[1, 3, 1, 1] += 0.2
    weight.CopyFrom(numpy_helper.from_array(numbers, weight.name))
    file = tmp_path / "make-fp32.onnx"
    onnx.save(model, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    file.with_suffix(".json").write_text(json.dumps({**card, "sha256": digest, "size_bytes": file.stat().st_size}))
    assert main(["verify", str(file)]) == 3
    assert "answers as torch's: detections differs" in capsys.readouterr().out


def test_a_file_of_boxes_answers_them_once(detector, tmp_path, capsys):
    asked = ["compress", str(detector / "make-fp32.onnx"), "--out", str(tmp_path / "out"), *ASKED]
    assert main(asked) == 2
    assert "--output: the file answers boxes already. Expected raw." in capsys.readouterr().err
    assert main([*asked[:4], "--format", "onnx-int4"]) == 0, "its boxes are compared as such"


def opened(source, target):
    """A file that answers boxes and scores, in the order asked for, and says none of their sizes."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Detector().eval(), (torch.zeros(1, 3, 64, 64),), target, dynamo=False, opset_version=11, input_names=["image"],
            output_names=["b", "s"], dynamic_axes={name: {0: "n"} for name in ("image", "b", "s")},
        )  # fmt: skip
    model = onnx.load(target)
    kept = {each.name: each for each in model.graph.output}
    del model.graph.output[:]
    for name in source:
        for axis in kept[name].type.tensor_type.shape.dim:
            axis.ClearField("dim_value")
            axis.dim_param = axis.dim_param or "any"
    model.graph.output.extend(kept[name] for name in source)
    onnx.save(model, target)
    return str(target)


def test_an_onnx_file_that_does_not_say_its_sizes(tmp_path, capsys):
    """Of an operator set before that of the operators that are added, too."""
    file, out = opened("bs", tmp_path / "det.onnx"), tmp_path / "out"
    assert main(["compress", file, "--out", str(out), *ASKED]) == 0
    found = open_session(out / "det-fp32.onnx").run(None, {"image": np.zeros((2, 3, 64, 64), np.float32)})[0]
    assert found.shape == (2, 100, 6)
    assert main(["verify", str(out / "det-fp32.onnx")]) == 0
    capsys.readouterr()
    assert main(["compress", opened("b", tmp_path / "det.onnx"), "--out", str(tmp_path / "other"), *ASKED]) == 2
    said = "--output boxes,places: b (?, ?): which axis counts places is not evident. Expected first or last."
    assert said in capsys.readouterr().err
    assert main(["compress", opened("sb", tmp_path / "det.onnx"), "--out", str(tmp_path / "other"), *ASKED]) == 2
    assert "--output: the network answers (80, 5) and (80, 4). Expected boxes (N, 4)" in capsys.readouterr().err
    assert not list((tmp_path / "other").glob("*"))


def test_a_weight_that_changes_no_detection_here(tmp_path):
    """The network is compared before its boxes are: nothing of it scores above the bound, and all would agree."""
    torch.manual_seed(0)
    net = Detector().eval()

    class Lying(OnnxExporter):
        def write(self, graph, example, file):
            super().write(graph, example, file)
            model = onnx.load(file)
            weight = next(each for each in model.graph.initializer if each.name == "boxes.bias")
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + 1, weight.name))
            onnx.save(model, file)

    image = Field("image", "image", (3, 64, 64))
    outputs = Field("output_0", "sequence", (80, 4)), Field("output_1", "sequence", (80, 5))
    io = IO((image,), outputs)
    model = Model(net, ("image",), outputs=("output_0", "output_1"), name="detector")
    options = OnnxOptions(output="boxes", scores="sigmoid", least=0.99)
    samples = noise(io, 6, 2)
    honest = Source(model, io, OnnxExporter(options), samples, [], {})
    _, row = verified_file(honest, tmp_path / "a.onnx", None, 1e-4, None, "onnx")
    assert row["top1_agreement"] is None
    assert any("none of the samples compared has a detection" in line for line in row["quantization"])
    with pytest.raises(RefusedError, match=r"differs from torch by .* at output 'output_0'"):
        verified_file(Source(model, io, Lying(options), samples, [], {}), tmp_path / "b.onnx", None, 1e-4, None, "onnx")
    assert not (tmp_path / "b.onnx").exists()
