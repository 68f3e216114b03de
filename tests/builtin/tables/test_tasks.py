"""Regression and several labels: losses against NumPy, what is unknown, and what is refused."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch

from kdsearch.builtin.tables.multilabel import GROUPS, Multilabel
from kdsearch.builtin.tables.regression import Regression, RegressionOptions
from kdsearch.engine.splits import arrange
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Batch, Field, NoOptions, Outputs
from kdsearch.testing.task import TaskContract
from kdsearch.testing.training import TensorSource

X = Field("numbers", "vector", (3,), mean=(5.0, 0.0, -2.0), std=(2.0, 1.0, 1e-3))
TARGET = Field("target", "value", (2,), "float32", "target", mean=(100.0, 0.0), std=(50.0, 0.1))
LABELS = Field("labels", "labels", (4,), "int64", "target")


def drawn(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return X.noise(n, rng), TARGET.noise(n, rng), torch.randint(2, (n, 4), generator=rng)


class Source(TensorSource):
    """Of any fields."""

    def __init__(self, columns, fields):
        super().__init__({"train": columns})
        self._own = fields

    @property
    def fields(self):
        return self._own


def source(kind, n=16):
    x, target, labels = drawn(n)
    field, value = (TARGET, target) if kind == "target" else (LABELS, labels)
    return Source({"numbers": x, field.name: value}, (X, field))


class TestMse(TaskContract):
    task = Regression

    def source(self):
        return source("target")


class TestHuber(TestMse):
    options: ClassVar = {"loss": "huber", "delta": 0.4}


class TestMultilabel(TaskContract):
    task = Multilabel

    def source(self):
        return source("labels")


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_errors_count_in_deviations_of_the_training_targets(loss):
    task = Regression(RegressionOptions(loss=loss, delta=0.5))
    io = task.io((X, TARGET), {})
    assert io.outputs == (Field("value", "value", (2,), use="extra", mean=TARGET.mean, std=TARGET.std),)
    _, target, _ = drawn(5)
    value = target + torch.linspace(-3, 3, 10).view(5, 2) * torch.tensor(TARGET.std)
    target[3, 1] = torch.nan
    found = float(task.loss(Outputs({"value": value}), Batch(tuple("abcde"), {"target": target})))
    far = np.linspace(-3, 3, 10)[[i for i in range(10) if i != 7]]
    huber = np.where(abs(far) <= 0.5, far**2 / 2, 0.5 * (abs(far) - 0.25))
    assert found == pytest.approx((far**2 if loss == "mse" else huber).mean(), rel=1e-5)


def test_the_loss_of_labels_is_binary_cross_entropy_of_those_that_are_known():
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.tensor([[1, 0, HIDDEN, 1], [HIDDEN] * 4, [0, 0, 1, 1]])
    found = float(Multilabel(NoOptions()).loss(Outputs({"scores": z}), Batch(tuple("abc"), {"labels": y})))
    p, t = 1 / (1 + np.exp(-z.numpy())), y.numpy()
    each = -np.where(t == 1, np.log(p), np.log(1 - p))
    assert found == pytest.approx(each[t != HIDDEN].mean(), abs=1e-12)


def test_an_unknown_number_gives_no_gradient():
    value = torch.zeros(2, 2, requires_grad=True)
    target = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]])
    Regression(RegressionOptions()).loss(Outputs({"value": value}), Batch(tuple("ab"), {"target": target})).backward()
    assert (value.grad != 0).tolist() == [[True, False], [False, False]]


def test_sets_of_labels_are_shared_out_in_proportion():
    """0.9 of the samples have one set, 0.1 another one: so has every split, to a sample."""
    n = 400
    labels = torch.zeros(n, 4, dtype=torch.int64)
    labels[:, 0] = 1
    labels[::10] = torch.tensor([0, 1, 1, 0])
    x, _, _ = drawn(n)
    data = arrange(
        Source({"numbers": x, "labels": labels}, (X, LABELS)),
        labeled=0.25, validation=0.2, test=0.2, seed=5, task=Multilabel(NoOptions()),
    )  # fmt: skip
    for name, size in {"val": 80, "test": 80, "train": 240}.items():
        batch = data.revealed().split(name).load(range(size))
        assert int(batch["labels"][:, 1].sum()) == size // 10, name
    seen = data.split("labeled")
    assert int(seen.load(range(len(seen.ids)))["labels"][:, 1].sum()) == round(len(seen.ids) / 10)


def test_groups_are_of_the_set_alone_and_few():
    labels = torch.randint(2, (500, 12), generator=torch.Generator().manual_seed(0))
    groups = Multilabel(NoOptions()).strata(Batch(tuple(map(str, range(500))), {"labels": labels}), (LABELS,))
    assert len(set(groups.tolist())) == GROUPS
    assert int(groups.max()) == GROUPS - 1


def test_one_number_that_is_known_is_the_whole_loss():
    value, target = torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [torch.nan]])
    loss = Regression(RegressionOptions()).loss(Outputs({"value": value}), Batch(tuple("ab"), {"target": target}))
    assert loss.item() == 4.0
    none = Batch(tuple("ab"), {"target": target * torch.nan})
    assert Regression(RegressionOptions()).loss(Outputs({"value": value}), none).item() == 0.0


@pytest.mark.parametrize("task", [Regression(RegressionOptions()), Multilabel(NoOptions())])
@pytest.mark.parametrize(
    "fields",
    [
        (X,),
        (X, Field("label", "label", (), "int64", "target")),
        (TARGET,),
        (LABELS,),
        (X, Field("target", "value", (), "float32", "target")),
    ],
)
def test_data_that_do_not_fit_are_refused(task, fields):
    with pytest.raises(DataError, match=r"^(regression|multilabel): the data set has "):
        task.io(fields, {})
