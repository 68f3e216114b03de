"""What the loop computes, against plain PyTorch and hand computation."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdsearch.builtin.distill import Distill, DistillOptions
from kdsearch.engine.averages import follow
from kdsearch.engine.conduct import Device, Report
from kdsearch.engine.feeds import order_of
from kdsearch.errors import PluginError, TrialError
from kdsearch.kinds import HIDDEN, Ema, Feed, Model, Optim, Update
from kdsearch.store.hashing import derive
from kdsearch.testing.training import TensorSource, training
from tests.engine.little import (
    CLASSES,
    Phases,
    Plain,
    Queue,
    differing,
    images,
    jitter,
    mlp,
    resnet,
    same,
    source,
    state,
)

SEED = 5


def orders(name, n, batch_size, epoch):
    ids = [f"train-{i:05d}" for i in range(n)]
    return order_of(Feed("train", batch_size), "train", ids, epoch, derive(SEED, name))


@pytest.mark.parametrize(
    ("kind", "clip"), [("adamw", 0.0), ("sgd", 0.0), ("adam", 0.5)], ids=["adamw", "sgd", "adam-clipped"]
)
def test_a_plain_phase_is_a_plain_pytorch_loop(tmp_path, kind, clip):
    """Bit-equal weights and batch statistics after 2 epochs of batches of 12, 12, 12 and 4."""
    optim = {"kind": kind, "lr": 0.02, "weight_decay": 0.1, "momentum": 0.8, "clip": clip, "schedule": "cosine"}
    student = resnet()
    run = training(
        Distill(DistillOptions()),
        {"student": student},
        source(),
        tmp_path,
        epochs=2,
        batch_size=12,
        optim=optim,
        seed=SEED,
    )
    history = run.run().history

    net, data = resnet().module.to(memory_format=torch.channels_last), images(40)
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    made = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=0.02),
        "adam": lambda: torch.optim.Adam(groups, lr=0.02),
        "sgd": lambda: torch.optim.SGD(groups, lr=0.02, momentum=0.8, nesterov=True),
    }[kind]()
    at, means = 0, []
    for epoch in range(2):
        losses = []
        for index in orders("distill", 40, 12, epoch):
            for group in made.param_groups:
                group["lr"] = 0.02 * 0.5 * (1 + math.cos(math.pi * at / 8))
            image = data["image"][index].to(memory_format=torch.channels_last)
            loss = F.cross_entropy(net.train()(image), data["label"][index], reduction="sum") / len(index)
            made.zero_grad()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            made.step()
            losses.append(loss.item())
            at += 1
        means.append(sum(losses) / len(losses))
    assert differing(state(student.module), state(net)) == []
    assert [row["loss"] for row in history] == pytest.approx(means, abs=1e-12)
    assert [row["terms"]["task"] for row in history] == pytest.approx(means, abs=1e-12)
    assert [row["epoch"] for row in history] == [1, 2]


def test_accumulation_of_2_x_20_is_a_batch_of_40(tmp_path):
    """120 samples: the order of the pass is the same, cut otherwise. No batch statistics, no dropout."""
    ends = []
    for batch_size, accumulate in [(40, 1), (20, 2)]:
        student, steps = mlp(), []
        run = training(
            Plain(), {"student": student}, source(120), tmp_path / str(accumulate), epochs=2, batch_size=batch_size, seed=SEED,
            optim={"lr": 0.02, "kind": "adam"}, device=Device(accumulate=accumulate),
            report=Report(step=lambda phase, at, of, loss, steps=steps: steps.append((at, of))),
        )  # fmt: skip
        run.run()
        ends.append((student.module.double().state_dict(), steps))
    (one, steps), (two, steps_of_two) = ends
    assert steps == steps_of_two == [(i, 6) for i in range(1, 7)]
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-6, rtol=0), name


def test_a_short_last_group_counts_as_what_it_is(tmp_path):
    """60 samples in micro-batches of 20, in twos: steps of 40 and of 20, not of 40 and of half of 20."""
    student = mlp()
    lr, weight = 0.1, mlp().module
    training(
        Plain(), {"student": student}, source(60), tmp_path, batch_size=20, seed=SEED, device=Device(accumulate=2),
        optim={"kind": "sgd", "lr": lr, "momentum": 0.0, "schedule": "constant"},
    ).run()  # fmt: skip
    data, order = images(60), orders("plain", 60, 20, 0)
    for index in (order[0] + order[1], order[2]):
        loss = F.cross_entropy(weight(data["image"][index]), data["label"][index])
        grads = torch.autograd.grad(loss, list(weight.parameters()))
        with torch.no_grad():
            for parameter, grad in zip(weight.parameters(), grads, strict=True):
                parameter -= lr * grad
    for a, b in zip(student.module.parameters(), weight.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7, rtol=0)


def test_dropout_and_augmentation_change_by_epoch_and_not_by_worker(tmp_path):
    """0 and 2 workers see the same augmented batches, each sample changed anew in every epoch."""
    ends, seen = [], []
    for workers in (0, 2):
        student, rows = mlp(dropout=0.5), {}

        def step(s, rows=rows):
            for sample, image in zip(s.batch.ids, s.batch["image"], strict=True):
                rows.setdefault(sample, []).append(image.clone())
            yield Update({"task": s.task()})

        run = training(
            Plain(step), {"student": student}, source(augment=jitter), tmp_path / str(workers), epochs=2, batch_size=12,
            augment=True, device=Device(workers=workers),
        )  # fmt: skip
        run.run()
        ends.append(state(student.module))
        seen.append(rows)
    assert same(*ends)
    for sample, versions in seen[0].items():
        assert len(versions) == 2
        assert not torch.equal(*versions)
        assert all(torch.equal(a, b) for a, b in zip(versions, seen[1][sample], strict=True))


def test_weights_of_terms(tmp_path):
    """`d.term` before `d` before 1; the phase's before the recipe's; functions of the clock."""
    student, clocks = mlp(), []

    def step(s):
        out = s.student["logits"].square().mean()
        yield Update({"d.a": out, "d.b": 3 * out, "e.c": 5 * out, "free": 7 * out, "late": 11 * out})

    def late(clock):
        clocks.append((clock.epoch, clock.step, clock.progress, clock.epochs))
        return 0.5 * clock.step

    run = training(
        Plain(step, weights={"e": 0.25, "late": late}), {"student": student}, source(20), tmp_path, epochs=2,
        batch_size=10, weights={"d": 2.0, "d.a": 10.0, "e": 99.0}, optim={"lr": 0.0},
    )  # fmt: skip
    rows = run.run().history
    for epoch, row in enumerate(rows):
        out = row["terms"]["d.a"]
        mean_step = epoch * 2 + 0.5
        factor = 10 + 2 * 3 + 0.25 * 5 + 7
        # lr 0: the two batches' `out` differ, so the clocked term is bounded by its ends
        clocked = [11 * 0.5 * step for step in (epoch * 2, epoch * 2 + 1)]
        assert factor * out + min(clocked) * out <= row["loss"] * (1 + 1e-6)
        assert row["loss"] == pytest.approx(factor * out + 11 * 0.5 * mean_step * out, rel=0.2)
    assert clocks == [(0, 0, 0.0, 2), (0, 1, 0.25, 2), (1, 2, 0.5, 2), (1, 3, 0.75, 2)]


def test_a_weight_moves_the_gradient(tmp_path):
    """One SGD step of lr 1 on w * mean(logits of class 0): the bias moves by -w."""
    for weight in (1.0, 2.5):
        student = mlp()
        before = student.module[4].bias.detach().clone()
        training(
            Plain(lambda s: iter([Update({"d.first": s.student["logits"][:, 0].mean()})])), {"student": student},
            source(12), tmp_path / str(weight), batch_size=12, weights={"d": weight},
            optim={"kind": "sgd", "lr": 1.0, "momentum": 0.0, "schedule": "constant"},
        ).run()  # fmt: skip
        moved = (student.module[4].bias - before).detach()
        assert torch.allclose(moved, torch.tensor([-weight, 0.0, 0.0]), atol=1e-6)


def test_labels_so_few_that_the_first_batches_have_none_are_waited_for(tmp_path):
    """Of 20 batches the twelfth has the one label: the task's size is what it is there, the term's the mean up to it."""
    heard = []

    class Heard(Queue):
        def terms(self, step):
            found = super().terms(step)
            heard.append(found["near"].item())
            return found

    data, order = images(40), orders("distill", 40, 2, 0)
    one = order[11]
    label = torch.full((40,), HIDDEN)
    label[one] = data["label"][one]
    parts = {"train": {**data, "label": label}, "labeled": {name: each[one] for name, each in data.items()}}
    run = training(
        Distill(DistillOptions()), {"student": mlp()}, TensorSource({**parts, "val": images(12, 1)}, None, CLASSES), tmp_path,
        teachers={"teacher": resnet(1)}, distillers={"q": Heard()}, normalize=True, batch_size=2, epochs=1, seed=SEED,
    )  # fmt: skip
    scales = run.run().scales
    task = F.cross_entropy(mlp().module(data["image"][one]), data["label"][one]).item()
    assert scales == {"task": 1.0, "q.near": pytest.approx(task / (sum(heard[:12]) / 12), rel=1e-5)}
    assert len(heard) == 12 + 20, "then the training begins"


@pytest.mark.parametrize(
    ("term", "words"),
    [(0.0, "term 'd.soft' of phase 'plain' is 0.0, no tensor"), (torch.zeros(2), r"'d.soft' .* has shape \(2,\)")],
)
def test_a_term_that_is_no_scalar_tensor_is_named(term, words, tmp_path):
    def step(s):
        yield Update({"task": s.task(), "d.soft": term})

    with pytest.raises(PluginError, match=words):
        training(Plain(step), {"student": mlp()}, source(12), tmp_path, batch_size=12).run()


def test_a_step_that_switches_gradients_off_is_refused(tmp_path):
    """Nothing would be learnt from then on, and nothing said."""

    def step(s):
        yield Update({"task": s.task()})
        torch.set_grad_enabled(False)

    try:
        with pytest.raises(PluginError, match="something in this step has switched gradients off") as caught:
            training(Plain(step), {"student": mlp()}, source(24), tmp_path, batch_size=12).run()
        assert "torch.no_grad()" in caught.value.fix
        assert torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)


def test_a_term_of_nothing_but_rounding_is_not_scaled(tmp_path):
    """1e-8 of the task's loss: its gradients are noise, and 10^8 times that would be the training."""

    def step(s):
        near = {"d.near": s.task().detach() * 1e-8, "d.small": s.task().detach() * 1e-5}
        yield Update({"task": s.task(), **near, "d.none": torch.zeros(())})

    run = training(Plain(step, normalize=True), {"student": mlp()}, source(12), tmp_path, batch_size=12)
    ended = run.run()
    assert ended.scales == {"task": 1.0, "d.near": 1.0, "d.small": pytest.approx(1e5), "d.none": 1.0}
    (note,) = ended.notes
    assert note.startswith("Term 'd.near' is 1e-08 at first, all but 0")


