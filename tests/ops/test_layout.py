"""Channels-last networks: what crashes a CPU's code is computed otherwise, to equal gradients."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdsearch.engine.loop import placed
from kdsearch.ops.layout import channels_last, guarded

TRAINED = """
import sys, tempfile, torch
from pathlib import Path
from kdsearch.builtin.distill import Distill, DistillOptions
from kdsearch.kinds import Batch
from kdsearch.search.probe import LiveProbe
from kdsearch.search.scoring import initialised
from kdsearch.testing.models import noise_batch, small_resnet
from kdsearch.testing.training import TensorSource, training
torch.set_num_threads(1)
image = (1, int(sys.argv[1]), int(sys.argv[1]))
widths = (int(sys.argv[2]), 8, 8)
rows = noise_batch(8, image=image)
if sys.argv[3] == "trained":
    models = {"student": small_resnet(widths, image=image)}
    training(Distill(DistillOptions()), models, TensorSource({"train": rows}), Path(tempfile.mkdtemp()), batch_size=4).run()
else:
    student, teacher = initialised(small_resnet(widths, image=image), "default", 0), small_resnet(widths, image=image)
    probe = LiveProbe(Batch(tuple("abcdefgh"), rows), None, None, teacher)
    for model in (student, teacher):
        for _ in range(3):
            model.module(probe.batch["image"]).square().mean().backward()
print("through")
"""


@pytest.mark.parametrize(("side", "width", "way"), [(112, 8, "trained"), (112, 4, "scored")])
def test_a_narrow_shortcut_does_not_kill_the_process(side, width, way):
    """Where oneDNN runs its code for AVX512 it writes beyond a buffer; the process dies at once or when it ends."""
    run = subprocess.run(
        [sys.executable, "-c", TRAINED, str(side), str(width), way], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, "through\n"), run.stderr


@pytest.mark.parametrize("channels", [1, 8])
@pytest.mark.parametrize("stride", [2, (1, 2)])
def test_gradients_are_those_of_the_default_layout(channels, stride):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(channels, 12, 1, stride), nn.Tanh(), nn.Conv2d(12, 5, 3))
    plain = copy.deepcopy(net)
    x = torch.randn(3, channels, 14, 10)
    cast, own = x.to(memory_format=torch.channels_last).requires_grad_(), x.clone().requires_grad_()
    first = F.conv2d(own[:, :, :: plain[0].stride[0], :: plain[0].stride[1]], plain[0].weight, plain[0].bias)
    plain[1:](first).square().sum().backward()
    placed(placed(net, torch.device("cpu")), torch.device("cpu"))(cast).square().sum().backward()
    torch.testing.assert_close(cast.grad, own.grad)
    for (name, made), known in zip(net.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(made, known), name
        torch.testing.assert_close(made.grad, known.grad, msg=name)


class Maps(nn.Module):
    """Weights and buffers of each rank."""

    def __init__(self):
        super().__init__()
        self.volume, self.map, self.line = nn.Conv3d(1, 3, 3, padding=1), nn.Conv2d(3, 4, 3), nn.Conv1d(4, 5, 3)
        for rank in (3, 4, 5):
            self.register_buffer(f"of_{rank}", torch.ones(2, 3, *[2] * (rank - 2)))

    def forward(self, x):  # (B, 1, T, H, W)
        maps = self.map(self.volume(x).mean(2) + self.of_5.mean() + self.of_4.mean())
        return self.line(maps.flatten(2) * self.of_3.mean()).mean(2)


def test_weights_of_volumes_keep_their_layout():
    """torch's channels-last is for four axes alone: a network of 3-D convolutions trains and learns as it would without."""
    torch.manual_seed(0)
    net = Maps()
    plain, x = copy.deepcopy(net), torch.randn(2, 1, 3, 6, 6)
    held = net.of_4
    placed(net, torch.device("cpu"))(x).square().sum().backward()
    plain(x).square().sum().backward()
    for (name, made), known in zip(net.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(made, known), name
        torch.testing.assert_close(made.grad, known.grad, msg=name)
    assert net.of_4 is held
    last = {name for name, each in net.state_dict().items() if each.ndim > 2 and not each.is_contiguous()}
    assert last == {"map.weight", "of_4"}


def test_only_such_a_layer_is_fed_otherwise():
    """A map of one channel, or a 1x1 kernel, is contiguous either way: the strides decide."""
    seen = {}
    layers = {
        "narrow": nn.Conv2d(8, 4, 1, 2),
        "grey": nn.Conv2d(1, 4, 1, 2),
        "wide": nn.Conv2d(16, 4, 1, 2),
        "of 3": nn.Conv2d(8, 4, 3, 2),
        "without stride": nn.Conv2d(8, 4, 1),
    }
    for name, layer in layers.items():
        channels_last(layer)
        forward = layer._conv_forward
        layer._conv_forward = lambda x, w, b, name=name, of=forward: (
            seen.update({name: (x.stride()[1], w.stride()[1:])}),
            of(x, w, b),
        )[1]
        layer(torch.zeros(2, layer.in_channels, 6, 6).to(memory_format=torch.channels_last))
    assert {name: channel for name, (channel, _) in seen.items()} == {
        "narrow": 36,
        "grey": 36,
        "wide": 1,
        "of 3": 1,
        "without stride": 1,
    }
    assert seen["narrow"][1] == (1, 1, 1)
    assert seen["wide"][1] == (1, 16, 16)
    assert guarded(layers["wide"]) is layers["wide"]
    assert [len(layer._forward_pre_hooks) for layer in map(guarded, layers.values())] == [1, 1, 0, 0, 0]


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_what_is_exported_has_no_operators_of_it():
    layer = channels_last(nn.Conv2d(8, 4, 1, 2))
    graph = torch.export.export(layer, (torch.zeros(2, 8, 6, 6),)).graph
    assert [node.name for node in graph.nodes if node.op == "call_function"] == ["conv2d"]
    assert not {"aten::flatten", "aten::view"} & {
        node.kind() for node in torch.jit.trace(layer, torch.zeros(2, 8, 6, 6)).inlined_graph.nodes()
    }
