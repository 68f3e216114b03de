"""Pieces without a study: values against plain computation, and what is wrong is named."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import kdsearch
from kdsearch.builtin.onnx_exporter import OnnxExporter
from kdsearch.errors import DataError, PluginError, RefusedError, StudyError, TapError, UserError
from kdsearch.kinds import IO, Compressor, Distiller, Field, Model, NoOptions, Plan
from kdsearch.python.pieces import on_cpu
from kdsearch.store.files import read_json
from tests.python.tiny_live import teacher

IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 10
TRACED = {"use": "onnx", "options": {"engine": "torchscript"}}  # a tenth of dynamo's time


def test_terms_and_gradients_are_those_of_the_formula():
    images, large, small = IMAGES.double(), teacher(0, 6).double(), teacher(1, 4).double()
    hint = {"use": "fitnet", "options": {"teacher_tap": "module:3", "student_tap": "stage[1]"}}
    pair = kdsearch.Distillation(small, large, [{"use": "kd", "options": {"temperature": 2.0}}, hint], images).double()
    logits, terms = pair(images, LABELS)
    z_s, z_t = (net(images).detach().numpy() for net in (small, large))
    log_s, log_t = (z / 2 - np.log(np.exp(z / 2).sum(1, keepdims=True)) for z in (z_s, z_t))
    expected = 4 * (np.exp(log_t) * (log_t - log_s)).sum(1).mean()
    assert terms["kd.kl"].item() == pytest.approx(expected, rel=1e-9)
    assert torch.equal(logits, small(images))
    regressor = pair.distillers["fitnet"].regressor
    h_s, h_t = regressor(small[:4](images)), large[:4](images)
    assert terms["fitnet.hint"].item() == pytest.approx(0.5 * (h_s - h_t).square().mean().item(), rel=1e-9)
    assert {*map(id, pair.parameters())} == {*map(id, regressor.parameters())}
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in [*small.parameters(), *pair.parameters()])
    assert all(parameter.grad is None for parameter in large.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_terms_are_the_same_without_a_graph(mode):
    hint = {"use": "fitnet", "options": {"teacher_tap": "module:3", "student_tap": "stage[1]"}}
    pair = kdsearch.Distillation(teacher(1, 4), teacher(0), ["kd", hint], IMAGES)
    expected = {name: value.item() for name, value in pair(IMAGES, LABELS)[1].items()}
    with mode():
        assert {name: value.item() for name, value in pair(IMAGES, LABELS)[1].items()} == expected


def test_networks_stay_on_the_device_of_the_example():
    """On no CPU: a GPU, as far as shapes and devices go."""
    small, large, images = teacher(1, 4).to("meta"), teacher(0).to("meta"), IMAGES.to("meta")
    hint = {"use": "fitnet", "options": {"teacher_tap": "module:3", "student_tap": "stage[1]"}}
    pair = kdsearch.Distillation(small, large, ["kd", hint], images)
    logits, terms = pair(images, LABELS.to("meta"))
    sum(terms.values()).backward()
    trained = [*small.parameters(), *pair.parameters()]
    assert {each.device.type for each in [logits, *terms.values(), *trained]} == {"meta"}
    assert all(each.grad is not None for each in trained)


def test_a_network_elsewhere_is_copied_to_the_cpu(monkeypatch):
    net, model = teacher(0), Model(teacher(0), ("image",), ())
    assert (on_cpu(net), on_cpu(model)) == (net, model)
    monkeypatch.setattr("kdsearch.python.pieces.device_of", lambda module: torch.device("cuda"))
    copied = on_cpu(net)
    assert copied is not net
    assert torch.equal(copied(IMAGES), net(IMAGES))
    assert on_cpu(model).module is not model.module


def test_other_tasks_than_classification_by_their_own_fields():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(5, 2)

        def forward(self, numbers, missing):
            return self.out(torch.cat([numbers, missing], 1))

    fields = (Field("numbers", "vector", (3,)), Field("missing", "vector", (2,)))
    io = IO(fields, (Field("value", "value", (2,)),))
    batch = {each.name: each.noise(6, torch.Generator().manual_seed(0)) for each in fields}
    student, large = Two(), Two()
    match = {"use": "match", "options": {"distance": "huber"}}
    pair = kdsearch.Distillation(student, large, [match], batch, task="regression", io=io)
    value, terms = pair(batch, torch.zeros(6, 2))
    wanted = large(**batch).detach()
    far = (student(**batch) - wanted) / wanted.std(0, correction=0)
    torch.testing.assert_close(value, student(**batch))
    torch.testing.assert_close(terms["match.match"], nn.functional.huber_loss(far, torch.zeros_like(far)))
    with pytest.raises(StudyError, match="or `io`, which names inputs"):
        kdsearch.Distillation(student, large, [match], batch, task="regression")
    with pytest.raises(TapError, match="'kd' compares class probabilities, and the task answers value"):
        kdsearch.Distillation(student, large, ["kd"], batch, task="regression", io=io)


def test_modes_of_both_networks_stay_their_owners():
    large, small = nn.Sequential(*teacher(0), nn.Dropout(0.5)), teacher(1).train()
    large.train()
    pair = kdsearch.Distillation(small, large, ["kd"], IMAGES)
    assert large.training
    assert small.training
    first, second = pair(IMAGES)[1]["kd.kl"], pair(IMAGES)[1]["kd.kl"]
    assert torch.equal(first, second)  # the teacher answers without dropout
    assert large.training
    assert pair.last.batch.ids == tuple(map(str, range(12)))


class Remembers(Distiller[NoOptions]):
    """Counts its steps."""

    def __init__(self, options):
        super().__init__(options)
        self.steps = 0

    def terms(self, step):
        return {"clock": step.student["logits"].mean() * 0 + step.clock.epoch}

    def on_step_end(self, step):
        self.steps += len(step.batch)


class Prepares(Distiller[NoOptions]):
    """Needs the data."""

    def prepare(self, setup):
        """Reads it."""

    def terms(self, step):
        return {}


def test_a_class_of_ones_own_is_told_of_steps_and_clock():
    from kdsearch.kinds import Clock

    pair = kdsearch.Distillation(teacher(1), teacher(0), [Remembers], IMAGES)
    assert pair(IMAGES, clock=Clock(3, 30, 0.5, 6))[1]["Remembers.clock"].item() == 3
    pair.end_step()
    assert pair.distillers["Remembers"].steps == 12


@pytest.mark.parametrize(
    ("distillers", "error", "message"),
    [
        (["kdd"], PluginError, "unknown distiller 'kdd'; did you mean 'kd'"),
        (["kd", "kd"], StudyError, "two distillers have one name"),
        ([{"use": "kd", "name": "a.b"}], StudyError, "distillers: the name 'a.b'. Expected letters"),
        ("kd", StudyError, "distillers: got 'kd'. Expected a list"),
        ([{"use": "kd", "options": {"temprature": 1}}], StudyError, "temprature.*did you mean 'temperature'"),
        ([{"name": "kd"}], StudyError, "distiller: got"),
        (["fitnet"], TapError, r"logits' is 10|stage\[-2\]|fits|is "),
        ([Prepares], PluginError, "prepares itself on a study's data"),
    ],
)
def test_wrong_distillers_are_named(distillers, error, message):
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(error, match=message):
        kdsearch.Distillation(mlp, teacher(0), distillers, IMAGES)


def test_networks_that_do_not_fit_are_named():
    with pytest.raises(DataError, match="student answers 7 a sample"):
        kdsearch.Distillation(nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), teacher(0), ["kd"], IMAGES)
    with pytest.raises(StudyError, match=r"Expected logits \(B, K\)"):
        kdsearch.Distillation(teacher(0), nn.Conv2d(1, 2, 3), ["kd"], IMAGES)


@pytest.mark.parametrize("quantize", [None, "int8", {"use": "int4", "options": {"block": 16}}])
def test_a_file_computes_what_the_network_does(quantize, tmp_path):
    net = teacher(0).train()
    found = kdsearch.export(net, IMAGES, tmp_path / "deep" / "net.onnx", quantize=quantize)
    session = onnxruntime.InferenceSession(found.file)
    (got,) = session.run(None, {"image": IMAGES.numpy()})
    far = np.abs(got - net.eval()(IMAGES).detach().numpy()).max()
    assert far <= found.parity_max_abs + 1e-6
    assert found.parity_max_abs < (1e-4 if quantize is None else 0.5)
    assert found.bytes == found.file.stat().st_size
    assert sorted(each.name for each in (tmp_path / "deep").iterdir()) == ["net.json", "net.onnx"]
    card = json.loads(found.card.read_text())
    assert card["sha256"] == hashlib.sha256(found.file.read_bytes()).hexdigest()
    assert card["export"] == ("onnx-fp32" if quantize is None else "onnx-int8" if quantize == "int8" else "onnx-int4")
    assert card["model"]["params"] == sum(each.numel() for each in net.parameters())
    assert card["metrics"]["top1_agreement_with_torch"]["n"] == 12
    assert (card["bounds"]["parity"], card["bounds"]["min_agreement"]) == (1e-4 if quantize is None else None, 0.9)


def test_the_program_beside_a_file_answers_as_the_network(tmp_path):
    """A picture of 0..255; the network reads (x - mean) / std."""
    net, labels = teacher(0), [f"class {i}" for i in range(10)]
    pixels = (IMAGES * 255).round()
    given = {"mean": 0.5, "std": 0.25}
    for name in ("first.onnx", "net.onnx"):  # the second one takes the program over
        found = kdsearch.export(
            net, (pixels / 255 - 0.5) / 0.25, tmp_path / name, exporter=TRACED, labels=labels, normalize=given
        )
    Image.fromarray(pixels[0, 0].numpy().astype(np.uint8)).save(tmp_path / "image.png")
    words = [sys.executable, str(found.predict), str(tmp_path / "image.png"), "--top", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    with torch.no_grad():
        probs = net.eval()((pixels[:1] / 255 - 0.5) / 0.25).softmax(1)[0]
    assert done.stdout.strip().endswith(f"image.png: {labels[int(probs.argmax())]} {probs.max():.1%}"), done.stderr
    assert '"net.onnx"' in found.predict.read_text()
    told = onnx.load(found.file).metadata_props
    assert json.loads(next(each.value for each in told if each.key == "labels")) == labels


def test_a_program_that_would_run_another_file_goes(tmp_path):
    """Labels were given and are not any more; that of another file beside it stays, and so does one's own."""
    labels, place = [str(i) for i in range(10)], tmp_path / "predict.py"
    kdsearch.export(teacher(0), IMAGES, tmp_path / "net.onnx", exporter=TRACED, labels=labels)
    kdsearch.export(teacher(0), IMAGES, tmp_path / "other.onnx", exporter=TRACED)
    assert place.exists()
    kdsearch.export(teacher(0), IMAGES, tmp_path / "net.onnx", exporter=TRACED)
    assert not place.exists()
    place.write_text("print('mine')")
    kdsearch.export(teacher(0), IMAGES, tmp_path / "net.onnx", exporter=TRACED)
    assert place.read_text() == "print('mine')"


