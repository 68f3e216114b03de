"""A search space of your own: the fields of a spec, and how to build one. `own_space.yaml` names it by its path.

kdsearch run examples/own_space.yaml --allow-code own_space.py:Plain
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from kdsearch.kinds import IO, Model, Options, SearchSpace, searched
from kdsearch.kinds.found_taps import found_taps


class PlainSpec(Options):
    """Where a study leaves a field open, it is searched over the range that `searched` declares."""

    widths: Annotated[tuple[int, int, int], searched(4, 8, 12, 16, 24, each=3)] = Field((8, 16, 16))
    kernel: Annotated[Literal[3, 5], searched(3, 5)] = Field(3, description="of every convolution, in pixels")
    act: Annotated[Literal["relu", "silu"], searched("relu", "silu")] = "relu"


class Plain(SearchSpace[PlainSpec]):
    """Three convolutions, the last two of stride 2, and a linear classifier. No cost formula: costs are counted."""

    def build(self, spec: PlainSpec, io: IO) -> Model:
        image, logits = io.inputs[0], io.outputs[0]
        layers: list[nn.Module] = []
        width = image.shape[0]
        for i, out in enumerate(spec.widths):
            layers += [
                nn.Conv2d(width, out, spec.kernel, stride=1 if i == 0 else 2, padding=spec.kernel // 2, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU() if spec.act == "relu" else nn.SiLU(),
            ]
            width = out
        net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, logits.shape[0]))
        taps = found_taps(net, [torch.zeros(1, *image.shape)])  # stage[0..2], penultimate, logits
        return Model(net, (image.name,), taps, (logits.name,), name="plain")
