"""What compressors may ask of a study's training samples: the same ones at each call, and the task's loss on them."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from kdsearch.builtin.classification import Classification, ClassificationOptions
from kdsearch.engine.setup import Evaluator, Site
from kdsearch.errors import PluginError
from tests.engine.little import mlp, resnet, source


class Shifted(Classification):
    """Every image is moved by a number that its random stream gives."""

    def prepare(self, batch, rng):
        return batch.having(image=batch["image"] + torch.rand((), generator=rng))


def evaluator(task, seed=3):
    data = source()
    return Evaluator(seed=seed, base=Path(), task=task, io=task.io(data.fields, data.facts), data=data)


def test_batches_are_the_same_samples_of_train_at_each_call():
    task = Classification(ClassificationOptions())
    own = evaluator(task)
    found = own.batches(25, size=10)
    ids = [name for batch in found for name in batch.ids]
    assert [len(batch) for batch in found] == [10, 10, 5]
    assert len(set(ids)) == 25
    assert set(ids) <= set(own.data.split("train").ids)
    again = own.batches(25, size=10)
    assert [batch.ids for batch in again] == [batch.ids for batch in found]
    assert torch.equal(again[0]["image"], found[0]["image"])
    assert [name for batch in own.batches(7, size=2) for name in batch.ids] == ids[:7]
    assert [name for batch in evaluator(task, seed=4).batches(25) for name in batch.ids] != ids, "drawn by the seed"
    assert sum(len(batch) for batch in own.batches(1000)) == 40, "all, where there are fewer"


def test_the_loss_is_the_task_s_of_what_the_task_prepares():
    model = mlp()
    plain, shifted = (evaluator(cls(ClassificationOptions())) for cls in (Classification, Shifted))
    (batch,) = plain.batches(12, size=12)
    loss = plain.loss(model, batch)
    expected = F.cross_entropy(model.module(batch["image"]), batch["label"])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(each.grad is not None for each in model.module.parameters())
    moved = shifted.loss(model, batch)
    assert not torch.equal(moved, loss)
    assert torch.equal(moved, shifted.loss(model, batch)), "its stream is named: the same at each call"


def test_a_narrow_shortcut_is_guarded_in_what_nothing_placed():
    """Batches are channels-last, of which the weight gradient of such a layer may crash: `kdsearch.ops.layout`."""
    own, model = evaluator(Classification(ClassificationOptions())), resnet(widths=(4, 6))
    own.loss(model, own.batches(4)[0])
    assert [name for name, part in model.module.named_modules() if part._forward_pre_hooks] == ["stages.1.0.short"]


def test_without_a_study_there_is_neither():
    site = Site(0, Path())
    with pytest.raises(PluginError, match="no task here"):
        site.loss(mlp(), source().split("train").load([0]))
    with pytest.raises(PluginError, match="the data are not open here"):
        site.batches(3)
