"""Images reach a trained network in the normalisation that it was trained on, and what was taken is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import kdsearch
from kdsearch.host import Host
from kdsearch.kinds import Normalization, stated
from kdsearch.python.fed import in_its_own
from kdsearch.python.own_data import open_data
from kdsearch.python.pieces import as_model


class Bright(nn.Module):
    """Class 1 where the mean of what it is fed is above a threshold."""

    def __init__(self, threshold):
        super().__init__()
        self.head = nn.Linear(1, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[0.0], [1.0]]))
            self.head.bias.copy_(torch.tensor([0.0, -threshold]))

    def forward(self, x):
        return self.head(x.mean((1, 2, 3))[:, None])


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """Even grey images of .8 to 1, those above .9 of class 1."""
    file = tmp_path_factory.mktemp("bright") / "data.npz"
    pixels = np.random.default_rng(0).uniform(0.8, 1, 400)
    pixels = np.where(abs(pixels - 0.9) < 0.005, 0.85, pixels)
    image = np.broadcast_to((255 * pixels).round()[:, None, None], (400, 4, 4)).astype(np.uint8)
    np.savez(file, image=image, label=(pixels > 0.9).astype(np.int64))
    return str(file)


def test_what_was_trained_on_pixels_gets_pixels(bright, tmp_path):
    """By their own mean and std a quarter would be wrong."""
    asked = {"data": bright, "formats": ["onnx-fp32"], "progress": False, "inside": {"engine": "torchscript"}}
    found = kdsearch.compress(Bright(0.9), tmp_path, **asked)
    assert found["exports"][0]["accuracy"] == 1.0
    (said,) = found["notes"]
    assert said.startswith(
        'images are fed by {"mean": 0.0, "std": 1.0} (none), which validation chose; accuracy on validation: the data\'s own 0.'
    )
    assert "none 1, " in said
    preprocessing = json.loads((tmp_path / "Bright-fp32.json").read_text())["use"]["preprocessing"]
    assert (preprocessing["mean"], preprocessing["std"]) == ([0.0], [1.0])
    asked_for = kdsearch.compress(Bright(0.9), tmp_path, normalize="none", **asked)
    assert (asked_for["exports"][0]["accuracy"], asked_for["notes"]) == (1.0, [])


@pytest.mark.parametrize("timm", [None, {"mean": (0.3,), "std": (0.2,)}])
def test_where_nothing_is_clearly_better_it_is_what_timm_says_or_the_data_s_own(timm, bright):
    """One class at every image, however it is fed."""
    opened, net = open_data(bright, "auto", 0, Host.load()), Bright(1e4)
    if timm:
        net.pretrained_cfg = timm
    found, said = in_its_own(opened, as_model(net, opened.io, "net"), opened.io)
    own = stated(opened.arranged.facts)
    assert stated(found.arranged.facts) == (Normalization(**timm) if timm else own)
    assert f"({'timm' if timm else 'the data'}'s" in said
    assert "none of the others is clearly better" in said
    train, before = found.arranged.split("train"), opened.arranged.split("train")
    assert train.ids == before.ids
    if timm:
        pixels = before.load([0])["image"] * own.std[0] + own.mean[0]
        torch.testing.assert_close(train.load([0])["image"], (pixels - 0.3) / 0.2)
