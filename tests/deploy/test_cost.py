"""Counted MACs against the textbook's sums."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet

from kdsearch.deploy.cost import count, count_module
from kdsearch.kinds import IO, Field, Model
from tests.deploy.nets import DIGITS, Attention, Lstm, Residual


def cifar_resnet(n, widths=(16, 32, 64)):
    """He et al. 2016: 6n + 2 layers, option B shortcuts, 32 x 32 images, 10 classes; and its MACs by hand."""
    c, size = widths[0], 32
    macs, params, layers = size * size * 27 * c, 27 * c, [nn.Conv2d(3, c, 3, 1, 1, bias=False)]
    layers += [nn.BatchNorm2d(widths[0]), nn.ReLU()]
    params += 2 * widths[0]
    for stage, width in enumerate(widths):
        for index in range(n):
            stride = 2 if stage and not index else 1
            size //= stride
            short = None
            if stride > 1 or c != width:
                short = nn.Sequential(nn.Conv2d(c, width, 1, stride, bias=False), nn.BatchNorm2d(width))
                macs, params = macs + size * size * c * width, params + c * width + 2 * width
            layers.append(resnet.BasicBlock(c, width, stride, short))
            macs += size * size * 9 * (c * width + width * width)
            params += 9 * (c * width + width * width) + 4 * width
            c = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10)]
    return nn.Sequential(*layers), macs + 10 * c, params + 10 * c + 10


@pytest.mark.parametrize("n", [1, 3])
def test_cifar_resnets_are_exact(n):
    net, macs, params = cifar_resnet(n)
    io = IO((Field("image", "image", (3, 32, 32)),), (Field("logits", "logits", (10,)),))
    found = count(Model(net, ("image",)), io)
    assert (found.macs, found.params) == (macs, params)


def test_grouped_transposed_and_one_dimensional_convolutions():
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, 1, 1, groups=4), nn.ConvTranspose2d(8, 6, 2, 2), nn.Flatten(2), nn.Conv1d(6, 5, 3, 1, 1)
    )
    expected = 36 * 9 * 1 * 8 + 36 * 8 * 6 * 4 + 144 * 6 * 5 * 3
    assert count_module(net, [torch.zeros(1, 4, 6, 6)]).macs == expected


def test_attention_is_counted():
    n, d = 7, 16
    assert count_module(Attention(d, 2), [torch.zeros(1, n, d)]).macs == n * d * 3 * d + 2 * n * n * d + n * d * d
    encoder = nn.TransformerEncoderLayer(d, 2, 32, batch_first=True)
    assert count_module(encoder, [torch.zeros(1, n, d)]).macs == n * (4 * d * d + 2 * d * 32) + 2 * n * n * d


def test_lstm_steps_are_counted():
    t, c, h = 6, 8, 24
    layer = [t * 4 * h * (width + h) for width in (c, 2 * h)]
    assert count_module(Lstm(), [torch.zeros(1, t, c)]).macs == 2 * sum(layer) + 2 * h * 10


def test_a_network_that_looks_at_values_is_counted_too():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.attention = nn.Linear(4, 4), Attention(4, 1)

        def forward(self, x):
            return self.attention(self.a(x)) if x.sum().item() == 0 else x

    assert count_module(Looks(), [torch.zeros(1, 3, 4)]).macs == 3 * 16 + 3 * 4 * 12 + 2 * 9 * 4 + 3 * 16


def test_shared_weights_count_once_and_nothing_is_left_changed():
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    net.append(net[0])
    found = count_module(net.train(), [torch.zeros(1, 8)])
    assert found.params == 72 + 16
    assert found.macs == 128
    assert net.training
    assert int(net[1].num_batches_tracked) == 0


def test_dynamic_sizes_count_as_eight():
    model = Model(nn.Linear(4, 5), ("x",))
    assert count(model, IO((Field("x", "sequence", (None, 4)),), ())).macs == 8 * 20
    expected = 64 * 9 * 16 + 2 * 64 * 9 * 16 * 16 + 16 * (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32) + 32 * 10
    assert count(Model(Residual(), ("image",)), DIGITS).macs == expected
