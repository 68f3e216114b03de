"""Gradients of the terms at the start, against plain PyTorch, and what measuring them leaves behind: nothing."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdsearch.builtin.distill import Distill, DistillOptions
from kdsearch.engine.feeds import order_of
from kdsearch.engine.gradients import gradients_of, means_of, measured
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
            rows.append([g.double() for g in grads])
            values.append(value.item())
    assert found.names == ("task", "d.first")
    assert found.within.shape == found.across.shape == (4, 2, 2)
    for parameter in range(4):
        inner = torch.tensor([[torch.sum(a[parameter] * b[parameter]) for b in rows] for a in rows]).view(3, 2, 3, 2)
        for t, u in itertools.product(range(2), range(2)):
            same = [inner[b, t, b, u].item() for b in range(3)]
            apart = [inner[b, t, c, u].item() for b, c in itertools.permutations(range(3), 2)]
            assert found.within[parameter, t, u].item() == pytest.approx(sum(same) / 3, rel=1e-4, abs=1e-9)
            assert found.across[parameter, t, u].item() == pytest.approx(sum(apart) / 6, rel=1e-4, abs=1e-9)
    assert found.values.tolist() == pytest.approx([sum(values[0::2]) / 3, sum(values[1::2]) / 3], rel=1e-6)
    task, first = found.values.tolist()
    assert found.scales == {"task": 1.0, "d.first": pytest.approx(task / abs(first))}


def test_the_task_s_mean_is_of_the_batches_that_show_a_target():
    batches = [{"task": 0.0, "kd": 1.0}, {"task": 3.0, "kd": 0.0}, {"task": 1.0}]
    assert means_of(batches) == {"task": 2.0, "kd": pytest.approx(1 / 3)}
    assert means_of([{"task": 0.0}]) == {"task": 0.0}
    found = measured({name: (value, [torch.zeros(1)]) for name, value in batch.items()} for batch in batches)
    assert dict(zip(found.names, found.values.tolist(), strict=True)) == means_of(batches)


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
    assert torch.equal(first.within, again.within)
    assert torch.equal(first.across, again.across)
    assert torch.equal(first.values, again.values)


def test_more_batches_than_there_are(tmp_path):
    all_of_them, four = queued(tmp_path).gradients_at_start(100), queued(tmp_path).gradients_at_start(4)
    assert torch.equal(all_of_them.within, four.within)


def test_a_term_that_does_not_depend_on_the_student_is_zero():
    net, other = nn.Linear(2, 1), nn.Linear(2, 1)
    for value in (torch.tensor(3.0), other(torch.ones(2)).sum()):
        weight, bias = gradients_of(value, list(net.parameters()))
        assert (weight.tolist(), bias.tolist()) == ([[0.0, 0.0]], [0.0])
    weight, bias = gradients_of(net.bias.sum(), list(net.parameters()))
    assert (weight.tolist(), bias.tolist()) == ([[0.0, 0.0]], [1.0])


def test_a_term_that_a_batch_lacks_counts_as_zero():
    g = torch.tensor([1.0, 2.0])
    found = measured([{"task": (2.0, [g])}, {"task": (4.0, [g]), "d.x": (6.0, [3 * g])}])
    assert found.values.tolist() == [3.0, 3.0]
    assert found.within.tolist() == [[[5.0, 7.5], [7.5, 22.5]]]
    assert found.across.tolist() == [[[5.0, 7.5], [7.5, 0.0]]]


def test_one_batch_has_no_other():
    assert measured([{"task": (2.0, [torch.ones(2)])}]).across.tolist() == [[[0.0]]]


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
