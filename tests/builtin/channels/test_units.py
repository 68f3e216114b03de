"""Units and halves that gate one another, activations with weights: each goes, and the cut network is the network with zeros."""

import pytest
import torch
from torch import nn

from kdsearch.builtin.channels.exact import difference
from kdsearch.builtin.channels.pruner import Channels, ChannelsOptions
from kdsearch.builtin.channels.surgery import Cut, masked_copy
from kdsearch.kinds import IO, Field, Model
from tests.builtin.channels.bare import bare

STEPS = Field("x", "sequence", (6, 10))


class Activated(nn.Module):
    def __init__(self, activation, halves=1):
        super().__init__()
        self.first, self.activation, self.second = nn.Linear(10, 24 * halves), activation, nn.Linear(24, 10)

    def forward(self, x):
        return self.second(self.activation(self.first(x.mean(1))))


class Cells(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell, self.head = kind(10, 24), nn.Linear(24, 10)

    def forward(self, x):
        state = None
        for at in range(x.shape[1]):
            state = self.cell(x[:, at], state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Projected(nn.Module):
    """The state is projected, and its size is not that of the units."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(10, 32, proj_size=8, batch_first=True)
        self.first, self.second = nn.Linear(8, 24), nn.Linear(24, 10)

    def forward(self, x):
        return self.second(self.first(self.layer(x)[0][:, -1]).relu())


def pruned(net, share=0.8):
    """The cut network, and what was cut; checked to be the network with zeros."""
    given = bare(Model(net.eval(), ("x",)), IO((STEPS,), (Field("logits", "logits", (10,)),)))
    pruner = Channels(ChannelsOptions(params=share, macs=None, round_to=1))
    plan, x = pruner.plan(given), STEPS.noise(5, torch.Generator().manual_seed(1))
    small, cut = pruner.apply(given.model, plan).module, Cut.from_json(plan.edits["steps"][0])
    assert difference(net, cut, (x,)) == ""
    with torch.no_grad():
        assert torch.allclose(small(x), masked_copy(net, cut)(x), atol=1e-5)
    return small, cut


@pytest.mark.parametrize(
    ("activation", "halves"), [(nn.PReLU(), 1), (nn.PReLU(24), 1), (nn.LogSigmoid(), 1), (nn.GLU(-1), 2)]
)
def test_channels_pass_activations(activation, halves):
    torch.manual_seed(0)
    small, _ = pruned(Activated(activation, halves))
    n = small.second.in_features
    assert n < 24
    assert small.first.out_features == halves * n
    assert getattr(activation, "num_parameters", 1) == 1 or small.activation.num_parameters == n


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
def test_units_of_cells_are_those_of_every_gate(kind, gates):
    torch.manual_seed(0)
    net = Cells(kind)
    small, cut = pruned(net)
    n = small.cell.hidden_size
    assert n < 24
    stay = [at for at in range(24) if at not in cut.slices["cell.weight_hh", 1]]
    full = net.cell.weight_ih.detach().reshape(gates, 24, 10)[:, stay].reshape(gates * n, 10)
    assert torch.equal(small.cell.weight_ih, full)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_a_layer_that_projects_its_state_stays_and_all_else_goes():
    torch.manual_seed(0)
    small, _ = pruned(Projected(), 0.95)
    assert (small.layer.hidden_size, small.layer.proj_size) == (32, 8)
    assert small.first.out_features < 24
