"""Stopping, pausing, checkpoints and what they carry."""

import copy
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from kdsearch.builtin.distill import Distill, DistillOptions
from kdsearch.engine.checkpoint import Position, collect, digest_of, read_checkpoint, restore, write_checkpoint
from kdsearch.engine.conduct import Device, Report
from kdsearch.engine.feeds import Endless, order_of
from kdsearch.engine.optim import bind
from kdsearch.errors import ArtifactError, InterruptedRun, PluginError, TrialError
from kdsearch.kinds import Distiller, Ema, Feed, Model, NoOptions, Optim, Phase, Update
from kdsearch.testing.training import TensorSplit, training
from tests.engine.little import CLASSES, Phases, Plain, Queue, differing, jitter, mlp, resnet, same, source, state


def fresh(folder, keep="last", epochs=4, **given):
    """Everything at once: dropout-free ResNet, teacher, queue, EMA, normalisation, augmentation."""
    procedure = Distill(DistillOptions(ema=0.9, keep=keep))
    return training(
        procedure, {"student": resnet()}, source(augment=jitter), folder, teachers={"teacher": resnet(1)},
        distillers={"q": Queue()}, normalize=True, augment=True, epochs=epochs, batch_size=12, optim={"lr": 0.02}, **given,
    )  # fmt: skip


def end_of(run):
    setup = run.setup
    return state(setup.models["student"].module, run.procedure, *setup.distillers.values())


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    """(state, history) of the run without a stop."""
    run = fresh(tmp_path_factory.mktemp("through"))
    history = run.run().history
    return end_of(run), history


def stops_at(step):
    seen = []
    return lambda: seen.append(1) or len(seen) == step


@pytest.mark.parametrize("step", [1, 4, 7, 16])
def test_stopped_and_run_again_it_ends_alike(step, through, tmp_path):
    with pytest.raises(InterruptedRun):
        fresh(tmp_path, stop=stops_at(step)).run()
    run = fresh(tmp_path)
    ended = run.run()
    assert differing(end_of(run), through[0]) == []
    assert ended.history == through[1]


@pytest.mark.parametrize("checkpoint_s", [0.0, 1e9])
def test_results_do_not_depend_on_when_checkpoints_are_written(checkpoint_s, through, tmp_path):
    run = fresh(tmp_path, device=Device(checkpoint_s=checkpoint_s))
    assert run.run().history == through[1]
    assert same(end_of(run), through[0])


def test_a_finished_training_is_loaded_and_not_trained(through, tmp_path):
    fresh(tmp_path).run()
    steps = []
    run = fresh(tmp_path, report=Report(step=lambda *each: steps.append(each)))
    assert run.run().history == through[1]
    assert same(end_of(run), through[0])
    assert steps == []


def test_pausing_at_rungs_equals_running_through(through, tmp_path):
    """Asked again for the same rung, nothing more is trained."""
    for until, epochs in [(0.2, 1), (0.2, 1), (0.5, 2), (0.5, 2), (0.75, 3), (1.0, 4), (1.0, 4)]:
        run = fresh(tmp_path, until=until)
        ended = run.run()
        assert ended.history == through[1][:epochs]
        assert ended.done == (until == 1.0)
    assert same(end_of(run), through[0])


def two_phases(folder, **given):
    def of(self, setup):
        student = setup.models["student"].module
        for name in ("a", "b"):
            yield Phase(name, task_only, {"train": setup.feed("train")}, [setup.optim({"net": student})], 2)

    def task_only(s):
        yield Update({"task": s.task()})

    return training(Phases(of), {"student": resnet()}, source(), folder, epochs=4, batch_size=20, **given)


def test_a_rung_at_a_phases_end_does_not_begin_the_next(tmp_path):
    whole = two_phases(tmp_path / "whole").run().history
    for _ in range(2):
        ended = two_phases(tmp_path / "work", until=0.5).run()
        assert not ended.done
        assert ended.history == whole[:2]
    assert two_phases(tmp_path / "work").run().history == whole