def test_normalize_scales_terms_to_the_task(tmp_path):
    """scale = |mean task| / |mean term| over the first 8 batches in train mode, at the weights of the start."""
    student, teacher, queue = resnet(), resnet(1), Queue()
    scales, first = {}, []

    def stop():
        return True

    run = training(
        Distill(DistillOptions()), {"student": student}, source(40), tmp_path, teachers={"teacher": teacher},
        distillers={"q": queue}, normalize=True, batch_size=4, stop=stop, seed=SEED,
        optim={"lr": 0.0, "kind": "sgd", "momentum": 0.0},
        report=Report(step=lambda phase, at, of, loss: first.append(loss)),
    )  # fmt: skip
    weights = {k: v.clone() for k, v in queue.state_dict().items()}
    from kdsearch.engine.checkpoint import read_checkpoint
    from kdsearch.errors import InterruptedRun

    with pytest.raises(InterruptedRun):
        run.run()
    (file,) = tmp_path.glob("phase-*.safetensors")
    tensors, at = read_checkpoint(file)
    scales = at.scales

    net, data = resnet().module.to(memory_format=torch.channels_last).train(), images(40)
    rows = run_prepared_rows()
    tasks, nears = [], []
    for index in orders("distill", 40, 4, 0)[:8]:
        logits = net(data["image"][index].to(memory_format=torch.channels_last)).detach()
        tasks.append(F.cross_entropy(logits, data["label"][index]).item())
        mapped = F.linear(logits, weights["map.weight"], weights["map.bias"])
        nears.append(F.mse_loss(mapped, rows.mean(0).expand(4, -1)).item())
    task, near = sum(tasks) / 8, sum(nears) / 8
    assert scales == {"task": 1.0, "q.near": pytest.approx(task / near, rel=1e-6)}
    # all that measuring moved is back: one train-mode pass over one batch is what the checkpoint holds
    once = resnet().module.to(memory_format=torch.channels_last).train()
    index = orders("distill", 40, 4, 0)[0]
    logits = once(data["image"][index].to(memory_format=torch.channels_last)).detach()
    for name, buffer in once.named_buffers():
        assert torch.equal(tensors[f"role:student/{name}"], buffer), name
    assert int(tensors["distiller:q/at"]) == 1
    expected = F.cross_entropy(logits, data["label"][index]).item() + task / near * nears[0]
    assert first == [pytest.approx(expected, rel=1e-6)]


