"""A loss that is no number is the data's where a sample's number makes it so, and nobody else's fault is theirs."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdsearch.builtin.classification import Classification, ClassificationOptions
from kdsearch.engine.setup import Evaluator
from kdsearch.engine.spoilt import check_samples
from kdsearch.errors import DataError
from kdsearch.kinds import IO, Batch, Field, Model

X = Field("x", "vector", (3,))
LABEL = Field("label", "label", (), "int64", "target")


def normed():
    """Which answers nothing but NaN where one sample of the batch is one, and keeps statistics of it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))


class Filling(nn.Module):
    """It reads 0 where there is no number, and adds what it is told to."""

    def __init__(self, added=0.0):
        super().__init__()
        self.added = added

    def forward(self, x):
        return x.nan_to_num(0.0)[:, :2] + self.added


def batch(**more):
    x = torch.arange(12.0).reshape(4, 3)
    return Batch(("a", "b", "c", "d"), {"x": x, "label": torch.tensor([0, 1, 0, 1]), **more})


def spoilt(value):
    x = batch()["x"]
    x[2, 1] = value
    return batch(x=x)


def check(loaded, module, fields=(X, LABEL), inputs=("x",), given=None):
    io = IO(tuple(each for each in fields if each.use == "input"), (Field("logits", "logits", (2,)),))
    model = Model(module, inputs, (), ("logits",))
    task, data = Classification(ClassificationOptions()), SimpleNamespace(fields=fields)
    module.train()
    module(*[loaded[name] for name in inputs])  # as in the step, which leaves statistics that are no numbers
    setup = Evaluator(seed=0, base=Path(), task=task, io=io, models={"student": model}, data=data)
    check_samples(setup, [(loaded, given or loaded)])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_sample_is_named_that_holds_no_number(value):
    with pytest.raises(DataError, match=f"data: 'x' of sample 'c' holds {value}. Expected finite numbers"):
        check(spoilt(value), normed())


def test_what_a_task_makes_of_good_samples_is_not_the_data_s():
    check(batch(), normed(), given=spoilt(math.nan))


def test_a_network_that_fills_in_what_is_missing_is_spoilt_by_nothing():
    check(spoilt(math.nan), Filling())
    check(spoilt(math.nan), Filling(math.inf))  # and answers none for reasons of its own


def test_weights_that_are_no_numbers_are_not_the_data_s():
    module = normed()
    nn.init.constant_(module[1].weight, math.nan)
    check(spoilt(math.nan), module)


def test_nan_is_the_mean_of_a_field_that_has_one_and_infinity_is_not():
    numbers = Field("x", "vector", (3,), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    check(spoilt(math.nan), normed(), (numbers, LABEL))
    with pytest.raises(DataError, match="'x' of sample 'c' holds inf"):
        check(spoilt(math.inf), normed(), (numbers, LABEL))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = normed()

    def forward(self, x, present):
        return self.net(x)


@pytest.mark.parametrize("there", [0.0, 1.0])
def test_what_stands_in_a_field_that_a_sample_lacks_means_nothing(there):
    loaded = batch(x=spoilt(math.nan)["x"], present_x=torch.tensor([1.0, 1.0, there, 1.0]))
    fields = (X, Field("present_x", "present", ()), LABEL)
    if not there:
        check(loaded, Gated(), fields, ("x", "present_x"))
        return
    with pytest.raises(DataError, match="'x' of sample 'c' holds nan"):
        check(loaded, Gated(), fields, ("x", "present_x"))


def test_a_field_that_no_network_reads_spoils_nothing():
    other = Field("y", "vector", (3,))
    check(batch(y=spoilt(math.nan)["x"]), normed(), (X, other, LABEL))


@pytest.mark.parametrize(("value", "is_wrong"), [(math.inf, True), (-math.inf, True), (math.nan, False), (1e30, False)])
def test_an_infinite_target_is_named_and_a_missing_one_is_not(value, is_wrong):
    """No network reads it, and none could reach it."""
    target = Field("y", "value", (2,), use="target")
    y = torch.zeros(4, 2)
    y[1] = torch.tensor([math.nan, value])
    if not is_wrong:
        check(batch(y=y), normed(), (X, LABEL, target))
        return
    with pytest.raises(DataError, match=f"data: 'y' of sample 'b' holds {value}. Expected finite numbers"):
        check(batch(y=y), normed(), (X, LABEL, target))
