"""The contract that every distiller keeps, and the value of one worked by hand: `python -m pytest`."""

import pytest
import torch
from kdsearch_own.angle import Angle, AngleOptions

from kdsearch.testing.distiller import DistillerContract
from kdsearch.testing.step import HandStep


class TestAngle(DistillerContract):
    distiller = Angle
    zero_at_equal = ("angle",)


def test_value_by_hand():
    student, teacher = torch.tensor([[1.0, -1.0, 0.0]]), torch.tensor([[2.0, 0.0, -2.0]])
    found = Angle(AngleOptions()).terms(HandStep({"logits": student}, {"logits": teacher}))
    assert found["angle"].item() == pytest.approx(1 - 2 / (2**0.5 * 8**0.5))  # 1 - cos = 1 - 0.5