def run_prepared_rows():
    """What `Queue.prepare` draws under the engine's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(SEED, "prepare"))
        return torch.randn(4, CLASSES)


def test_turns_see_moved_weights_and_a_tuple_does_not(tmp_path):
    def heads(self, setup):
        student = setup.models["student"].module

        def turns(s):
            first = s.student["logits"].mean()
            yield Update({"up": -first}, train="main")
            seen.append((first.item(), s.student["logits"].mean().item()))
            yield Update({"again": s.student["logits"].mean()}, train="main")

        def at_once(s):
            mean = s.student["logits"].mean()
            yield Update({"a": mean}, train="main"), Update({"b": mean.square()}, train="head")

        lr = {"kind": "sgd", "lr": 0.5, "momentum": 0.0, "schedule": "constant"}
        body, head = nn.ModuleList(student[:4]), student[4]
        from kdsearch.kinds import Phase

        yield Phase("turns", turns, {"train": setup.feed("train")}, [setup.optim({"student": student}, **lr)], 1)
        before.update(state(student))
        both = [setup.optim({"body": body}, **lr), setup.optim({"head": head}, name="head", **lr)]
        yield Phase("tuple", at_once, {"train": setup.feed("train")}, both, 1)

    seen, before = [], {}
    student = mlp()
    training(Phases(heads), {"student": student}, source(12), tmp_path, batch_size=12).run()
    assert len(seen) == 1
    assert seen[0][1] > seen[0][0] + 0.1  # the second turn's forward ran on weights that went up

    net, data = mlp().module, images(12)
    net.load_state_dict({k.removeprefix("0."): v for k, v in before.items()})
    mean = net(data["image"]).mean()
    body = torch.autograd.grad(mean, [net[1].weight, net[1].bias], retain_graph=True)
    head = torch.autograd.grad(mean.square(), [net[4].weight, net[4].bias])
    expected = [net[1].weight - 0.5 * body[0], net[1].bias - 0.5 * body[1]]
    expected += [net[4].weight - 0.5 * head[0], net[4].bias - 0.5 * head[1]]
    for got, want in zip(student.module.parameters(), expected, strict=True):
        assert torch.allclose(got, want, atol=1e-6)


def test_a_micro_batch_without_a_turn_leaves_the_steps_gradients(tmp_path):
    """Of two micro-batches the second yields nothing: the weights move by half the first one's gradient."""
    student, seen = mlp(), []
    net = copy.deepcopy(student.module)

    def step(s):
        seen.append(s.batch)
        if len(seen) % 2:
            yield Update({"task": s.task()})

    device, optim = Device(accumulate=2), {"kind": "sgd", "lr": 0.5, "momentum": 0.0, "schedule": "constant"}
    training(
        Plain(step), {"student": student}, source(24), tmp_path, epochs=1, batch_size=12, device=device, optim=optim
    ).run()
    assert len(seen) == 2
    loss = F.cross_entropy(net(seen[0]["image"]), seen[0]["label"])
    grads = torch.autograd.grad(loss, list(net.parameters()))
    for got, was, grad in zip(student.module.parameters(), net.parameters(), grads, strict=True):
        assert torch.allclose(got, was - 0.25 * grad, atol=1e-6)