@pytest.mark.parametrize(
    ("normalize", "is_there"),
    [
        (None, False),
        ({"mean": 0.5, "std": 0.25}, True),
        ({"mean": (0.5,), "std": [0.25]}, True),
        ({"mean": torch.tensor([0.5]), "std": np.float64(0.25)}, True),
    ],
)
def test_no_program_is_written_where_nobody_knows_how_images_are_prepared(normalize, is_there, tmp_path):
    """Samples below 0 are no pixels: it would divide by a std that is not there, and answer nan."""
    labels = np.array([str(i) for i in range(10)])
    found = kdsearch.export(
        teacher(0), (IMAGES - 0.5) / 0.25, tmp_path / "net.onnx", exporter=TRACED, labels=labels, normalize=normalize
    )
    assert (found.predict is not None, (tmp_path / "predict.py").exists()) == (is_there, is_there)
    assert json.loads(found.card.read_text())["use"]["labels"] == list(labels)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": ["a"]}, r"labels: 1 labels\. Expected 10, one a class"),
        ({"normalize": "image"}, r"normalize: got 'image'\. Expected imagenet"),
        ({"normalize": {"mean": 0.5}}, r"normalize: got \{'mean': 0\.5\}"),
        ({"normalize": {"mean": 300.0, "std": 1.0}}, r"normalize: samples of .* would be pixels of 300"),
    ],
)
def test_what_does_not_fit_the_samples_is_refused_before_anything_is_written(given, message, tmp_path):
    with pytest.raises(UserError, match=message):
        kdsearch.export(teacher(0), IMAGES, tmp_path / "net.onnx", **given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["net.json", "predict.py"])
