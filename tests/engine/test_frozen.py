"""Who moves and who does not: teachers, frozen roles, frozen parts, modes and gradient flags."""

import pytest
import torch
from torch import nn

from kdsearch.builtin.distill import Distill, DistillOptions
from kdsearch.engine.optim import bind
from kdsearch.errors import PluginError, TapError
from kdsearch.kinds import Distiller, NoOptions, Phase, Update
from kdsearch.testing.training import training
from tests.engine.little import Phases, Plain, mlp, resnet, same, source, state


class Hint(Distiller[NoOptions]):
    def __init__(self, tap="stage[-1]"):
        super().__init__(NoOptions())
        self.tap = tap

    def taps(self):
        return {"student": [self.tap], "teacher": [self.tap]}

    def terms(self, step):
        return {"hint": (step.student[self.tap] - step.teacher[self.tap]).square().mean()}


def test_a_teacher_gets_no_gradient_and_never_changes(tmp_path):
    teacher, watched = resnet(1), []
    before = state(teacher.module)

    def watch(phase, at, of, loss):
        watched.append(
            teacher.module.training or any(p.grad is not None or p.requires_grad for p in teacher.module.parameters())
        )

    from kdsearch.engine.conduct import Report

    run = training(
        Distill(DistillOptions()), {"student": resnet()}, source(), tmp_path, teachers={"teacher": teacher},
        distillers={"h": Hint()}, epochs=2, batch_size=12, report=Report(step=watch),
    )  # fmt: skip
    run.run()
    assert watched == [False] * 8
    assert same(state(teacher.module), before)


def test_frozen_roles_keep_weights_and_batch_statistics(tmp_path):
    """A role that no optimiser names runs in eval mode, with a graph to what is trained upstream of it."""
    other, before = resnet(1), state(resnet(1).module)

    def step(s):
        shifted = s.batch.having(image=s.batch["image"] + procedure.shift)
        out = s.run("other", shifted)
        flags.append((other.module.training, out["logits"].requires_grad, s.run("other")["logits"].requires_grad))
        yield Update({"task": out["logits"].square().mean()})

    def phases(self, setup):
        yield Phase("shift", step, {"train": setup.feed("train")}, [setup.optim({"own": self})], 1)

    procedure, flags = Phases(phases), []
    procedure.shift = nn.Parameter(torch.zeros(1, 6, 6))
    training(procedure, {"student": resnet(), "other": other}, source(), tmp_path, batch_size=12).run()
    assert flags == [(False, True, False)] * 4
    assert same(state(other.module), before)
    assert procedure.shift.abs().sum() > 0


def test_gradients_pass_through_a_teacher_to_what_is_upstream(tmp_path):
    """A teacher is constant, its input need not be: nothing cuts the graph."""
    procedure = Plain(lambda s: iter([Update({"t": s.run("teacher", made(s))["logits"].square().mean()})]))

    def made(s):
        return s.batch.having(image=s.batch["image"] * s.student["logits"].mean())

    student = mlp()
    before = state(student.module)
    training(procedure, {"student": student}, source(), tmp_path, teachers={"teacher": mlp(1)}, batch_size=12).run()
    assert not same(state(student.module), before)


def test_a_factor_of_0_freezes_with_batch_statistics(tmp_path):
    student, before = resnet(), state(resnet().module)

    def train(setup):
        return [setup.optim({"student": student.module}, scale={"student.stem.*": 0.0})]

    training(Plain(train=train), {"student": student}, source(), tmp_path, batch_size=12).run()
    after = state(student.module)
    for name, value in before.items():
        assert torch.equal(after[name], value) == name.startswith("0.stem."), name


def test_what_the_author_froze_stays_frozen(tmp_path):
    """requires_grad=False on a part of a trained role, over two phases; flags are as before afterwards."""

    def phases(self, setup):
        for name in ("a", "b"):
            feeds = {"train": setup.feed("train")}
            yield Phase(name, Plain().task_only, feeds, [setup.optim({"student": student.module})], 1)
            assert [p.requires_grad for p in student.module.parameters()] == flags

    student = resnet()
    student.module.stages[0].requires_grad_(False)
    flags = [p.requires_grad for p in student.module.parameters()]
    before = state(student.module)
    training(Phases(phases), {"student": student}, source(), tmp_path, batch_size=12).run()
    after = state(student.module)
    for name, value in before.items():
        assert torch.equal(after[name], value) == name.startswith("0.stages.0."), name