def test_tied_weights_follow_once_a_step():
    """A head that is its embedding has two names and one average."""

    class Tied(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.embedding, self.head, self.free = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False), nn.Linear(3, 3)
            self.head.weight = self.embedding.weight
            for parameter in self.parameters():
                nn.init.constant_(parameter, value)

    average = Tied(0.0).requires_grad_(False)
    follow(Ema(Tied(1.0), average, 0.9), 0.9)
    for value in average.state_dict().values():
        assert torch.allclose(value, torch.tensor(0.1))


def test_ema_is_the_hand_computed_average(tmp_path):
    """Weights and batch statistics alike; counters are copied; a decay may be a function of progress."""
    student, hand = resnet(), {}

    def decay(progress):
        return 0.5 + 0.4 * progress

    def setup_ema(setup):
        procedure.average = resnet().module.requires_grad_(False)
        hand.update({k: v.clone() for k, v in procedure.average.state_dict().items()})
        return [Ema(setup.models["student"].module, procedure.average, decay)]

    def by_hand(phase, at, of, loss):
        d = decay((at - 1) / of)
        for name, now in student.module.state_dict().items():
            if now.dtype.is_floating_point:
                hand[name] = d * hand[name].double() + (1 - d) * now.double()
            else:
                hand[name] = now.clone()

    procedure = Plain(ema=setup_ema)
    training(
        procedure, {"student": student}, source(), tmp_path, epochs=2, batch_size=12, report=Report(step=by_hand)
    ).run()
    for name, value in procedure.average.state_dict().items():
        assert torch.allclose(value.double(), hand[name].double(), atol=1e-6), name
    assert not same(state(procedure.average), state(student.module))


