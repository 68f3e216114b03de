"""Weight matrices, tensors in their place, and what passes between parts of a module."""

import pytest
import torch
from torch import Tensor, nn

from kdsearch.ops.record import passing
from kdsearch.ops.weights import differentiable, gradients, substituted, weight_matrices
from kdsearch.testing.contract import changed, trace
from kdsearch.testing.models import small_resnet


class Tied(nn.Module):
    """Its embedding is its classifier; positions and scales are no matrices that products are taken with."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(5, 4)
        self.positions = nn.Parameter(torch.zeros(3, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.recurrent = nn.LSTM(4, 4, batch_first=True)
        self.norm = nn.LayerNorm([3, 4])
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions
        x = self.norm(self.recurrent(self.attention(x, x, x)[0])[0])
        out: Tensor = self.head(x)
        return out


def test_weight_matrices_are_those_of_products() -> None:
    assert set(weight_matrices(Tied())) == {
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
        "head.weight",
    }
    net = small_resnet(widths=(4, 8)).module
    assert list(weight_matrices(net)) == [name for name, each in net.named_parameters() if each.dim() > 1]


def test_a_weight_is_substituted_wherever_it_is_used() -> None:
    torch.manual_seed(0)
    net, ids = Tied(), torch.tensor([[0, 1, 2]])
    other = {name: torch.randn_like(each) for name, each in net.named_parameters()}
    before = trace(net)
    with substituted(net, other):
        found = net(ids)
    assert not changed(before, trace(net))
    net.load_state_dict(other, strict=False)
    torch.testing.assert_close(found, net(ids))


def test_the_weights_come_back_also_after_an_error() -> None:
    net = nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError), substituted(net, {"weight": torch.zeros(2, 2)}):
        raise ZeroDivisionError
    assert isinstance(net.weight, nn.Parameter)
    with pytest.raises(KeyError, match="wieght"), substituted(net, {"wieght": torch.zeros(2, 2)}):
        pass


@pytest.mark.parametrize("is_frozen", [False, True])
def test_gradients_are_those_of_backward_and_leave_no_trace(is_frozen: bool) -> None:
    student, x = small_resnet(depth=2), torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = student.copy().module.train()
    plain(x).square().sum().backward()
    student.module.requires_grad_(not is_frozen)
    before = trace(student.module)
    with differentiable(student.module) as leaves:
        found = gradients(student.module(x).square().sum(), leaves)
    assert not changed(before, trace(student.module))
    for name, weight in plain.named_parameters():
        if weight.dim() > 1:
            torch.testing.assert_close(found[name], weight.grad)


def test_what_nothing_depends_on_has_gradient_zero() -> None:
    leaves = {"a": torch.ones(2, requires_grad=True), "b": torch.ones(3, requires_grad=True)}
    found = gradients(2 * leaves["a"].sum(), leaves)
    assert found["a"].tolist() == [2, 2]
    assert found["b"].tolist() == [0, 0, 0]
    assert gradients(torch.zeros(()), leaves)["a"].tolist() == [0, 0]


class Several(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return x + 1, "said"


def test_what_passes_is_seen_in_order_and_can_be_replaced() -> None:
    net = nn.Sequential(nn.Identity(), Several())
    seen: list[tuple[str, float]] = []

    def change(path: str, x: Tensor) -> Tensor | None:
        seen.append((path, float(x)))
        return 10 * x if path == "1" else None

    before = trace(net)
    with passing(net, ["0", "1"], change), passing(net, ["1"], lambda _, x: x + 5, "input"):
        out, said = net(torch.tensor(1.0))
    assert seen == [("0", 1.0), ("1", 7.0)]
    assert (float(out), said) == (70.0, "said")
    assert not changed(before, trace(net))
