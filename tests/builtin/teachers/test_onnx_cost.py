"""What an ONNX file costs equals what the network that it was written from costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from kdsearch.builtin.teachers.onnx_cost import cost_of_file
from kdsearch.deploy.cost import count_module

NETS = {
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=4),
            nn.ConvTranspose2d(8, 4, 2, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 5),
        ),
        (3, 16, 16),
    ),
    "products": (lambda: nn.Sequential(nn.Linear(12, 6), nn.GELU(), nn.Linear(6, 3, bias=False)), (7, 12)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("rows", [0, 4], ids=["dynamic batch", "batch of 4"])
def test_weights_and_macs_are_the_networks(name: str, rows: int, tmp_path: Path) -> None:
    build, shape = NETS[name]
    net = build().eval()
    axes = {"input": {0: "batch"}} if rows == 0 else None
    file = tmp_path / "net.onnx"
    torch.onnx.export(
        net, (torch.zeros(rows or 2, *shape),), str(file), input_names=["input"], dynamic_axes=axes, dynamo=False
    )
    expected = count_module(net, [torch.zeros(1, *shape)])
    found = cost_of_file(file)
    assert expected.macs > 0
    assert (found.params, found.macs) == (expected.params, expected.macs)
