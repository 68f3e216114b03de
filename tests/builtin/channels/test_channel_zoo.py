"""Networks as they come from torchvision and timm, pruned to 70 % of their multiply-accumulates."""

import warnings

import pytest
import torch

from kdsearch.builtin.channels.exact import difference, redrawn
from kdsearch.builtin.channels.pruner import Channels, ChannelsOptions
from kdsearch.builtin.channels.surgery import Cut
from kdsearch.builtin.channels.tracing import tensors_of
from kdsearch.kinds import IO, Field, Model
from kdsearch.kit.costs import count_module
from tests.builtin.channels.bare import bare
from tests.builtin.channels.zoo import ZOO


@pytest.mark.parametrize("name", list(ZOO))
def test_a_network_of_the_zoo_is_pruned_exactly(name):
    make, fields = ZOO[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = make().eval()
    io = IO(fields, (Field("logits", "logits", (10,)),))
    given = bare(Model(net, tuple(each.name for each in fields)), io)
    pruner = Channels(ChannelsOptions(macs=0.7))
    plan = pruner.plan(given)
    small = pruner.apply(given.model, plan).module
    one, probe = (tuple(each.noise(n, torch.Generator().manual_seed(7)) for each in fields) for n in (1, 3))
    assert 0.5 < count_module(small, one).macs / count_module(net, one).macs <= 0.7
    assert difference(redrawn(net), Cut.from_json(plan.edits["steps"][0]), probe) == ""
    with torch.no_grad():
        assert [each.shape for each in tensors_of(small(*probe))] == [each.shape for each in tensors_of(net(*probe))]
