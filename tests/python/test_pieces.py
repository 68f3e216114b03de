"""Pieces without a study: values against plain computation, and what is wrong is named."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import kdsearch
from kdsearch.errors import DataError, PluginError, RefusedError, StudyError, TapError
from kdsearch.kinds import Compressor, Distiller, NoOptions, Plan
from tests.python.tiny_live import teacher

IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 10


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
    assert [each.name for each in (tmp_path / "deep").iterdir()] == ["net.onnx"]


def test_a_file_that_is_too_far_off_is_not_written(tmp_path):
    with pytest.raises(RefusedError, match=r"net\.onnx: differs by .*Expected at most 1e-12"):
        kdsearch.export(teacher(0), IMAGES, tmp_path / "net.onnx", parity=1e-12)
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


class Scores(Compressor[NoOptions]):
    side = "file"

    def plan(self, subject):
        return Plan({"score": subject.score(subject.model)})


def test_a_quantizer_that_needs_a_study_says_so(tmp_path):
    with pytest.raises(PluginError, match="Expected a study"):
        kdsearch.export(teacher(0), IMAGES, tmp_path / "net.onnx", quantize=Scores)
