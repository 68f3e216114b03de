"""Samples of some classes, and what is learnt and forgotten of groups of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.builtin.classification import Classification
from kdsearch.engine.forgetting import by_classes
from kdsearch.engine.of_classes import OfClasses
from kdsearch.errors import DataError, PluginError
from kdsearch.host import Host
from kdsearch.kinds import HIDDEN, Batch, Field
from kdsearch.kinds.targets import of_classes
from kdsearch.testing.training import TensorSource

LABELS = torch.tensor([0, 3, 1, 3, 2, HIDDEN, 0, 1])


def source() -> TensorSource:
    return TensorSource({"train": {"image": torch.randn(8, 1, 2, 2), "label": LABELS}}, n_classes=4)


def classification() -> Classification:
    cls = Host.load().load_class("task", "classification")
    return cls(cls.options_class())


class Loaded(Classification):
    """Says nothing of its own, but the host cannot know."""

    def of_classes(self, batch, classes, targets):
        return super().of_classes(batch, classes, targets)


@pytest.mark.parametrize("task", [classification(), Loaded(Classification.options_class())])
@pytest.mark.parametrize("with_labels", [True, False])
def test_samples_of_the_classes_in_order(task, with_labels):
    split = source().split("train")
    if with_labels:
        split.labels = LABELS
    found = OfClasses(split, task, task.targets(source().fields), {3, 0})
    assert found.ids == tuple(split.ids[i] for i in (0, 1, 3, 6))
    batch = found.load([2, 0])
    assert batch.ids == (split.ids[3], split.ids[0])
    assert batch["label"].tolist() == [3, 0]
    assert torch.equal(batch["image"], split.load([3, 0])["image"])


def test_none_is_told():
    task = classification()
    with pytest.raises(DataError, match="no sample of split 'train' shows one of the classes 7, 9"):
        OfClasses(source().split("train"), task, task.targets(source().fields), (9, 7), "train")


def test_labels_one_by_one_of_other_classes_are_not_known():
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 0]])
    batch = Batch(("a", "b", "c"), {"labels": labels})
    found, shown = of_classes(batch, [2], [Field("labels", "labels", (3,), "float32", "target")])
    assert shown.tolist() == [True, False, False]
    assert torch.equal(found["labels"].isnan(), torch.tensor([[True, True, False]] * 3))
    assert found["labels"][:, 2].tolist() == [1, 0, 0]
    whole, _ = of_classes(
        Batch(("a",), {"labels": torch.tensor([[1, 0, 1]])}), [0], [Field("labels", "labels", (3,), "int64", "target")]
    )
    assert whole["labels"].tolist() == [[1, HIDDEN, HIDDEN]]


def test_numbers_have_no_classes():
    batch = Batch(("a",), {"price": torch.ones(1)})
    with pytest.raises(PluginError, match="the target 'price' is no class"):
        of_classes(batch, [0], [Field("price", "value", (), "float32", "target")])


@given(
    st.integers(2, 5).flatmap(
        lambda n: st.lists(st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=n, max_size=n)
    )
)
def test_forgetting_is_the_mean_loss_since_the_best(table):
    """Against a plain transcription; a[l][j] for j <= l is what the objective of group j is after phase l."""
    a, n = np.array(table), len(table)
    learnt, before, found = {}, [], {}
    for last in range(n):
        learnt[f"p{last}"] = [last]
        of = {(last_group,): a[last][last_group] for last_group in range(last + 1)}
        found = by_classes(lambda c, of=of: of.get(tuple(c), 0.5), learnt, before, "max")
        before.append(found)
    lost = [max(a[i][j] for i in range(j, n - 1)) - a[n - 1][j] for j in range(n - 1)]
    assert found["forgotten"] == pytest.approx(np.mean(lost))
    assert found["new"] == a[n - 1][n - 1]


def test_of_a_metric_that_is_to_fall_and_of_groups_that_nothing_shows():
    first = by_classes(lambda _: 2.0, {"a": [0]}, [], "min")
    assert (first["old"], first["forgotten"], first["all"]) == (None, None, 2.0)
    second = by_classes(lambda c: {(0,): 2.5, (1,): math.nan}.get(tuple(c), 9.0), {"a": [0], "b": [1]}, [first], "min")
    assert second["forgotten"] == 0.5
    assert second["new"] is None
    assert second["all"] == 9.0
    assert second["old"] == 2.5
