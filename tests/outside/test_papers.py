"""Papers that change one thing of a distillation: a package of two, in a study and beside the procedure `distill`."""

from __future__ import annotations

import inspect

import pytest
import torch

from kdsearch.builtin.distill import Distill
from kdsearch.host import Host
from kdsearch.kit.distillation import DistillOptions
from kdsearch.testing.training import training
from tests.engine.little import images, resnet, source
from tests.stages.tiny import LESS, TEXT, run_tiny

SGD = {"kind": "sgd", "lr": 0.1, "momentum": 0.0, "schedule": "constant"}


def trained(procedure, folder, **changes):
    student = resnet()
    run = training(procedure, {"student": student}, source(), folder, teachers={"main": resnet(1)}, **changes)
    return run.run().history, student.module


def test_each_says_what_it_changes_and_no_more(outside):
    import kdsearch_papers as papers

    for cls in (papers.Confident, papers.Restarted):
        assert len(inspect.getsource(cls).splitlines()) <= 14


def test_a_loss_more_is_weighted_and_reported(outside, tmp_path):
    """Of weight 0 it changes nothing; otherwise the step is that of task + weight x entropy, worked here."""
    import kdsearch_papers as papers

    _, plain = trained(Distill(DistillOptions()), tmp_path / "plain", optim=SGD, batch_size=40)
    _, without = trained(
        papers.Confident(papers.ConfidentOptions(entropy=0.0)), tmp_path / "0", optim=SGD, batch_size=40
    )
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), without.parameters(), strict=True))

    history, found = trained(
        papers.Confident(papers.ConfidentOptions(entropy=0.7)), tmp_path / "1", optim=SGD, batch_size=40
    )
    net, data = resnet().module.train(), images(40)
    logits = net(data["image"])
    probs = logits.softmax(1)
    entropy = -(probs * probs.log()).sum(1).mean()
    (torch.nn.functional.cross_entropy(logits, data["label"]) + 0.7 * entropy).backward()
    for name, parameter in net.named_parameters():
        ours = dict(found.named_parameters())[name]
        torch.testing.assert_close(ours, parameter - 0.1 * parameter.grad, rtol=1e-4, atol=1e-6)
    assert history[0]["terms"]["entropy"] == pytest.approx(entropy.item(), rel=1e-5)


def test_phases_and_schedules_of_its_own(outside, tmp_path):
    import kdsearch_papers as papers

    rates = []

    class Watched(papers.Restarted):
        def phase(self, setup, *arguments, **changes):
            made = super().phase(setup, *arguments, **changes)
            (optim,) = made.train
            rates.append([optim.schedule(i / 20) for i in range(20)])
            return made

    history, _ = trained(Watched(DistillOptions()), tmp_path, epochs=4)
    assert [row["phase"] for row in history] == ["first", "first", "second", "second"]
    expected = [0.01 + 0.99 * i / 2 for i in range(2)] + [(1 - (i - 2) / 18) ** 2 for i in range(2, 20)]
    assert rates == [pytest.approx(expected)] * 2


def test_in_a_study(outside, tmp_path):
    host = Host.load()
    sets = ("recipe.procedure={use: confident, options: {entropy: search}}", "refine.trials=1")
    with pytest.raises(Exception, match="'search', but this option declares no range"):
        run_tiny(tmp_path, *LESS, *sets, host=host)
    sets = (
        "recipe.procedure={use: confident, options: {entropy: {low: 0.01, high: 1.0, log: true}}}",
        "refine.trials=1",
    )
    result = run_tiny(tmp_path, *LESS, *sets, host=host, text=TEXT.replace("use: kd,", "use: kd, optional: true,"))
    assert result["student"]["recipe"]["procedure"]["options"]["entropy"] == pytest.approx(0.1)
