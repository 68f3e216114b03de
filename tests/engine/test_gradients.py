"""Gradients of the terms at the start, against plain PyTorch, and what measuring them leaves behind: nothing."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdsearch.builtin.distill import Distill, DistillOptions
from kdsearch.engine.feeds import order_of
from kdsearch.engine.gradients import TermGradients, gradient_of
from kdsearch.errors import TrialError
from kdsearch.kinds import Feed, Update
from kdsearch.store.hashing import derive
from kdsearch.testing.training import training
from tests.engine.little import Phases, Plain, Queue, images, mlp, resnet, same, source, state

SEED = 5


def queued(folder, **changes):
    models = {"student": resnet()}
    distillers = {"q": Queue()}
    given = {"teachers": {"teacher": resnet(1)}, "distillers": distillers, "normalize": True, "batch_size": 12}
    return training(Distill(DistillOptions()), models, source(40), folder, seed=SEED, **{**given, **changes})


def test_inner_products_are_those_of_plain_pytorch(tmp_path):
    run = training(
        Plain(lambda s: iter([Update({"task": s.task(), "d.first": s.student["logits"][:, 0].mean()})])),
        {"student": mlp()}, source(40), tmp_path, batch_size=12, seed=SEED,
    )  # fmt: skip
    found = run.gradients_at_start(3)

    net, data = mlp().module, images(40)
    ids = [f"train-{i:05d}" for i in range(40)]
    rows, values = [], []
    for index in order_of(Feed("train", 12), "train", ids, 0, derive(SEED, "plain"))[:3]:
        logits = net(data["image"][index])
        for value in (F.cross_entropy(logits, data["label"][index]), logits[:, 0].mean()):
            grads = torch.autograd.grad(value, list(net.parameters()), retain_graph=True)
            rows.append(torch.cat([g.flatten() for g in grads]).double())
            values.append(value.item())
    expected = torch.stack(rows) @ torch.stack(rows).T
    assert found.names == ("task", "d.first")
    assert found.inner.shape == (3, 2, 3, 2)
    assert torch.allclose(found.inner.reshape(6, 6), expected, rtol=1e-5, atol=1e-9)
    assert found.values.tolist() == pytest.approx([sum(values[0::2]) / 3, sum(values[1::2]) / 3], rel=1e-6)
    task, first = found.values.tolist()
    assert found.scales == {"task": 1.0, "d.first": pytest.approx(task / abs(first))}


def test_nothing_is_moved_or_written(tmp_path):
    run = queued(tmp_path / "measured")
    torch.manual_seed(1)
    generator = torch.get_rng_state()
    found = run.gradients_at_start(2)
    assert found.names == ("task", "q.near")
    assert torch.equal(torch.get_rng_state(), generator)
    assert not list(tmp_path.glob("measured/**/*"))
    student, queue = run.setup.models["student"].module, run.setup.distillers["q"]
    assert same(state(student), state(resnet().module))
    assert all(p.grad is None and p.requires_grad for p in student.parameters())
    assert int(queue.at) == 0


def test_measuring_twice_is_the_same(tmp_path):
    first, again = queued(tmp_path).gradients_at_start(2), queued(tmp_path).gradients_at_start(2)
    assert torch.equal(first.inner, again.inner)
    assert torch.equal(first.values, again.values)


def test_more_batches_than_there_are(tmp_path):
    assert queued(tmp_path).gradients_at_start(100).inner.shape == (4, 2, 4, 2)


def test_a_term_that_does_not_depend_on_the_student_is_zero():
    net = nn.Linear(2, 1)
    assert gradient_of(torch.tensor(3.0), list(net.parameters())).tolist() == [0.0, 0.0, 0.0]
    other = nn.Linear(2, 1)
    assert gradient_of(other(torch.ones(2)).sum(), list(net.parameters())).tolist() == [0.0, 0.0, 0.0]
    assert gradient_of(net.bias.sum(), list(net.parameters())).tolist() == [0.0, 0.0, 1.0]


def test_a_term_that_a_batch_lacks_counts_as_zero():
    g = torch.tensor([1.0, 2.0])
    found = TermGradients.of([{"task": (2.0, g)}, {"task": (4.0, g), "d.x": (6.0, 3 * g)}])
    assert found.values.tolist() == [3.0, 3.0]
    assert found.inner[1].tolist() == [[[5.0, 0.0], [5.0, 15.0]], [[15.0, 0.0], [15.0, 45.0]]]


def test_a_phase_that_trains_no_model_of_the_study_has_none(tmp_path):
    def phases(own, setup):
        yield from Plain(train=[setup.optim({"extra": own.extra})]).phases(setup)

    run = training(Phases(phases, extra=nn.Linear(1, 1)), {"student": mlp()}, source(40), tmp_path)
    assert run.gradients_at_start(1) is None


def test_a_term_that_is_not_finite_fails_the_trial(tmp_path):
    run = training(
        Plain(lambda s: iter([Update({"d.bad": s.student["logits"].sum() * float("nan")})])),
        {"student": mlp()}, source(40), tmp_path,
    )  # fmt: skip
    with pytest.raises(TrialError, match=r"d\.bad"):
        run.gradients_at_start(1)