def test_a_distiller_is_prepared_once_in_a_training(tmp_path):
    def make(**given):
        def of(self, setup):
            queue = setup.distillers["q"]
            modules = {"net": setup.models["student"].module, "q": queue}
            for name in ("a", "b"):
                yield Phase(name, step, {"train": setup.feed("train")}, [setup.optim(modules)], 1)

        def step(s):
            yield Update({"task": s.task(), **run.setup.distillers["q"].terms(s)})

        run = training(
            Phases(of), {"student": resnet()}, source(), tmp_path, teachers={"teacher": resnet(1)},
            distillers={"q": Queue()}, batch_size=20, **given,
        )  # fmt: skip
        return run

    with pytest.raises(InterruptedRun):
        make(stop=stops_at(3)).run()
    run = make()
    run.run()
    queue = run.setup.distillers["q"]
    assert queue.seen.item() == 1
    assert queue.at.item() == 4
    assert queue.epochs.item() == 2
    # the last rows are the teacher's mean logits of the last 4 batches
    assert queue.rows.abs().sum() > 0
    assert len({tuple(row) for row in queue.rows.tolist()}) == 4


def test_a_procedure_without_a_phase_trains_nothing_and_is_refused(tmp_path):
    run = training(Phases(lambda self, setup: iter(())), {"student": resnet()}, source(), tmp_path)
    with pytest.raises(PluginError, match=r"`phases` of the procedure \(Phases\) yields no phase"):
        run.run()


def test_the_callers_generators_go_on_untouched(tmp_path):
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    fresh(tmp_path / "a", epochs=1).run()
    with pytest.raises(InterruptedRun):
        fresh(tmp_path / "b", epochs=1, stop=lambda: True).run()
    assert (torch.rand(1), np.random.rand(), random.random()) == expected


def test_best_epochs_survive_a_stop(tmp_path):
    whole = fresh(tmp_path / "whole", keep="best")
    history = whole.run().history
    with pytest.raises(InterruptedRun):
        fresh(tmp_path / "work", keep="best", stop=stops_at(11)).run()
    run = fresh(tmp_path / "work", keep="best")
    assert run.run().history == history
    assert same(end_of(run), end_of(whole))


def the_file(folder):
    (file,) = [file for file in folder.glob("phase-*.safetensors") if ".best." not in file.name]
    return file


@pytest.fixture
def stopped(tmp_path):
    with pytest.raises(InterruptedRun):
        fresh(tmp_path, stop=stops_at(3)).run()
    return tmp_path


class Rows(Distiller[NoOptions]):
    """A queue of whole batches, the last one of an epoch shorter, and what was seen so far in buffers that no state dict has."""

    def __init__(self):
        super().__init__(NoOptions())

    def build(self, shapes):
        self.register_buffer("queue", torch.zeros(8, CLASSES))
        self.register_buffer("first", None)
        self.register_buffer("sum", torch.zeros(CLASSES), persistent=False)

    def terms(self, step):
        mean = step.student["logits"].mean(0)
        return {"near": F.mse_loss(mean, self.queue.mean(0)) + F.mse_loss(mean, self.sum)}

    def on_step_end(self, step):
        self.queue = step.gather(step.teacher["logits"])
        self.first = self.queue[:1].double() if self.first is None else self.first
        self.sum = 0.9 * self.sum + self.queue.mean(0)


def with_rows(folder, **given):
    return training(
        Distill(DistillOptions()), {"student": mlp()}, source(36), folder, teachers={"teacher": mlp(1)},
        distillers={"q": Rows()}, epochs=2, batch_size=8, **given,
    )  # fmt: skip


def test_buffers_that_change_their_size_or_are_in_no_state_dict_are_carried(tmp_path):
    """Stopped after the short batch of 4; then paused at a rung; then read when it is through."""
    whole = with_rows(tmp_path / "whole")
    history = whole.run().history
    assert whole.setup.distillers["q"].queue.shape == (4, CLASSES)
    with pytest.raises(InterruptedRun):
        with_rows(tmp_path / "stopped", stop=stops_at(5)).run()
    with_rows(tmp_path / "paused", until=0.5).run()
    for folder in ("stopped", "paused", "whole"):
        run = with_rows(tmp_path / folder)
        assert run.run().history == history
        assert differing(end_of(run), end_of(whole)) == []
        assert torch.equal(run.setup.distillers["q"].sum, whole.setup.distillers["q"].sum)


