"""Groups are carved whole, about as many samples as are asked for, and one by one as ever where each sample is alone."""

import hashlib
from collections import Counter
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsearch.engine.splits import arrange
from kdsearch.engine.strata import apportion
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Batch, Field


class Grouped:
    """Samples of three classes in one split, in groups by name where there are any."""

    splits = ("train",)
    fields = (Field("x", "vector", ()), Field("label", "label", (), "int64", "target"))
    facts: ClassVar = {"classes": ["a", "b", "c"]}

    def __init__(self, labels, groups=None):
        self.ids, self._labels = tuple(f"s{i}" for i in range(len(labels))), torch.tensor(labels)
        if groups is not None:
            self.groups = tuple(groups)

    def split(self, name):
        return self

    def load(self, index, augment=False, seed=0):
        at = torch.tensor(list(index), dtype=torch.int64)
        return Batch(tuple(self.ids[i] for i in index), {"x": at.float(), "label": self._labels[at]})


def carved(labels, groups=None, validation=0.2, test=0.2, seed=0):
    """The ids of train, val and test."""
    a = arrange(Grouped(labels, groups), labeled=1.0, validation=validation, test=test, seed=seed)
    return {name: set(a.split(name).ids) for name in ("train", "val", "test")}


def expanded(groups):
    """[(class of each sample, ...)] a group -> classes and names, a sample each."""
    return [c for each in groups for c in each], [f"g{j}" for j, each in enumerate(groups) for _ in each]


SHARES = st.floats(0.1, 0.3)
GROUPS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 2), st.integers(1, 4)).map(lambda of: (of[0],) * of[1]),
        st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple),
    ),
    min_size=40,
    max_size=60,
)


@settings(max_examples=50, deadline=None)
@given(GROUPS, SHARES, SHARES, st.integers(0, 9))
def test_no_group_goes_apart_and_sizes_are_those_asked_for_within_one_group(groups, validation, test, seed):
    labels, names = expanded(groups)
    found = carved(labels, names, validation, test, seed)
    where = {sample: name for name, ids in found.items() for sample in ids}
    assert len(where) == len(labels) == sum(map(len, found.values()))
    assert all(len({where[f"s{i}"] for i in range(len(labels)) if names[i] == each}) == 1 for each in set(names))
    for name, share in (("val", validation), ("test", test)):
        assert 0 <= round(share * len(labels)) - len(found[name]) < max(map(len, groups))
    of_several = {c for each in groups if len(each) > 1 for c in each}
    assert of_several <= {labels[int(sample[1:])] for sample in found["train"]}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=20, max_size=60), SHARES, SHARES, st.integers(0, 9), st.randoms())
def test_samples_that_are_alone_are_chosen_by_their_ids(labels, validation, test, seed, random):
    left, expected = set(range(len(labels))), {}
    for name, share in (("test", test), ("val", validation)):
        classes = [[i for i in sorted(left) if labels[i] == c] for c in range(3)]
        sizes = [len(each) for each in classes]
        parts = apportion(round(share * len(labels)), sizes, [min(1, max(0, size - 1)) for size in sizes])
        chosen = set()
        for each, part in zip(classes, parts, strict=True):
            digest = {i: hashlib.blake2b(f"{seed}\0{name}\0s{i}".encode(), digest_size=16).digest() for i in each}
            chosen |= set(sorted(each, key=digest.__getitem__)[:part])
        expected[name], left = {f"s{i}" for i in chosen}, left - chosen
    expected["train"] = {f"s{i}" for i in left}
    names = [f"n{i}" for i in range(len(labels))]
    random.shuffle(names)
    assert carved(labels, None, validation, test, seed) == expected
    assert carved(labels, names, validation, test, seed) == expected


def test_a_group_that_does_not_fit_is_passed_over():
    """Four of 20 samples are asked for: the group of six has no room, whatever its place."""
    names = ["six"] * 6 + [f"n{i // 2}" for i in range(14)]
    for seed in range(20):
        found = carved([0] * 20, names, test=0.2, validation=0.2, seed=seed)
        assert len(found["test"]) == len(found["val"]) == 4
        assert {f"s{i}" for i in range(6)} <= found["train"]


def test_pairs_fill_a_split_though_no_class_has_room_for_one():
    """A sample of each class is asked for: one class gives a pair, and the third sample goes unfilled."""
    labels, names = expanded([(c, c) for c in (0, 1, 2) for _ in range(5)])
    found = carved(labels, names, validation=0.1, test=0.1)
    assert len(found["test"]) == len(found["val"]) == 2


def test_classes_that_gave_nothing_come_first():
    """Two, one and one of the classes are asked for, of which b and c have pairs alone: one of them gives a pair."""
    labels, names = expanded([(0,)] * 20 + [(1, 1)] * 5 + [(2, 2)] * 5)
    for seed in range(20):
        found = Counter(labels[int(each[1:])] for each in carved(labels, names, 0.1, 0.1, seed)["test"])
        assert found[0] == 2
        assert {found[1], found[2]} == {0, 2}


def test_a_class_keeps_its_last_group():
    labels, names = expanded([(0,)] * 20 + [(1, 1)] + [(2, 2)] * 2)
    for seed in range(20):
        train = carved(labels, names, validation=0.3, test=0.3, seed=seed)["train"]
        assert {labels[int(sample[1:])] for sample in train} == {0, 1, 2}


def test_a_group_with_a_sample_that_nobody_knows_is_not_tested_on():
    labels, names = expanded([(0, HIDDEN), (0, 0), (1, 1), (1, HIDDEN)] * 10)
    found = carved(labels, names, validation=0.2, test=0.2)
    assert found["test"]
    assert all(labels[int(sample[1:])] != HIDDEN for sample in found["test"])


def test_faults_are_told():
    with pytest.raises(DataError, match="2 `groups` of 20 samples"):
        carved([0] * 20, ["a", "b"])
    with pytest.raises(DataError, match=r"'val' is empty.*20 samples, 2 groups that stay together"):
        carved([0, 1] * 10, ["a", "b"] * 10)
