"""Recovery without a study by the numbers: what its loss is, where positions count, what moves and how far."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from kdsearch.builtin.text.causal_lm import CausalLm
from kdsearch.kinds import HIDDEN, IO, Batch, Field, Model, NoOptions
from kdsearch.python.recovery import recover

N_TOKENS = 5
TEXTS = Batch(
    ("a", "b"),
    {
        "tokens": torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0]]),
        "mask": torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]),
        "next": torch.tensor([[2, 3, HIDDEN, HIDDEN], [HIDDEN] * 4]),
    },
)
COUNTED = [(0, 0), (0, 1), (0, 2), (1, 0)]


class Words(nn.Module):
    """Logits of a token's own."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(N_TOKENS, 4), nn.Linear(4, N_TOKENS)

    def forward(self, tokens, mask):
        return self.head(self.words(tokens))


def made(seed=0):
    torch.manual_seed(seed)
    return Model(Words().eval(), ("tokens", "mask"), outputs=("logits",))


def recovered(student, teacher, **options):
    """The loss of the one step."""
    task = CausalLm(NoOptions())
    fields = (
        Field("tokens", "tokens", (4,), "int64", n_values=N_TOKENS),
        Field("mask", "mask", (4,), "int64"),
        Field("next", "class", (4,), "int64", use="target"),
    )
    io: IO = task.io(fields, {})
    data = SimpleNamespace(split=lambda name: SimpleNamespace(ids=TEXTS.ids, load=lambda at: TEXTS))
    return recover(student, teacher, task, io, data, 1, 0, lambda share, what: None, **options)


def log_softmax(z):
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def logits(model):
    with torch.no_grad():
        return model.module(TEXTS["tokens"], TEXTS["mask"]).double().numpy()


def test_the_teacher_has_no_word_on_padding():
    teacher, student = made(), made(1)
    s, t = logits(student), logits(teacher)
    own = -np.mean([log_softmax(s)[0, at, to] for at, to in ((0, 2), (1, 3))])
    p, q = ({at: log_softmax(each[at] / 4) for at in COUNTED} for each in (t, s))
    told = 16 * np.mean([(np.exp(p[at]) * (p[at] - q[at])).sum() for at in COUNTED])
    assert recovered(student, teacher) == pytest.approx(own + told, rel=1e-5)


def test_a_plan_s_factors_are_on_the_learning_rate():
    """The first step of AdamW is by the learning rate, whatever the gradient: w - factor lr (.01 w + sign g)."""
    student = made(1)
    before = {name: each.detach().clone() for name, each in student.module.named_parameters()}
    recovered(student, made(), lr_scale={"words.weight": 0.0, "head.weight": 0.1})
    moved = {name: before[name] - each.detach() for name, each in student.module.named_parameters()}
    assert (moved["words.weight"] == 0).all()
    for name, rate in (("head.weight", 1e-4), ("head.bias", 1e-3)):
        assert (moved[name] - rate * 0.01 * before[name]).abs().numpy() == pytest.approx(rate, rel=2e-3), name


def test_what_drops_does_so_by_the_seed_and_draws_nothing_of_the_caller_s():
    found = []
    for state in (5, 6):
        student, teacher = made(1), made()
        student.module.head = nn.Sequential(nn.Dropout(0.5), student.module.head)
        torch.manual_seed(state)
        before = torch.get_rng_state()
        loss = recovered(student, teacher)
        assert torch.equal(torch.get_rng_state(), before)
        found.append((loss, student.module.words.weight.detach().clone()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