def test_files_of_ones_own_beside_it_are_left_alone(name, tmp_path):
    (tmp_path / name).write_text("{}")
    with pytest.raises(StudyError, match=rf"{name}: is in the way"):
        kdsearch.export(teacher(0), IMAGES, tmp_path / "net.onnx", labels=[str(i) for i in range(10)])
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "{}"


def test_files_that_go_along_lie_beside_it_and_in_its_card(tmp_path):
    """Written again they may be others; what is not ours is left alone, and nothing is written."""
    for words in (b"cats\n", b"dogs\n"):
        made = kdsearch.export(
            teacher(0), IMAGES, tmp_path / "net.onnx", files={"names.txt": words, "scale.bin": b"\x00"}
        )
        assert made.files == (tmp_path / "net-names.txt", tmp_path / "net-scale.bin")
        assert made.files[0].read_bytes() == words
        named = json.loads(made.card.read_text())["facts"]["product"]["files"]
        assert named == ["net-names.txt", "net-scale.bin"]
    alone = kdsearch.export(teacher(0), IMAGES, tmp_path / "alone.onnx", exporter=TRACED)
    assert alone.files == ()
    assert "facts" not in json.loads(alone.card.read_text())
    (tmp_path / "alone-names.txt").write_bytes(b"mine")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for name, content, message in (
        ("names.txt", b"cats", r"alone-names.txt: is in the way of 'names.txt'"),
        ("../names.txt", b"cats", r"files: got '../names.txt'. Expected bytes by name"),
        ("names.txt", "cats", r"files: 'names.txt' is str. Expected bytes by name"),
    ):
        with pytest.raises(StudyError, match=message):
            kdsearch.export(teacher(1), IMAGES, tmp_path / "alone.onnx", exporter=TRACED, files={name: content})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert kdsearch.export(
        teacher(1), IMAGES, tmp_path / "alone.onnx", exporter=TRACED, files={"names.txt": b"mine"}
    ).files