def test_distill_ships_the_average(tmp_path):
    student = resnet()
    procedure = Distill(DistillOptions(ema=0.9))
    training(procedure, {"student": student}, source(), tmp_path, epochs=1, batch_size=12).run()
    assert same(state(student.module), state(procedure.average))


def judged(module):
    """Accuracy and cross entropy on the validation split of `source(40, 24)`."""
    data = images(24, 1)
    with torch.no_grad():
        logits = copy.deepcopy(module).eval()(data["image"])
    return (logits.argmax(1) == data["label"]).double().mean().item(), F.cross_entropy(logits, data["label"]).item()


def averaging(tmp_path, ships=True, **changes):
    """Four epochs, the last one too fast for the student, not for its average: rows, and at each end what both come to."""
    student, seen = resnet(), []

    def ema(setup):
        procedure.average = resnet().module.requires_grad_(False)
        return [Ema(setup.models["student"].module, procedure.average, 0.8, ships)]

    procedure = Plain(ema=ema, score="student", **changes)
    history = training(
        procedure, {"student": student}, source(40, 24), tmp_path, epochs=4, batch_size=12, objective="accuracy",
        optim={"kind": "sgd", "lr": 0.5, "momentum": 0.0, "schedule": lambda p: 1.0 if p < 0.75 else 6.0},
        report=Report(epoch=lambda row: seen.append((judged(student.module), judged(procedure.average)))),
    ).run().history  # fmt: skip
    return history, [each for each, _ in seen], [each for _, each in seen], student, procedure


def test_an_average_that_ships_is_what_validation_judges(tmp_path):
    rows, own, averaged, student, procedure = averaging(tmp_path / "ships", keep="best")
    assert [row["score"] for row in rows] == pytest.approx([accuracy for accuracy, _ in averaged])
    losses = [row["validation"] for row in rows]
    assert losses == pytest.approx([loss for _, loss in averaged], abs=1e-6)
    best = losses.index(min(losses))
    assert best != min(range(4), key=lambda i: own[i][1]), "another epoch than that of the student's own weights"
    assert judged(procedure.average) == averaged[best]
    assert judged(student.module) == own[best], "the student has its own weights, until the procedure ends"


