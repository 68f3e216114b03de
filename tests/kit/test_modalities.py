"""Samples that lack a field: what stands there, and that it tells nothing."""

from __future__ import annotations

import pytest
import torch

from kdsearch.kinds import Batch, Field
from kdsearch.kit.modalities import is_present, may_lack, present_field, without

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


def test_a_mask_goes_with_its_field():
    words = Batch(
        tuple("abc"),
        {
            "words": torch.tensor([[3, 4], [5, 0], [0, 0]]),
            "words_mask": torch.tensor([[1, 1], [1, 0], [0, 0]]),
            "present_words": torch.tensor([True, True, False]),
            "other": torch.ones(3),
        },
    )
    found = without(words, "words", torch.tensor([True, False, False]))
    assert found["words"].tolist() == [[0, 0], [5, 0], [0, 0]]
    assert found["words_mask"].tolist() == [[0, 0], [1, 0], [0, 0]]
    assert found["present_words"].tolist() == [False, True, False]
    none = without(words, "words")
    assert not any(none[each].any() for each in ("words", "words_mask", "present_words"))
    assert none["other"].all()
    assert none["present_words"].dtype == torch.bool


def test_what_may_be_missing_is_told_by_names():
    assert may_lack(("words", "words_mask", "present_words", "image")) == ("words",)
    assert present_field(Field("body", "tokens", (None,), "int64", "extra")).use == "extra"