def test_a_file_that_answers_otherwise_is_not_written(tmp_path):
    """INT4 of a network whose classes hardly differ."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    images = torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    asked = {"quantize": {"use": "int4", "options": {"block": 64}}}
    with pytest.raises(RefusedError, match=r"% of its answers are the network's\. Expected at least 0\.999"):
        kdsearch.export(net, images, tmp_path / "net.onnx", exporter=TRACED, **asked, min_agreement=0.999)
    assert list(tmp_path.iterdir()) == []
    assert (
        kdsearch.export(net, images, tmp_path / "net.onnx", exporter=TRACED, **asked, min_agreement=0.1).top1_agreement
        < 0.999
    )


class Shifted(OnnxExporter):
    """Adds a hundredth to the last layer's bias."""

    def write(self, graph, example, file):
        super().write(replace(graph, module=_shifted(graph.module)), example, file)


def _shifted(module):
    module = copy.deepcopy(module)
    with torch.no_grad():
        list(module.parameters())[-1].add_(0.01)
    return module


def test_samples_that_want_gradients_are_read_as_they_are(tmp_path):
    made = kdsearch.export(teacher(0), IMAGES.clone().requires_grad_(), tmp_path / "net.onnx", exporter=TRACED)
    answers = onnxruntime.InferenceSession(made.file).run(None, {"image": IMAGES.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(answers), teacher(0).eval()(IMAGES).detach(), rtol=1e-4, atol=1e-5)


class Once(nn.Module):
    """One number for each image: what is in it, or how much of it."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(IMAGES[0].numel(), 1)

    def forward(self, image):
        return self.head(image.flatten(1))


def test_of_one_number_no_class_is_the_highest(tmp_path):
    made = kdsearch.export(Once(), IMAGES, tmp_path / "net.onnx", exporter=TRACED, quantize="int8", min_agreement=1.0)
    assert made.top1_agreement is None
    assert read_json(made.card)["metrics"]["top1_agreement_with_torch"] is None
    assert "agree" not in str(made)


def test_samples_that_no_file_reads_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"samples: got bfloat16\. Expected float32, float16"):
        kdsearch.export(teacher(0).bfloat16(), IMAGES.bfloat16(), tmp_path / "net.onnx")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("quantize", "said"), [(None, ""), ("int8", "its fp32 file is refused: ")])
def test_a_file_that_is_too_far_off_is_not_written(quantize, said, tmp_path):
    """Nor one that is made of it, which agrees with the network all the same."""
    message = rf"net\.onnx: parity: {said}differs from torch by 0\.0\d+ at output 'logits'"
    with pytest.raises(RefusedError, match=message):
        kdsearch.export(teacher(0), IMAGES, tmp_path / "net.onnx", exporter=Shifted, quantize=quantize)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_a_network_that_answers_no_number_is_not_written(quantize, tmp_path):
    broken = teacher(0)
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(RefusedError, match="output 'logits' of the network itself is not a number"):
        kdsearch.export(broken, IMAGES, tmp_path / "net.onnx", quantize=quantize)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StudyError, match=r"is a folder\. Expected a file's name"):
        kdsearch.export(teacher(0), IMAGES, tmp_path, quantize=quantize)
    with pytest.raises(DataError, match="at least one row"):
        kdsearch.export(teacher(0), IMAGES[:0], tmp_path / "net.onnx", quantize=quantize)


class Broken(nn.Module):
    def forward(self, x):
        raise KeyError("a")


@pytest.mark.parametrize(
    ("net", "samples", "file", "says"),
    [
        (
            teacher(0),
            IMAGES[..., :3, :3].double(),
            "n.onnx",
            r"samples: the network does not read a sample \(1, 3, 3\) of float64",
        ),
        (Broken(), IMAGES, "n.onnx", "samples: the network does not read a sample .* KeyError: 'a'"),
        (teacher(0), IMAGES.tolist(), "n.onnx", r"samples: got list\. Expected a tensor"),
        (teacher(0), IMAGES[0, 0, 0], "n.onnx", r"samples: got a tensor \(8,\)"),
        (nn.Linear, IMAGES, "n.onnx", r"net: got the class Linear\. Expected a torch\.nn\.Module"),
        (teacher(0), "n.onnx", IMAGES, "file: got Tensor.* the order is net, samples, file"),
    ],
    ids=["shape", "broken", "list", "vector", "class", "order"],
)
def test_what_is_no_network_or_no_samples_is_said_by_its_name(net, samples, file, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        kdsearch.export(net, samples, file)
    assert list(tmp_path.iterdir()) == []
    if net is nn.Linear or isinstance(net, Broken):
        with pytest.raises(
            UserError, match="teacher: got the class" if net is nn.Linear else "example: the network does not"
        ):
            kdsearch.Distillation(teacher(0), net, ["kd"], samples)


@pytest.mark.parametrize(
    ("student", "example", "says"),
    [
        (nn.Linear, IMAGES, r"student: got the class Linear\. Expected a torch\.nn\.Module"),
        (None, IMAGES, r"student: got NoneType"),
        (teacher(0), None, r"example: got NoneType\. Expected a tensor"),
        (teacher(0), IMAGES[:0], r"example: got a tensor \(0, 1, 8, 8\)\. Expected at least one row"),
        (teacher(0), torch.tensor(1.0), r"example: got a tensor \(\)"),
        (teacher(0), {"image": 3}, r"example\.image: got int"),
    ],
    ids=["class", "none", "nothing", "empty", "number", "named"],
)
def test_what_is_distilled_from_what_is_said_by_its_name(student, example, says):
    with pytest.raises(UserError, match=says):
        kdsearch.Distillation(student, teacher(0), ["kd"], example)
    with pytest.raises(UserError, match=r"samples: got a tensor \(\)"):
        kdsearch.export(teacher(0), torch.tensor(1.0), "n.onnx")


class Scores(Compressor[NoOptions]):
    side = "file"

    def plan(self, subject):
        return Plan({"score": subject.score(subject.model)})


def test_a_quantizer_that_needs_a_study_says_so(tmp_path):
    with pytest.raises(PluginError, match="Expected a study"):
        kdsearch.export(teacher(0), IMAGES, tmp_path / "net.onnx", quantize=Scores)
