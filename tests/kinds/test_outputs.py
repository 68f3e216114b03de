"""What a model answered, by the names of its taps: whether one is there is a question, reading one that is not an error."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdsearch.engine.cache import nan_in
from kdsearch.errors import TapError
from kdsearch.kinds import Batch, Field, Model, Tap
from kdsearch.kinds.forward import tap_name
from kdsearch.kinds.model import Outputs, UnaskedTapError

MODEL = Model(nn.Identity(), ("x",), (Tap("stage[0]", "", "vector", (3,)), Tap("last", "", "vector", (3,))), ("y",))


def outputs():
    ones = torch.ones(2, 3)
    return Outputs({"y": ones, "stage[0]": 2 * ones}, lambda name: tap_name(MODEL, name), "net")


def test_what_is_there():
    found = outputs()
    assert "y" in found
    assert "stage[0]" in found
    assert found.get("y") is found["y"]
    assert [*found] == ["y", "stage[0]"]
    assert [*found.detach()] == [*found]


def test_what_is_not():
    """`last` is a tap that nobody asked for, `logits` none of the model's."""
    found = outputs()
    for name in ("last", "logits"):
        assert name not in found
    assert found.get("last") is None
    assert found.get("logits", 5) == 5
    with pytest.raises(UnaskedTapError):
        found["last"]
    with pytest.raises(TapError, match="tap 'logits'"):
        found["logits"]


def test_a_teacher_that_answers_nothing_of_the_task_has_no_nan():
    """It has features alone; its cache looks for NaN among the task's answers."""
    batch = Batch(("a", "b"), {"x": torch.ones(2, 3)})
    field = Field("logits", "logits", (4,))
    assert nan_in(SimpleNamespace(counted=lambda batch: None), [field], batch, outputs()) == []
