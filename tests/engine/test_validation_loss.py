"""The loss that `keep: best` goes by: a mean over known targets, of any task, and of losses that differentiate inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kdsearch.engine.live_data import from_torch
from kdsearch.engine.loop import Training
from kdsearch.engine.setup import LiveSetup
from kdsearch.engine.splits import arrange
from kdsearch.host import Host
from kdsearch.kinds import Model, Phase, Step, Update


def recorded(folder: Path, step: Callable[[Step], Any]) -> tuple[float, float]:
    """The validation of one epoch that changes nothing, and the mean over known targets by hand: the network answers 0.

    Of two batches of 100 the first has one known target.
    """
    cls = Host.load().load_class("task", "regression")
    task, rng = cls(cls.options_class()), np.random.default_rng(0)
    x = rng.normal(size=(400, 3)).astype(np.float32)
    held = rng.normal(size=(200, 3)).astype(np.float32)
    targets = held.sum(1) + 5 * (np.arange(200) < 100)
    targets[1:100] = np.nan
    splits = {
        "train": {"x": x, "target": x.sum(1)},
        "val": {"x": held, "target": targets},
        "test": {"x": x[:50], "target": x[:50].sum(1)},
    }
    data = arrange(from_torch(splits, task="regression"), labeled=1.0, validation=0.2, test=0.2, task=task)
    net = nn.Linear(3, 1)
    for each in net.parameters():
        nn.init.zeros_(each)
    setup = LiveSetup(
        seed=0,
        base=folder,
        task=task,
        data=data,
        io=task.io(data.fields, data.facts),
        models={"student": Model(net, ("x",), outputs=("value",))},
        epochs=1,
        defaults={"kind": "sgd", "lr": 0.0, "weight_decay": 0.0},
        batch_size=100,
        augment=False,
        normalize=False,
    )

    class Alone(nn.Module):
        def phases(self, setup: Any) -> Any:
            yield Phase("p", step, {"train": setup.feed("train")}, [setup.optim({"student": net})], 1, keep="best")

    (row,) = Training(Alone(), setup, folder / "work", "x").run().history
    (std,) = next(each.std for each in data.fields if each.name == "target")
    return row["validation"], float(np.nanmean((targets / std) ** 2))


def plain(step: Step) -> Any:
    yield Update({"task": step.task()})


def differentiating(step: Step) -> Any:
    """Beside the task the squared gradient of the answers by the inputs, which is 0 here."""
    x = step.batch["x"].clone().requires_grad_()
    answers = step.run("student", step.batch.having(x=x))["value"]
    (slopes,) = torch.autograd.grad(answers.sum(), x, create_graph=True)
    yield Update({"task": step.task(), "slopes": slopes.square().mean()})


@pytest.mark.parametrize("step", [plain, differentiating])
def test_every_known_target_weighs_as_much(step: Callable[[Step], Any], tmp_path: Path) -> None:
    found, expected = recorded(tmp_path, step)
    assert found == pytest.approx(expected, rel=1e-5)
