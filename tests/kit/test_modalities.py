"""Samples that lack a field: what stands there, and that it tells nothing."""

from __future__ import annotations

import pytest
import torch

from kdsearch.kinds import Batch, Field
from kdsearch.kit.modalities import is_present, present_field, without

SOUND = Field("sound", "vector", (3,), mean=(5.0, 0.0, 0.0), std=(2.0, 1.0, 1.0))


def batch():
    return Batch(tuple("abc"), {"sound": torch.ones(3, 3), "present_sound": torch.tensor([1.0, 0.0, 1.0])})


def test_what_is_lacking_reads_zeros_and_is_said_to():
    found = without(batch(), "sound", torch.tensor([False, False, True]))
    assert is_present(found, "sound").tolist() == [True, False, False]
    assert found["sound"][2].tolist() == [0, 0, 0]
    assert found["sound"][0].tolist() == [1, 1, 1]
    assert is_present(Batch(("a",), {"x": torch.ones(1, 2)}), "x").tolist() == [True]
    assert present_field(SOUND) == Field("present_sound", "present", (), "float32")
    with pytest.raises(KeyError, match="present_x"):
        without(Batch(("a",), {"x": torch.ones(1, 2)}), "x", torch.tensor([True]))