def test_an_average_that_does_not_ship_judges_nothing(tmp_path):
    rows, own, averaged, *_ = averaging(tmp_path, ships=False, keep="best")
    assert [row["validation"] for row in rows] == pytest.approx([loss for _, loss in own], abs=1e-6)
    assert [row["score"] for row in rows] == pytest.approx([accuracy for accuracy, _ in own])
    assert own != averaged


def test_looking_at_the_average_changes_no_weight(tmp_path):
    ends = []
    for ships in (True, False):
        *_, student, procedure = averaging(tmp_path / str(ships), ships)
        ends.append(state(student.module, procedure.average))
    assert same(*ends)


def test_the_average_is_judged_with_the_zeros_that_it_ships_with(tmp_path):
    student, progress, expected = resnet(), [], []
    procedure = Distill(DistillOptions(ema=0.5))
    name = list(student.module.state_dict())[-2]

    def enforce(at):
        progress.append(at)
        student.module.state_dict()[name].zero_()

    def ended(row):
        sparse = copy.deepcopy(procedure.average)
        assert sparse.state_dict()[name].any(), "the average itself has none yet"
        sparse.state_dict()[name].zero_()
        expected.append(judged(sparse)[0])

    run = training(
        procedure, {"student": student}, source(40, 24), tmp_path, epochs=2, batch_size=20, objective="accuracy",
        report=Report(epoch=ended),
    )  # fmt: skip
    run.setup.enforce = enforce
    assert [row["score"] for row in run.run().history] == expected
    assert progress == [0.25, 0.5, 0.5, 0.75, 1.0, 1.0]


def test_distill_judges_the_average(tmp_path):
    student = resnet()
    made = training(
        Distill(DistillOptions(ema=0.9)), {"student": student}, source(40, 24), tmp_path, epochs=2, objective="accuracy",
        optim={"kind": "sgd", "lr": 0.5, "momentum": 0.0, "schedule": "constant"},
    )  # fmt: skip
    rows = made.run().history
    assert rows[-1]["score"] == pytest.approx(judged(student.module)[0]), "what ships is what was judged last"


def test_keep_best_takes_the_epoch_of_least_validation_loss(tmp_path):
    """A learning rate that grows until it spoils: the best epoch is neither the first nor the last."""
    student, ends = resnet(), []
    run = training(
        Distill(DistillOptions(keep="best")), {"student": student}, source(40, 24), tmp_path, epochs=6, batch_size=12,
        optim={"kind": "sgd", "lr": 0.02, "momentum": 0.0, "schedule": lambda p: 1.0 if p < 0.5 else 2000.0},
        report=Report(epoch=lambda row: ends.append(state(student.module))),
    )  # fmt: skip
    rows = run.run().history
    losses = [row["validation"] for row in rows]
    best = losses.index(min(losses))
    assert 0 < best < 5
    assert same(state(student.module), ends[best])
    assert not same(ends[best], ends[-1])
    data = images(24, 1)
    with torch.no_grad():
        logits = student.module.eval()(data["image"])
    assert losses[best] == pytest.approx(F.cross_entropy(logits, data["label"]).item(), abs=1e-6)


@pytest.mark.parametrize("batch_size", [8, 24])
def test_validation_loss_is_the_mean_over_known_labels_and_over_samples(tmp_path, batch_size):
    """Whatever batches the labels fall into: one of them has one label, another eight."""
    student = resnet()
    held = images(24, 1)
    held["label"][1:16] = HIDDEN
    data = TensorSource({"train": images(40), "val": held}, None, CLASSES)

    def step(s):
        yield Update({"task": s.task(), "size": s.student["logits"].square().mean()})

    made = training(Plain(step, keep="best"), {"student": student}, data, tmp_path, epochs=1, batch_size=batch_size)
    (row,) = made.run().history
    with torch.no_grad():
        logits = student.module.eval()(held["image"])
    expected = F.cross_entropy(logits, held["label"], ignore_index=HIDDEN) + logits.square().mean()
    assert row["validation"] == pytest.approx(float(expected), abs=1e-5)