def test_a_phase_that_trains_a_part_gives_the_rest_back(tmp_path):
    """The next phase trains everything again."""

    def phases(self, setup):
        net = student.module
        for name, modules in (("head", {"head": net.classifier}), ("all", {"student": net})):
            yield Phase(name, Plain().task_only, {"train": setup.feed("train")}, [setup.optim(modules)], 1)
            assert all(p.requires_grad for p in net.parameters())
            ends.append(state(net))

    student, ends = resnet(), [state(resnet().module)]
    training(Phases(phases), {"student": student}, source(), tmp_path, batch_size=12).run()
    for before, after, moving in zip(ends[:2], ends[1:], (("0.classifier.",), ("0.",)), strict=True):
        for name, value in before.items():
            assert torch.equal(after[name], value) != name.startswith(moving), name


def test_keep_eval_trains_weights_on_frozen_statistics(tmp_path):
    student, before = resnet(), state(resnet().module)
    norms = [m for m in student.module.modules() if isinstance(m, nn.BatchNorm2d)]
    training(Plain(keep_eval=norms), {"student": student}, source(), tmp_path, epochs=2, batch_size=12).run()
    after = state(student.module)
    for name, value in before.items():
        assert torch.equal(after[name], value) == ("running" in name or "num_batches" in name), name


def test_looking_at_a_model_keeps_its_modes(tmp_path):
    """`predict` in the middle of a step neither thaws frozen norms nor moves statistics."""
    ends, runs = [], []
    for looks in (False, True):
        student = resnet()

        def step(s, looks=looks):
            if looks:
                runs[-1].setup.predict("student", s.batch)
            yield Update({"task": s.task()})

        norms = [student.module.stem[1]]
        data, folder = source(), tmp_path / str(looks)
        runs.append(training(Plain(step, keep_eval=norms), {"student": student}, data, folder, batch_size=12))
        runs[-1].run()
        ends.append(state(student.module))
    assert same(*ends)


@pytest.mark.parametrize("where", ["phase", "student distiller", "teacher distiller"])
def test_a_tap_that_is_not_there_is_named_before_training(where, tmp_path):
    student, before = resnet(), state(resnet().module)
    given = {"teachers": {"teacher": resnet(1)}}
    if where == "phase":
        procedure = Plain(taps={"student": ["stage[7]"]})
    else:
        procedure = Distill(DistillOptions())
        hint = Hint("stage[0]")
        role = where.split()[0]
        hint.taps = lambda: {role: ["stage[7]"]}
        given["distillers"] = {"h": hint}
    with pytest.raises(TapError, match=r"stage\[7\].*stage\[0\] \(4x6x6\), stage\[1\] \(6x3x3\), penultimate \(6\)"):
        training(procedure, {"student": student}, source(), tmp_path, batch_size=12, **given).run()
    assert same(state(student.module), before)


def refused(procedure, tmp_path, match, **given):
    student, before = mlp(), state(mlp().module)
    with pytest.raises(PluginError, match=match):
        training(procedure, {"student": student}, source(), tmp_path, batch_size=12, **given).run()
    assert same(state(student.module), before)


def test_training_what_nobody_holds_is_refused(tmp_path):
    loose = nn.Linear(2, 2)
    refused(Plain(train=lambda s: [s.optim({"loose": loose})]), tmp_path, "trains 'loose', which no model")


def test_training_a_teacher_is_refused(tmp_path):
    teacher = mlp(1)
    procedure = Plain(train=lambda s: [s.optim({"teacher": teacher.module})])
    refused(procedure, tmp_path, "trains 'teacher'", teachers={"teacher": teacher})


