"""Multiply-accumulates: torch's own counter, which takes every operator apart, is the reference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kdsearch.host import Host
from kdsearch.kinds import SearchSpace
from kdsearch.ops import cost
from kdsearch.ops.cost import multiply_accumulates, stored_values
from tests.deploy.nets import Attention, Lstm

SPACES = sorted(Host.load().names("search_space"))


def by_torch(module: nn.Module, inputs: list[Tensor]) -> int:
    shadow = copy.deepcopy(module).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(*[each.to("meta") for each in inputs])
    return int(counter.get_total_flops()) // 2


@pytest.fixture
def unrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real run, which counts too, would hide what the fast way cannot do."""
    monkeypatch.setattr(cost, "_run_and_count", lambda *_: pytest.fail("was run"))


@pytest.mark.usefixtures("unrun")
@pytest.mark.parametrize("name", SPACES)
def test_networks_of_every_space_count_as_torch_does(name: str) -> None:
    space: SearchSpace[Any] = Host.load().load_class("search_space", name)()
    io, rng = space.example_io(), torch.Generator().manual_seed(0)
    space = space.narrowed(io)
    model = space.build(space.canonical(space.sample(rng)), io)
    fields = [io.input(each) for each in model.inputs]
    inputs = [torch.zeros(1, *each.sizes, dtype=each.torch_dtype) for each in fields]
    assert multiply_accumulates(model.module, inputs) == by_torch(model.module, inputs) > 0


class Calls(nn.Module):
    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *inputs: Tensor) -> Any:
        return self.call(*inputs)


def up(mode: str, size: Any) -> nn.Module:
    return Calls(lambda x: F.interpolate(x, size, mode=mode))


def normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-2:], torch.ones(x.shape[-2:], device=x.device))


OPERATORS: dict[str, tuple[nn.Module, int]] = {
    **{name: (Calls(getattr(F, name)), 3) for name in ("relu", "gelu", "silu", "relu6", "hardswish", "elu", "mish")},
    **{name: (Calls(getattr(torch, name)), 3) for name in ("sigmoid", "tanh", "exp", "rsqrt", "neg")},
    "relu_": (Calls(lambda x: torch.relu_(x + 1)), 3),
    "tanh gelu": (nn.GELU("tanh"), 3),
    "leaky in place": (Calls(lambda x: F.leaky_relu(x * 2, 0.1, inplace=True)), 3),
    "softmax": (nn.Softmax(-2), 3),
    "half softmax": (Calls(lambda x: x.half().softmax(1, dtype=torch.float32)), 3),
    "add": (Calls(lambda x: (x + x) - 2 * x), 4),
    "broadcast": (Calls(lambda x: x * x.mean((2, 3), keepdim=True)), 4),
    "of another type": (Calls(lambda x: x.half() + x), 3),
    "transposed": (Calls(lambda x: x.transpose(1, 2) + x.transpose(1, 2)), 3),
    "in place": (Calls(lambda x: (x + 1).mul_(x).add_(3).div_(x[:1])), 3),
    "divided": (Calls(lambda x: x / x), 3),
    "of integers": (Calls(lambda x: x.long().sigmoid() + x.long().relu()), 3),
    "layer norm": (Calls(normed), 4),
    "nearest 1d": (up("nearest", 7), 3),
    "linear": (up("linear", 5), 3),
    "nearest": (up("nearest", (7, 9)), 4),
    "bilinear": (up("bilinear", (7, 3)), 4),
    "bicubic": (up("bicubic", (4, 6)), 4),
    "trilinear": (up("trilinear", (2, 3, 4)), 5),
    "product": (Calls(lambda x: x @ x.transpose(-1, -2)), 3),
    "product of vectors": (Calls(lambda x: x @ x[0, 0]), 3),
}


@pytest.mark.usefixtures("unrun")
@pytest.mark.parametrize("name", OPERATORS)
@settings(max_examples=5, deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=5, max_size=5), is_last=st.booleans())
def test_operators_answer_as_the_meta_device_does(name: str, sizes: list[int], is_last: bool) -> None:
    module, n_dim = OPERATORS[name]
    x = torch.zeros(sizes[:n_dim], device="meta")
    if is_last and n_dim == 4:
        x = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = module(x)
        with cost.MetaCounter():
            found = module(x)
    assert (found.shape, found.stride(), found.dtype) == (expected.shape, expected.stride(), expected.dtype)
    assert multiply_accumulates(module, [x]) == by_torch(module, [x])


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), nn.Softmax2d()])
@pytest.mark.usefixtures("unrun")
def test_normalisations_keep_shape_and_layout(norm: nn.Module) -> None:
    net = nn.Sequential(norm, nn.Conv2d(4, 3, 2))
    for x in (torch.zeros(1, 4, 5, 6), torch.zeros(1, 4, 5, 6).to(memory_format=torch.channels_last)):
        assert multiply_accumulates(net, [x]) == by_torch(net, [x]) == 4 * 5 * 3 * 4 * 4


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Linear(4, 5), nn.Linear(6, 2)),
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(6)),
        nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(6)),
        Calls(lambda x: x + torch.zeros(3)),
    ],
)
def test_what_does_not_fit_is_said(net: nn.Module) -> None:
    with pytest.raises((RuntimeError, ValueError)):
        multiply_accumulates(net, [torch.zeros(1, 4)])


class Looks(nn.Module):
    """Does what the wrapped network does, once it has looked at the values."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if x.sum().item() == 0 else x


@pytest.mark.parametrize(
    ("net", "shape"), [(Lstm(), (5, 8)), (nn.GRU(4, 3, batch_first=True), (5, 4)), (Attention(8, 2), (5, 8))]
)
def test_a_network_that_looks_at_values_costs_what_it_does_without(net: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.zeros(1, *shape)
    before = torch.backends.mkldnn.enabled
    assert multiply_accumulates(Looks(net), [x]) == multiply_accumulates(net, [x]) == by_torch(net, [x])
    assert torch.backends.mkldnn.enabled == before


@pytest.mark.usefixtures("unrun")
def test_a_count_reads_and_changes_nothing() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).train()
    net.append(net[0])
    state = {name: (each, each.clone()) for name, each in net.state_dict(keep_vars=True).items()}
    with torch.inference_mode():
        assert multiply_accumulates(net, [torch.zeros(1, 8)]) == 128
    assert net.training
    assert net[2] is net[0]
    for name, each in net.state_dict(keep_vars=True).items():
        assert each is state[name][0]
        assert each.requires_grad == isinstance(each, nn.Parameter)
        assert torch.equal(each, state[name][1])


def test_values_that_a_network_keeps_beside_its_parameters():
    class Bank(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kept", torch.zeros(5, 7))
            self.register_buffer("again", self.kept)
            self.register_buffer("answers", torch.zeros(9), persistent=False)
            self.register_buffer("digest", torch.zeros(4, dtype=torch.uint8))

    assert stored_values(Bank()) == 35
    assert stored_values(nn.Linear(3, 4)) == 0