class Odd(nn.Module):
    """A network of 36 pixels whose buffer `mask` holds what is no number, and which takes their logarithm."""

    def __init__(self, log=False, spoils=False):
        super().__init__()
        self.out, self.log, self.spoils = nn.Linear(36, CLASSES), log, spoils
        self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))

    def forward(self, image):
        if self.spoils and self.training:
            self.mask[2, 0] = math.inf
        x = image.flatten(1)
        return self.out(x.log() if self.log else x)


def test_a_buffer_that_is_as_it_was_may_hold_infinities(tmp_path):
    """The mask of a causal attention; one that training has spoilt is refused."""
    made = training(Plain(), {"student": Model(Odd(), ("image",))}, source(), tmp_path / "a", epochs=1)
    assert made.run().history[0]["loss"] > 0
    spoilt = training(Plain(), {"student": Model(Odd(spoils=True), ("image",))}, source(), tmp_path / "b", epochs=1)
    with pytest.raises(TrialError, match=r"buffer 'student\.mask' is not finite"):
        spoilt.run()


def test_answers_that_are_no_numbers_have_no_score(tmp_path):
    """The logarithm of a pixel below 0: the first class would be as right as any."""
    held, train = images(12, 1), images(40)
    train["image"], held["image"] = train["image"].abs() + 0.1, held["image"].abs() + 0.1
    held["image"][5, 0, 0, 0] = -1.0
    data = TensorSource({"train": train, "val": held}, None, CLASSES)
    student = Model(Odd(log=True), ("image",))
    made = training(Plain(score="student"), {"student": student}, data, tmp_path, epochs=1, objective="accuracy")
    with pytest.raises(TrialError, match=r"'student' answers NaN to 1 of 12 samples of 'val', the first 'val-"):
        made.run()


def test_training_goes_on_after_a_validation(tmp_path):
    """Looking at validation freezes nothing: with and without keep='best' the last epoch's weights are the same."""
    ends = []
    for keep in ("last", "best"):
        student = resnet()
        training(
            Distill(DistillOptions(keep=keep)), {"student": student}, source(), tmp_path / keep, epochs=3, batch_size=12,
            report=Report(epoch=lambda row, student=student: ends.append(state(student.module))),
        ).run()  # fmt: skip
    assert len(ends) == 6
    for plain, watched in zip(ends[:3], ends[3:], strict=True):
        assert same(plain, watched)
    assert not same(ends[0], ends[1])


def test_factors_of_the_learning_rate_by_glob(tmp_path):
    """First match counts; a factor of 0 freezes, a function of progress is followed."""
    student, was = mlp(), mlp().module

    def train(setup):
        scale = {"student.1.bias": 0.0, "student.1.*": 0.5, "student.4.bias": lambda progress: 2.0}
        return [setup.optim({"student": student.module}, scale=scale)]

    training(
        Plain(lambda s: iter([Update({"sum": sum(p.sum() for p in student.module.parameters() if p.requires_grad)})]), train=train),
        {"student": student}, source(12), tmp_path, batch_size=12,
        optim={"kind": "sgd", "lr": 1.0, "momentum": 0.0, "schedule": "constant"},
    ).run()  # fmt: skip
    moves = [(b - a).mean().item() for a, b in zip(student.module.parameters(), was.parameters(), strict=True)]
    assert moves == pytest.approx([0.5, 0.0, 1.0, 2.0], abs=1e-6)


def test_optimiser_groups_leave_biases_and_norms_undecayed():
    from kdsearch.engine.optim import bind

    module = resnet().module
    bound = bind(Optim({"net": module}, weight_decay=0.3))
    decayed = {id(p) for group in bound.torch.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(p) for p in module.parameters() if p.ndim > 1}
    assert {id(p) for p in bound.parameters.values()} == {id(p) for p in module.parameters()}


def test_a_factor_whose_glob_matches_no_parameter_is_an_error():
    from kdsearch.engine.optim import bind

    with pytest.raises(ValueError, match=r"scale 'student\.layer\*' matches no parameter, such as net\."):
        bind(Optim({"net": mlp().module}, scale={"*": 1.0, "student.layer*": 0.1}))
