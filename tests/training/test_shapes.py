"""Shapes of taps and outputs that nobody declares."""

import torch
from torch import nn

from kdsearch.kinds import IO, Field, Model
from kdsearch.training.train import shapes_of

GREY = IO((Field("image", "image", (1, 8, 8)),), (Field("logits", "logits", (3,)),))


def test_they_are_found_wherever_the_network_lies():
    """A teacher stays where the training before put it; the meta device in place of a GPU."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    model = Model(net, ("image",), outputs=("logits", "hidden"))
    net.register_forward_hook(lambda _, args, out: (out, out[:, :2]))
    for device in ("cpu", "meta"):
        net.to(torch.device(device))
        shapes = shapes_of(model, GREY, ["module:0"])
        assert shapes.of("module:0") == (4, 6, 6)
        assert shapes.of("hidden") == (2,)
