"""What a step may do beside its losses: norms that stay, draws by sample, diagnostics; and what is said of a training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdsearch.builtin.distill import Distill, DistillOptions
from kdsearch.engine.optim import bind
from kdsearch.errors import InterruptedRun, PluginError
from kdsearch.kinds import Distiller, NoOptions, Optim, Update
from kdsearch.testing.training import training
from tests.engine.little import Plain, resnet, source

SGD = {"kind": "sgd", "lr": 0.1, "momentum": 0.0, "schedule": "constant"}


def run(step, folder, **changes):
    student = changes.pop("student", None) or resnet()
    made = training(
        Plain(step, **changes.pop("phase", {})), {"student": student, **changes.pop("models", {})}, source(), folder,
        teachers={"teacher": resnet(1)}, optim=SGD, batch_size=20, **changes,
    )  # fmt: skip
    return made, student


def test_frozen_statistics_are_answered_by_and_stay(tmp_path):
    """As the same network in eval mode, with a gradient; its buffers are those of a training without that pass."""
    seen = {}

    def step(s):
        for module in s.cast.models["student"].module.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean += 0.5  # statistics that are not the batch's
        frozen = s.run("student", frozen_stats=True)["logits"]
        before = [b.clone() for b in s.cast.models["student"].module.buffers()]
        net = s.cast.models["student"].module.eval()
        expected = net(s.batch["image"])
        net.train()
        torch.testing.assert_close(frozen, expected)
        assert all(torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))
        assert not torch.allclose(frozen, s.run("student")["logits"])
        assert all(m.training for m in net.modules())
        seen["grad"] = frozen.requires_grad
        yield Update({"task": s.task() + 0 * frozen.sum()})

    run(step, tmp_path)[0].run()
    assert seen["grad"]


def test_a_samples_draws_do_not_depend_on_its_batch(tmp_path):
    def drawn(size, folder):
        found = {}

        def step(s):
            found.update({(s.clock.epoch, id): float(torch.rand((), generator=s.rng_of(id))) for id in s.batch.ids})
            yield Update({"task": s.task()})

        made, _ = run(step, folder, epochs=2)
        made.setup.batch_size = size
        made.run()
        return found

    few, many = drawn(5, tmp_path / "few"), drawn(20, tmp_path / "many")
    assert few == many
    assert len(few) == 80
    assert len({*few.values()}) > 70  # another number for each sample and epoch


def test_logs_are_means_of_an_epoch_also_when_it_was_stopped(tmp_path):
    values = []

    def step(s):
        value = s.batch["image"].mean()
        values.append(value.item())
        s.log("brightness", value)
        if s.clock.step % 2:
            s.log("odd", 7.0)
        s.log("broken", float("nan"))
        yield Update({"task": s.task()})

    history = run(step, tmp_path / "whole", epochs=2)[0].run().history
    for epoch in (0, 1):
        mean = sum(values[2 * epoch : 2 * epoch + 2]) / 2
        assert history[epoch]["logs"] == {"brightness": pytest.approx(mean), "odd": 7.0}

    steps = iter([False, True])
    with pytest.raises(InterruptedRun):
        run(step, tmp_path / "stopped", epochs=2, stop=lambda: next(steps))[0].run()
    again = run(step, tmp_path / "stopped", epochs=2)[0].run().history
    assert [row["logs"] for row in again] == [row["logs"] for row in history]

    def wrong(s):
        s.log("vector", torch.zeros(3))
        yield Update({"task": s.task()})

    with pytest.raises(PluginError, match=r"'vector' was logged with shape \(3,\). Expected a scalar"):
        run(wrong, tmp_path / "wrong")[0].run()


class Noting(Distiller[NoOptions]):
    needs_teacher = False

    def build(self, shapes):
        self.slow, self.still = nn.Linear(3, 3), nn.Linear(3, 3)

    def lr_factors(self):
        return {"slow.*": 0.1, "still.*": 0.0}

    def prepare(self, setup):
        setup.note("prepared once")
        setup.note("prepared once")

    def terms(self, step):
        return {"size": self.slow(self.still(step.student["logits"])).square().mean()}


def test_notes_are_kept_over_a_stop(tmp_path):
    def made(**changes):
        return training(
            Distill(DistillOptions()), {"student": resnet()}, source(), tmp_path, distillers={"noting": Noting(NoOptions())},
            batch_size=20, **changes,
        )  # fmt: skip

    with pytest.raises(InterruptedRun):
        made(stop=lambda: True).run()
    assert made().run().notes == ("prepared once",)


@pytest.mark.parametrize(
    "optim",
    [
        lambda setup, parts: setup.optim(parts, lr=0.5),
        lambda setup, parts: Optim(parts, lr=0.5, schedule="constant"),
        lambda setup, parts: Optim({"all": nn.ModuleDict({k.replace(".", "-"): v for k, v in parts.items()})}, lr=0.5),
    ],
    ids=["the study's", "a procedure's own", "of modules within one"],
)
def test_a_distiller_has_learning_rates_of_its_own(optim, tmp_path):
    made = training(
        Distill(DistillOptions()), {"student": resnet()}, source(), tmp_path, distillers={"noting": Noting(NoOptions())}
    )
    parts = {"student": made.setup.models["student"].module, "distiller.noting": made.setup.distillers["noting"]}
    bound = bind(optim(made.setup, parts))
    bound.set_rates(0.0)
    rates = {id(p): group["lr"] for group in bound.torch.param_groups for p in group["params"]}
    noting = made.setup.distillers["noting"]
    assert rates[id(noting.slow.weight)] == pytest.approx(0.05)
    assert id(noting.still.weight) not in rates
    assert rates[id(next(made.setup.models["student"].module.parameters()))] == 0.5

    again = bind(Optim(parts, scale={"distiller.noting.slow.*": 1.0}, lr=0.5))
    again.set_rates(0.0)
    rates = {id(p): group["lr"] for group in again.torch.param_groups for p in group["params"]}
    assert rates[id(noting.slow.weight)] == 0.5, "whoever makes the optimiser has the last word"

    still = noting.still.weight.clone()
    made.run()
    assert torch.equal(noting.still.weight, still)


def test_several_roles_are_scored_an_epoch(tmp_path):
    def step(s):
        yield Update({"task": s.task() + s.pair("peer", "teacher").task()})

    made, _ = run(
        step, tmp_path, models={"peer": resnet(3)}, phase={"score": ("student", "peer")}, objective="accuracy"
    )
    (row,) = made.run().history
    assert {*row["scores"]} == {"student", "peer"}
    assert row["score"] == row["scores"]["student"] == made.setup.score("accuracy", "student")
    assert row["scores"]["peer"] == made.setup.score("accuracy", "peer")