def test_the_studys_factors_hold_whoever_makes_the_optimiser(tmp_path):
    """As a plan says them, by role: under another name, beside factors of a procedure's own, and not for a critic's weights."""
    student, critic = resnet(), nn.Linear(3, 1)

    def train(setup):
        scale = {"net.*": 0.5}
        return [setup.optim({"net": student.module}, scale=scale), setup.optim({"critic": critic}, name="critic")]

    def factors(given):
        run = training(Plain(train=train), {"student": student}, source(), tmp_path, optim={"scale": given})
        return [bind(each) for each in train(run.setup)]

    own, critics = factors({"student.stem.*": 0.0, "student.classifier.weight": 0.1})
    assert not any(".stem." in name for name in own.parameters)
    found = {id(p): group["factor"] for group in own.torch.param_groups for p in group["params"]}
    assert found[id(student.module.classifier.weight)] == 0.1
    assert found[id(student.module.classifier.bias)] == 0.5
    assert [group["factor"] for group in critics.torch.param_groups] == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"scale 'student\.stam\.\*' matches no parameter"):
        factors({"student.stam.*": 0.0})


def test_an_optimiser_without_parameters_is_refused(tmp_path):
    procedure = Plain(train=lambda s: [s.optim({"student": s.models["student"].module}, scale={"*": 0.0})])
    refused(procedure, tmp_path, "optimiser 'main' has no parameter to train")


@pytest.mark.parametrize(
    ("update", "match"),
    [
        (lambda s: Update({"task": s.task()}, train="mian"), "no optimiser 'mian'; did you mean 'main'"),
        (lambda s: Update({}), "an update without terms"),
        (lambda s: Update([s.task()]), "the terms of phase 'plain' are a list. Expected a mapping of names to scalars"),
        (lambda s: None, r"the step of phase 'plain' yields a NoneType\. Expected a kdsearch.kinds.Update"),
        (lambda s: {"task": s.task()}, "the step of phase 'plain' yields a dict"),
        (lambda s: Update({"rows": s.student["logits"].mean(1)}), r"term 'rows' of phase 'plain' has shape \(12,\)"),
        (
            lambda s: Update({"x": s.run("studnet")["logits"].mean()}),
            "no model in the role 'studnet'; did you mean 'student'",
        ),
    ],
)
def test_what_a_step_yields_is_checked(update, match, tmp_path):
    refused(Plain(lambda s: iter([update(s)])), tmp_path, match)


def test_taps_of_an_unknown_role_are_refused(tmp_path):
    refused(Plain(taps={"techer": ["stage[0]"]}), tmp_path, "reads taps of 'techer'")


def test_two_phases_of_one_name_are_refused(tmp_path):
    def phases(self, setup):
        for _ in range(2):
            train = [setup.optim({"student": setup.models["student"].module}, lr=0.0)]
            yield Phase("same", Plain().task_only, {"train": setup.feed("train")}, train, 1)

    refused(Phases(phases), tmp_path, "two phases are called 'same'")


def test_freezing_a_trained_role_is_refused(tmp_path):
    def phases(self, setup):
        setup.freeze("student", setup.models["student"].copy())
        yield

    refused(Phases(phases), tmp_path, "'student' is trained by this procedure")


def test_turns_refuse_accumulation(tmp_path):
    from kdsearch.engine.conduct import Device

    def step(s):
        yield Update({"a": s.task()})
        yield Update({"b": s.task()})

    refused(Plain(step), tmp_path, "takes turns", device=Device(accumulate=2))


def test_an_order_without_batches_is_refused(tmp_path):
    def phases(self, setup):
        feed = setup.feed("train", order=lambda one: [] if one.epoch == 1 else [[0, 1]])
        train = [setup.optim({"student": setup.models["student"].module})]
        yield Phase("p", Plain().task_only, {"train": feed}, train, 2)

    refused(Phases(phases), tmp_path, "feed 'train': its order gives no batch in pass 1")


def test_a_test_split_is_not_scored_by_a_procedure(tmp_path):
    def phases(self, setup):
        setup.score("accuracy", "student", "test")
        yield

    refused(Phases(phases), tmp_path, "asked for the test split", objective="accuracy")


def test_a_validation_leaves_buffers_as_they_were(tmp_path):
    """What a step counts in its own buffers counts training only."""

    def step(s):
        procedure.counted += len(s.batch)
        yield Update({"task": s.task()})

    procedure = Plain(step, keep="best")
    procedure.register_buffer("counted", torch.tensor(0))
    training(procedure, {"student": mlp()}, source(40, 12), tmp_path, epochs=1, batch_size=12).run()
    assert int(procedure.counted) == 40