def test_a_table_that_grows_by_use_may_be_missing(tmp_path):
    """A network may make a buffer at its first pass; what it makes itself needs no checkpoint."""

    class Lazy(nn.Sequential):
        def forward(self, x):
            if not hasattr(self, "table"):
                self.register_buffer("table", torch.ones(1), persistent=False)
            return super().forward(x) * self.table

    def make(**given):
        student = mlp()
        student.module = Lazy(*student.module)
        procedure = Distill(DistillOptions(keep="best"))
        return training(procedure, {"student": student}, source(), tmp_path, epochs=2, batch_size=12, **given)

    with pytest.raises(InterruptedRun):
        make(stop=stops_at(4)).run()
    assert make().run().done


def test_a_checkpoint_of_another_owner_is_refused(stopped):
    with pytest.raises(ArtifactError, match="another study or recipe") as caught:
        fresh(stopped, owner="someone else").run()
    assert Path(caught.value.file) == the_file(stopped)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_checkpoint_is_named(share, stopped):
    file = the_file(stopped)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ArtifactError, match="not a whole checkpoint") as caught:
        fresh(stopped).run()
    assert Path(caught.value.file) == file
    assert "Delete it" in str(caught.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": "9"}, "format '9' is newer. Expected format 1"),
        ({"format": "one"}, "unknown format 'one'"),
        ({"position": "{"}, "position is damaged"),
        ({"position": '{"epochs": 3}'}, "position is damaged"),
        (None, "no checkpoint of kdsearch"),
    ],
)
def test_a_foreign_or_newer_checkpoint_is_named(header, message, stopped):
    file = the_file(stopped)
    metadata = {"format": "1", "position": json.dumps({"owner": "training-0"})}
    metadata |= header or {}
    metadata["digest"] = digest_of(metadata["position"], load_file(file))
    save_file(load_file(file), file, metadata=None if header is None else metadata)
    with pytest.raises(ArtifactError, match=message.replace("(", "\\(")):
        fresh(stopped).run()


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "foreign"])
def test_a_checkpoint_that_does_not_fit_is_named(change, stopped):
    file = the_file(stopped)
    tensors, at = read_checkpoint(file)
    key = "role:student/classifier.weight"
    if change == "missing":
        del tensors[key]
    else:
        name = {"extra": "role:student/more", "shape": key, "foreign": "optim:other/student.x/exp_avg"}[change]
        tensors[name] = torch.zeros(7)
    write_checkpoint(file, tensors, at)
    with pytest.raises(ArtifactError, match="optim:other" if change == "foreign" else "role:student"):
        fresh(stopped).run()


def test_a_missing_best_file_is_named(tmp_path):
    with pytest.raises(InterruptedRun):
        fresh(tmp_path, keep="best", stop=stops_at(16)).run()
    for file in tmp_path.glob("*.best.safetensors"):
        file.unlink()
    # the last epoch may be the best and be written anew; a worse one cannot stand for it
    tensors, at = read_checkpoint(the_file(tmp_path))
    at.best = -1.0
    write_checkpoint(the_file(tmp_path), tensors, at)
    with pytest.raises(ArtifactError, match="best epoch's weights are gone"):
        fresh(tmp_path, keep="best").run()


def test_nan_fails_before_anything_moves(tmp_path):
    student, before = mlp(), state(mlp().module)

    def step(s):
        yield Update({"task": s.task(), "d.bad": s.task() * (float("nan") if s.clock.step == 0 else 1.0)})

    run = training(Plain(step), {"student": student}, source(), tmp_path, batch_size=12)
    with pytest.raises(TrialError, match=r"term 'd.bad' is nan in phase 'plain', epoch 0, step 0"):
        run.run()
    assert same(state(student.module), before)
    assert not list(tmp_path.iterdir())


def test_nan_in_a_later_turn_of_a_tuple_moves_nothing_either(tmp_path):
    student, before = mlp(), state(mlp().module)

    def step(s):
        yield Update({"good": s.task()}), Update({"inf": s.task() * float("inf")})

    with pytest.raises(TrialError, match="term 'inf' is inf"):
        training(Plain(step), {"student": student}, source(), tmp_path, batch_size=12).run()
    assert same(state(student.module), before)


def test_nan_weights_of_the_last_step_are_found(tmp_path):
    """sqrt at 0 has a finite value and a NaN gradient: no later term tells."""

    def step(s):
        yield Update({"task": (s.task() * 0.0).square().sqrt()})

    with pytest.raises(TrialError, match=r"weight 'student\.1\.weight' is not finite after phase 'plain'"):
        training(Plain(step), {"student": mlp()}, source(12), tmp_path, batch_size=12).run()


def test_infinite_statistics_of_the_last_step_are_found(tmp_path):
    """What is divided by an infinite deviation is 0: loss, weights and score are finite."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
    with torch.no_grad():
        net[1].weight.mul_(1e22)
    with pytest.raises(TrialError, match=r"buffer 'student\.2\.running_var' is not finite after phase 'plain'"):
        training(Plain(), {"student": Model(net, ("image",))}, source(12), tmp_path, batch_size=12).run()


def test_a_weight_that_is_not_finite_is_told_apart(tmp_path):
    run = training(
        Plain(weights={"task": lambda clock: float("nan")}), {"student": mlp()}, source(12), tmp_path, batch_size=12
    )
    with pytest.raises(TrialError, match="the weight of term 'task' is nan"):
        run.run()


ids = st.integers(1, 60).map(lambda n: [f"s{i}" for i in range(n)])


@given(ids=ids, batch_size=st.integers(1, 17), epoch=st.integers(0, 50), seed=st.integers(0, 2**60))
@settings(max_examples=60, deadline=None)
def test_a_pass_has_each_sample_once_and_is_a_function_of_its_position(ids, batch_size, epoch, seed):
    feed = Feed("train", batch_size)
    torch.manual_seed(epoch)
    order = order_of(feed, "train", ids, epoch, seed)
    torch.manual_seed(epoch + 1)
    assert order == order_of(feed, "train", ids, epoch, seed)
    assert sorted(i for batch in order for i in batch) == list(range(len(ids)))
    assert [len(batch) for batch in order[:-1]] == [batch_size] * (len(order) - 1)
    assert 1 <= len(order[-1]) <= batch_size + 1
    assert len(order[-1]) > 1 or batch_size == 1 or len(ids) == 1, "a norm of one value a channel knows no spread"
    if len(ids) > 20:
        assert order != order_of(feed, "train", ids, epoch + 1, seed)
        assert order != order_of(feed, "other", ids, epoch, seed)
        assert order != order_of(feed, "train", ids, epoch, seed + 1)


@given(n=st.integers(1, 13), batch_size=st.integers(1, 6), asked=st.lists(st.integers(0, 40), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_an_endless_feed_is_a_function_of_the_position(n, batch_size, asked):
    split = TensorSplit("more", {"x": torch.arange(n)})
    feed = Feed("more", batch_size)
    walked = Endless(feed, "more", split, 7)
    length = len(order_of(feed, "more", split.ids, 0, 7))
    for position in asked:
        order = order_of(feed, "more", split.ids, position // length, 7)
        expected = tuple(split.ids[i] for i in order[position % length])
        assert walked.at(position).ids == expected


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    shapes=st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=4),
    kind=st.sampled_from(["sgd", "adam", "adamw"]),
    steps=st.integers(0, 2),
    history=st.lists(st.dictionaries(st.text(max_size=5), numbers, max_size=3), max_size=3),
    best=st.none() | numbers,
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_a_checkpoint_gives_back_what_it_was_given(tmp_path_factory, shapes, kind, steps, history, best, seed):
    file = tmp_path_factory.mktemp("round") / "c.safetensors"

    def made(seed):
        torch.manual_seed(seed)
        module = nn.ParameterList(nn.Parameter(torch.randn(shape)) for shape in shapes)
        module.register_buffer("count", torch.tensor(seed))
        return module, bind(Optim({"net": module}, kind=kind))

    module, bound = made(seed)
    for _ in range(steps):
        for parameter in module:
            parameter.grad = torch.randn_like(parameter)
        bound.torch.step()
    at = Position("me", 1, 2, 3, False, history, {"task": 1.0}, {"loss": 0.1 + 0.2}, best, True, {})
    saved = collect({"net": module}, {"main": bound})
    write_checkpoint(file, saved, at)
    tensors, found = read_checkpoint(file)
    assert found == at
    other, other_bound = made(seed + 1)
    restore(tensors, {"net": other}, {"main": other_bound}, file)
    assert same(collect({"net": other}, {"main": other_bound}), saved)
    for (a, b), grad in zip(zip(module, other, strict=True), [torch.randn(shape) for shape in shapes], strict=True):
        a.grad, b.grad = grad.clone(), grad.clone()
    bound.torch.step()
    other_bound.torch.step()
    assert all(torch.equal(a, b) for a, b in zip(module, other, strict=True))


class Drifting(Distiller[NoOptions]):
    """Moves a frozen weight of the student by hand after each epoch."""

    def __init__(self, weight):
        super().__init__(NoOptions())
        self.weight = [weight]

    def terms(self, step):
        return {"size": step.student["logits"].square().mean()}

    def on_epoch_end(self, clock):
        with torch.no_grad():
            self.weight[0].data += 0.01


def probing(folder, student=None, drift=False, **given):
    """Trains the classifier of a network whose body is frozen; `momentum` follows it."""
    student = student or resnet(widths=(16, 32))
    head, kernels = student.module.classifier, [p for p in student.module.parameters() if p.ndim == 4]

    def phases(self, setup):
        def step(s):
            terms = {"task": s.task()}
            yield Update(
                {**terms, **{name: v for each in setup.distillers.values() for name, v in each.terms(s).items()}}
            )

        ema = [Ema(head, self.momentum, 0.5)]
        yield Phase("probe", step, {"train": setup.feed("train")}, [setup.optim({"head": head})], 2, ema=ema)

    distillers = {"drift": Drifting(kernels[0])} if drift else {}
    procedure = Phases(phases, momentum=copy.deepcopy(head))
    return training(
        procedure, {"student": student}, source(), folder, distillers=distillers, epochs=2, batch_size=12, **given
    )


@pytest.mark.parametrize("drift", [False, True])
def test_a_checkpoint_holds_what_trains_and_what_changed(drift, tmp_path):
    with pytest.raises(InterruptedRun):
        probing(tmp_path, drift=drift, stop=stops_at(6)).run()
    tensors, _ = read_checkpoint(the_file(tmp_path))
    run = probing(tmp_path / "whole", drift=drift)
    names = {name for name in tensors if name.startswith("role:")}
    parameters = dict(run.setup.models["student"].module.named_parameters())
    kernel = next(f"role:student/{name}" for name, p in parameters.items() if p.ndim == 4)
    head = {"role:student/classifier.weight", "role:student/classifier.bias"}
    assert names == head | ({kernel} if drift else set())
    assert {"ema:0/weight", "procedure/momentum.weight", "optim:main/head.weight/exp_avg"} <= set(tensors)
    size = sum(tensor.nbytes for tensor in tensors.values())
    body = sum(p.nbytes for p in parameters.values())
    assert drift or size < body / 5
    run.run()
    again = probing(tmp_path, drift=drift)
    again.run()
    assert same(end_of(again), end_of(run))
    done = probing(tmp_path, drift=drift)
    done.run()
    assert same(end_of(done), end_of(run)), "a finished phase is whole again"


def test_frozen_weights_that_are_not_what_they_were_are_refused(tmp_path):
    with pytest.raises(InterruptedRun):
        probing(tmp_path, stop=stops_at(6)).run()
    with pytest.raises(ArtifactError, match="frozen weights or earlier phases, is not what it was"):
        probing(tmp_path, student=resnet(seed=5, widths=(16, 32))).run()
