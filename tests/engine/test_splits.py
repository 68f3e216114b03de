"""The study's splits: stratified, by id and seed alone, with a budget of labels that never lies."""

from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsearch.builtin.classification import Classification
from kdsearch.engine.splits import arrange, check_trainable
from kdsearch.engine.strata import apportion
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Batch, Field


class Table:
    """A split of samples whose `x` is a number that tells them apart; loads count, `labels` are not offered."""

    def __init__(self, ids, labels, x=None):
        self.ids, self._labels = tuple(ids), torch.tensor(labels, dtype=torch.int64)
        self._x = torch.arange(len(self.ids), dtype=torch.float32) if x is None else x

    def load(self, index, augment=False, seed=0):
        at = torch.as_tensor(list(index), dtype=torch.long)
        x = self._x[at] + (seed if augment else 0)
        tensors = {"x": x, **({"label": self._labels[at]} if len(self._labels) == len(self.ids) else {})}
        return Batch(tuple(self.ids[i] for i in index), tensors, texts={"name": [self.ids[i] for i in index]})


class Tables:
    def __init__(self, classes=None, labels=True, **splits):
        self._splits = splits
        self.fields = (Field("x", "vector", ()), *([Field("label", "label", (), "int64", "target")] if labels else []))
        self.facts = {"classes": classes, "content": "c"} if classes else {}

    @property
    def splits(self):
        return tuple(self._splits)

    def split(self, name):
        return self._splits[name]


def tables(n=100, k=4, skew=False, classes=True, **more):
    labels = [min(i % k, i % 3) if skew else i % k for i in range(n)]
    names = [f"c{i}" for i in range(k)] if classes else None
    return Tables(names, train=Table([f"s{i}" for i in range(n)], labels), **more)


def visible(arranged, name):
    split = arranged.split(name)
    return split.load(range(len(split.ids)))["label"].numpy()


def make(source, labeled=1.0, validation=0.15, test=0.2, train_samples=None, seed=0):
    return arrange(source, labeled=labeled, validation=validation, test=test, train_samples=train_samples, seed=seed)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(60, 200),
    k=st.integers(1, 5),
    skew=st.booleans(),
    labeled=st.floats(0.2, 1.0),
    validation=st.floats(0.05, 0.4),
    test=st.floats(0.05, 0.4),
    seed=st.integers(0, 9),
)
def test_every_sample_is_in_one_split_and_the_budget_is_exact(n, k, skew, labeled, validation, test, seed):
    a = make(tables(n, k, skew), labeled, validation, test, seed=seed)
    ids = {name: list(a.split(name).ids) for name in a.splits}
    assert sorted(ids["train"] + ids["val"] + ids["test"]) == sorted(f"s{i}" for i in range(n))
    assert sorted(ids["labeled"] + ids.get("unlabeled", [])) == sorted(ids["train"])
    assert abs(len(ids["test"]) - test * n) <= k
    assert abs(len(ids["val"]) - validation * n) <= k
    seen = sum(int((visible(a, name) != HIDDEN).sum()) for name in ("train", "val"))
    assert seen == round(labeled * (n - len(ids["test"])))
    assert (visible(a, "test") != HIDDEN).all()


def test_labels_shown_are_the_true_ones_and_the_rest_reads_hidden():
    source = tables(200, 4)
    true = {f"s{i}": i % 4 for i in range(200)}
    a = make(source, labeled=0.25)
    for name in a.splits:
        batch = a.split(name).load(range(len(a.split(name).ids)))
        known = set(a.split("labeled").ids)
        for sample, label in zip(batch.ids, batch["label"].tolist(), strict=True):
            if name == "train":
                assert label == (true[sample] if sample in known else HIDDEN)
            elif name == "unlabeled":
                assert label == HIDDEN
            else:
                assert label in ({true[sample], HIDDEN} if name == "val" else {true[sample]})
    assert (visible(a, "labeled") != HIDDEN).all()
    assert 0 < (visible(a, "val") != HIDDEN).sum() < len(a.split("val").ids)


def test_stratified_within_one_sample_of_each_class_share():
    a = make(tables(400, 4), labeled=0.1)
    for name, n in (("test", 20), ("val", 15), ("train", 65)):
        assert set(Counter(int(s[1:]) % 4 for s in a.split(name).ids).values()) == {n}
    assert max(a.counts()["labeled"][c] for c in ("c0", "c1", "c2", "c3")) <= 7


def test_small_budget_covers_train_first_then_val():
    just = make(tables(200, 4), labeled=4).counts()
    assert all(just["train"][f"c{i}"] == 1 for i in range(4))
    assert just["val"]["unlabeled"] == 30
    both = make(tables(200, 4), labeled=8).counts()
    assert all(both[name][f"c{i}"] == 1 for i in range(4) for name in ("train", "val"))


def test_same_seed_same_splits_other_seed_other_splits():
    assert make(tables(), 0.3).digest() == make(tables(), 0.3).digest()
    assert make(tables(), 0.3).digest() != make(tables(), 0.3, seed=1).digest()
    assert make(tables(), 0.3).digest() != make(tables(), 0.4).digest()


def test_digest_follows_labels_that_are_seen_where_the_ids_stay():
    ids = [f"s{i}" for i in range(80)]
    one, other = (make(Tables(["a", "b"], train=Table(ids, [(i + k) % 2 for i in range(80)]))) for k in (0, 1))
    assert all(one.split(name).ids == other.split(name).ids for name in one.splits)
    assert one.digest() != other.digest()


def test_order_of_the_source_does_not_matter():
    forward = tables(120, 3)
    order = np.random.default_rng(0).permutation(120)
    shuffled = Tables(["c0", "c1", "c2"], train=Table([f"s{i}" for i in order], [int(i) % 3 for i in order]))
    for name in ("train", "labeled", "val", "test"):
        assert set(make(forward, 0.2).split(name).ids) == set(make(shuffled, 0.2).split(name).ids)


def test_adding_samples_moves_few():
    few, more = make(tables(1000, 4)), make(tables(1020, 4))
    moved = set(few.split("test").ids) ^ set(more.split("test").ids)
    assert len(moved) <= 2 * 20
    assert len(set(few.split("labeled").ids) - set(more.split("train").ids)) <= 20


def test_more_labels_keep_those_that_were_known():
    few, more = make(tables(400, 4), 0.1), make(tables(400, 4), 0.2)
    assert len(set(few.split("labeled").ids) - set(more.split("labeled").ids)) <= 4


def test_native_splits_are_kept_whole():
    source = tables(60, 3, val=Table(["v0", "v1", "v2"], [0, 1, 2]), test=Table(["t0", "t1", "t2", "t3"], [0, 1, 2, 0]))
    a = make(source, labeled=1.0)
    assert list(a.split("val").ids) == ["v0", "v1", "v2"]
    assert list(a.split("test").ids) == ["t0", "t1", "t2", "t3"]
    assert len(a.split("train").ids) == 60
    assert a.facts["splits"]["native"] == ["val", "test"]


def test_native_unlabeled_samples_join_train_without_labels_and_in_any_order():
    source = tables(40, 2, unlabeled=Table(["u0", "u1", "u2"], [], x=torch.tensor([100.0, 101.0, 102.0])))
    a = make(source)
    assert {"u0", "u1", "u2"} <= set(a.split("train").ids)
    assert set(a.split("unlabeled").ids) == {"u0", "u1", "u2"}
    train = a.split("train")
    expected = {**{f"s{i}": float(i) for i in range(40)}, "u0": 100.0, "u1": 101.0, "u2": 102.0}
    index = torch.randperm(len(train.ids), generator=torch.Generator().manual_seed(0)).tolist()
    batch = train.load(index)
    assert [expected[s] for s in batch.ids] == batch["x"].tolist()
    assert batch.texts["name"] == list(batch.ids) == [train.ids[i] for i in index]
    assert a.revealed().counts()["train"]["unlabeled"] == 3


def test_labels_missing_in_the_source_stay_missing():
    labels = [HIDDEN if i % 2 else i % 4 // 2 for i in range(80)]
    a = make(Tables(["a", "b"], train=Table([f"s{i}" for i in range(80)], labels)), labeled=1.0)
    assert a.counts()["train"]["unlabeled"] == a.revealed().counts()["train"]["unlabeled"] > 0
    assert len(a.split("unlabeled").ids) == a.counts()["train"]["unlabeled"]


def test_a_carved_test_split_has_every_label():
    """Else a student would be judged by its teacher's answers there, and what has no teacher by the labels that are left."""
    labels = [i // 10 % 2 if i % 10 == 0 else HIDDEN for i in range(1000)]
    a = make(Tables(["a", "b"], train=Table([f"s{i}" for i in range(1000)], labels)), labeled=1.0, test=0.2)
    assert a.counts()["test"] == {"a": 10, "b": 10, "unlabeled": 0}
    assert a.counts()["val"]["unlabeled"] > 0, "there a teacher may stand in"
    none = make(Tables(["a", "b"], train=Table([f"s{i}" for i in range(50)], [HIDDEN] * 50)), labeled=1.0, test=0.2)
    assert len(none.split("test").ids) == 10, "where none is known all are alike"


def test_revealed_keeps_the_samples_and_shows_every_label():
    a = make(tables(200, 4), labeled=0.1)
    shown = a.revealed()
    for name in ("train", "val", "test"):
        assert shown.split(name).ids == a.split(name).ids
        assert [int(s[1:]) % 4 for s in shown.split(name).ids] == visible(shown, name).tolist()
    assert "unlabeled" not in shown.splits
    assert (visible(a, "train") == HIDDEN).sum() > 0  # the original still hides
    assert shown.digest() != a.digest()


def test_counts_add_up():
    a = make(tables(200, 4), labeled=0.3)
    assert list(a.splits) == ["train", "labeled", "unlabeled", "val", "test"]
    for name, each in a.counts().items():
        assert sum(each.values()) == len(a.split(name).ids)
        assert each["c1"] == (visible(a, name) == 1).sum()


def test_train_samples_is_a_stratified_part():
    whole, part = make(tables(400, 4)), make(tables(400, 4), train_samples=40)
    assert set(part.split("train").ids) < set(whole.split("train").ids)
    assert part.split("test").ids == whole.split("test").ids
    assert set(part.counts()["train"].values()) == {10, 0}


def test_augment_and_seed_reach_the_source():
    a = make(tables(40, 2))
    split = a.split("train")
    assert torch.equal(split.load([0, 1], True, 5)["x"], split.load([0, 1])["x"] + 5)


def test_without_labels_only_random_splits():
    source = Tables(labels=False, train=Table([f"s{i}" for i in range(50)], []))
    a = make(source)
    assert a.splits == ("train", "labeled", "val", "test")
    assert list(a.split("labeled").ids) == list(a.split("train").ids), (
        "nothing is hidden where there is nothing to hide"
    )
    assert a.counts()["test"] == {"samples": 10}
    assert "label" not in a.split("train").load([0, 1])
    assert a.revealed() is a
    with pytest.raises(DataError, match="no labels to hide"):
        make(source, labeled=0.5)


def test_a_class_of_one_sample_stays_in_train():
    source = Tables(["a", "rare"], train=Table([f"s{i}" for i in range(30)], [0] * 29 + [1]))
    assert make(source).counts()["train"]["rare"] == 1


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (lambda: tables(100, 4), {"labeled": 3}, ["labeled 3", "4 classes", "data.labeled", "80 samples"]),
        (lambda: tables(100, 4), {"labeled": 0.01}, ["means 1 labels", "4 classes"]),
        (
            lambda: Tables(["a", "b", "never"], train=Table([f"s{i}" for i in range(40)], [0, 1] * 20)),
            {"labeled": 1},
            ["labeled 1 means 1 labels for 2 classes", "at least 2 of the"],
        ),
        (lambda: tables(100, 4), {"labeled": 81}, ["labeled 81", "only 80", "65 in train, 15 in val"]),
        (lambda: tables(100, 4), {"validation": 0.6, "test": 0.4}, ["0.6", "0.4", "less than 1"]),
        (lambda: tables(100, 4), {"train_samples": 66}, ["train_samples 66", "65 training"]),
        (lambda: tables(100, 4), {"train_samples": 3}, ["train_samples 3", "4 classes"]),
        (lambda: tables(2, 1), {}, ["split 'val' is empty", "data.validation"]),
        (lambda: Tables(["a"], train=Table([], [])), {}, ["is empty"]),
        (lambda: Tables(["a"], train=Table(["x", "y"], [0, 1])), {}, ["label 1 of sample 'y'", "0..0"]),
        (lambda: Tables(["a"], train=Table(["x", "y"], [0, -1])), {}, ["label -1 of sample 'y'"]),
        (lambda: tables(20, 2, test=Table(["s3"], [0])), {}, ["'s3' occurs twice", "'train' and 'test'"]),
        (lambda: tables(20, 2, test=Table([], [])), {}, ["split 'test' is empty"]),
        (lambda: Tables(["a"], val=Table(["x"], [0])), {}, ["no split 'train'"]),
        (
            lambda: Tables(["a"], train=Table([f"x{i}" for i in range(20)], [HIDDEN] * 20)),
            {"labeled": 0.5},
            ["0 labels"],
        ),
    ],
)
def test_faults_say_the_numbers(source, options, words):
    with pytest.raises(DataError) as error:
        make(source(), **options)
    for word in words:
        assert word in str(error.value)


def test_a_single_training_sample_trains_nothing():
    held_out = {name: Table([f"{name}{i}" for i in range(2)], [0, 0]) for name in ("val", "test")}
    with pytest.raises(DataError, match=r"split 'train' has 1 sample. Expected at least two"):
        check_trainable(make(Tables(["a"], train=Table(["x"], [0]), **held_out)))
    check_trainable(make(Tables(["a"], train=Table(["x", "y"], [0, 0]), **held_out)))


def test_a_split_that_does_not_exist_names_the_nearest():
    with pytest.raises(DataError, match="did you mean 'labeled'"):
        make(tables(), 0.5).split("labelled")
    with pytest.raises(DataError, match="every training sample has its label"):
        make(tables()).split("unlabeled")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=8), st.integers(0, 200))
def test_apportion_sums_within_bounds_and_near_proportion(pairs, total):
    sizes = [size for size, _ in pairs]
    least = [min(size, low) for size, low in pairs]
    parts = apportion(total, sizes, least)
    assert sum(parts) == min(max(total, sum(least)), sum(sizes))
    assert all(low <= part <= size for low, part, size in zip(least, parts, sizes, strict=True))
    if not any(least) and total <= sum(sizes):
        assert all(abs(p - total * s / (sum(sizes) or 1)) < 1 for p, s in zip(parts, sizes, strict=True))


def test_apportion_gives_the_rest_one_by_one_to_who_lacks_most():
    """In the order of what each lacks, the first of equal ones first; with 100,000 classes, too."""
    assert apportion(5, [3, 3, 3, 3], [0, 0, 0, 0]) == [2, 1, 1, 1]
    assert apportion(4, [10, 10, 1, 1], [0, 0, 1, 1]) == [1, 1, 1, 1]
    assert apportion(6, [1, 1, 10], [1, 1, 1]) == [1, 1, 4]
    n = 100_000
    sizes = [10 + i % 7 for i in range(n)]
    whole = sum(sizes)
    total = whole // 5
    lacks = [total * size / whole % 1 for size in sizes]
    base = [int(total * size / whole) for size in sizes]
    more = sorted(range(n), key=lambda i: (-lacks[i], i))[: total - sum(base)]
    for i in more:
        base[i] += 1
    assert apportion(total, sizes, [1] * n) == base


def test_nothing_held_out_is_measured_for_standardisation(tmp_path: Path) -> None:
    from kdsearch.builtin.datasets.digits import Digits, DigitsOptions
    from kdsearch.testing.dataset import FileServices

    source = Digits(DigitsOptions(resize=None)).open(FileServices(tmp_path))
    arranged = arrange(source, labeled=1.0, validation=0.15, test=0.2, seed=5)
    train = arranged.split("train")
    images = train.load(range(len(train.ids)))["image"].double()
    assert float(images.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(images.std(unbiased=False)) == pytest.approx(1.0, abs=1e-6)
    assert arranged.facts["preprocessing"]["measured_on"] == len(train.ids)
    whole = source.split("train")
    assert float(whole.load(range(len(whole.ids)))["image"].double().mean()) == pytest.approx(0.0, abs=1e-6)
    held_out = arranged.split("test")
    assert abs(float(held_out.load(range(len(held_out.ids)))["image"].double().mean())) > 1e-6


def test_data_without_one_label_are_unlabeled():
    """For a teacher's word alone: there is no split `labeled`, and the message says why."""
    a = make(Tables(["a", "b"], train=Table([f"x{i}" for i in range(20)], [HIDDEN] * 20)))
    assert a.splits == ("train", "unlabeled", "val", "test")
    assert list(a.split("unlabeled").ids) == list(a.split("train").ids)
    with pytest.raises(DataError, match="no training sample has a label"):
        a.split("labeled")


class Maps:
    """Images with a map of classes (uint8), a vector of yes and no (float) and a label that is no target, of n samples."""

    splits = ("train",)

    def __init__(self, n=40, unknown=()):
        self.facts = {"classes": ["sky", "road", "tree"]}  # of pixels, not of images
        rng = torch.Generator().manual_seed(0)
        self.fields = (
            Field("image", "image", (1, 4, 6)),
            Field("map", "map", (4, 6), "uint8", "target", 3),
            Field("tags", "vector", (5,), "float32", "target"),
        )
        self.ids = tuple(f"m{i}" for i in range(n))
        self._map = torch.randint(0, 3, (n, 4, 6), generator=rng, dtype=torch.uint8)
        self._tags = torch.randint(0, 2, (n, 5), generator=rng).float()
        for i in unknown:
            self._tags[i] = torch.nan

    def split(self, name):
        return self

    def load(self, index, augment=False, seed=0):
        at = torch.as_tensor(list(index), dtype=torch.long)
        ids = tuple(self.ids[i] for i in index)
        return Batch(ids, {"image": torch.zeros(len(ids), 1, 4, 6), "map": self._map[at], "tags": self._tags[at]})


def test_dense_targets_are_hidden_whole():
    """A quarter of 32 samples outside test is seen, maps read HIDDEN and vectors NaN elsewhere; the test split shows all."""
    source = Maps()
    a = make(source, labeled=0.25)
    counts = a.counts()
    assert counts["train"]["labeled"] + counts["val"]["labeled"] == 8
    assert counts["train"]["unlabeled"] > 0
    for name in ("train", "val", "test"):
        split = a.split(name)
        batch = split.load(range(len(split.ids)))
        hidden = (batch["map"] == HIDDEN).flatten(1).all(1)
        assert hidden.sum() == counts[name]["unlabeled"]
        assert torch.equal(hidden, batch["tags"].isnan().all(1))
        rows = torch.tensor([source.ids.index(each) for each in batch.ids])
        assert torch.equal(batch["map"][~hidden], source._map[rows][~hidden].long())
        assert torch.equal(batch["tags"][~hidden], source._tags[rows][~hidden])
    assert counts["test"]["unlabeled"] == 0
    assert not hasattr(a.split("train"), "labels") or a.split("train").labels is None
    shown = a.revealed()
    assert (shown.split("train").load(range(5))["map"] >= 0).all()
    assert len(shown.split("labeled").ids) == len(shown.split("train").ids)


class Sets:
    """n samples with a set of two labels each, of four there are; split into as many groups."""

    splits = ("train",)
    fields = (Field("x", "vector", (1,)), Field("labels", "labels", (2,), "int64", "target"))
    facts: ClassVar = {}

    def __init__(self, n=40):
        self.ids = tuple(f"s{i}" for i in range(n))

    def split(self, name):
        return self

    def load(self, index, augment=False, seed=0):
        at = torch.as_tensor(list(index), dtype=torch.long)
        ids = tuple(self.ids[i] for i in index)
        return Batch(ids, {"x": torch.zeros(len(ids), 1), "labels": torch.stack([at % 2, at // 2 % 2], 1)})


def of_sets(**options):
    from kdsearch.builtin.tables.multilabel import Multilabel

    return arrange(Sets(), validation=0.2, test=0.2, task=Multilabel(Multilabel.options_class()), **options)


def test_sets_of_labels_are_no_classes():
    """Fewer labels or samples than there are kinds of sets: some go without. Of classes that is refused."""
    counts = of_sets(labeled=3).counts()
    assert counts["train"]["labeled"] + counts["val"]["labeled"] == 3
    assert len(of_sets(labeled=1.0, train_samples=2).split("train").ids) == 2


@pytest.mark.parametrize(
    ("labeled", "words"),
    [
        (0, "labeled 0 means 0 samples with a known 'labels', .*Expected at least 1 of the 32 samples outside test"),
        (33, "labeled 33, but only 32 samples outside test have a known 'labels' .24 in train, 8 in val."),
    ],
)
def test_a_budget_is_told_in_the_words_of_the_task(labeled, words):
    with pytest.raises(DataError, match=words) as error:
        of_sets(labeled=labeled)
    assert "class" not in str(error.value)


def test_a_sample_with_one_known_target_counts_as_labeled():
    """Twelve lack their tags, and have a map: they are labelled."""
    assert make(Maps(unknown=range(12))).counts()["train"]["unlabeled"] == 0


def test_the_task_says_what_its_target_is_and_how_it_is_stratified():
    class Tagged(Classification):
        """Learns tags alone; splits keep the share of samples with the first one."""

        def targets(self, fields):
            return tuple(each for each in fields if each.name == "tags")

        def strata(self, batch, targets):
            return torch.where(batch["tags"].isnan().all(1), HIDDEN, batch["tags"][:, 0].nan_to_num().long())

    source = Maps(n=200, unknown=range(150, 200))
    a = arrange(source, labeled=0.5, validation=0.2, test=0.2, task=Tagged(Classification.options_class()))
    train = a.split("train").load(range(len(a.split("train").ids)))
    assert (train["map"] < 3).all(), "no target of this task, so never hidden"
    seen = train["tags"][~train["tags"].isnan().all(1)]
    share = float(source._tags[:150, 0].mean())
    assert float(seen[:, 0].mean()) == pytest.approx(share, abs=0.03)


class Offering(Table):
    """Its `labels` are others than those that it loads."""

    def __init__(self, ids, loaded, offered):
        super().__init__(ids, loaded)
        self.labels = torch.tensor(offered)


def offering(classes, hidden=()):
    loaded, offered = [i % 2 for i in range(40)], [HIDDEN if i in hidden else i % 2 for i in range(40)]
    loaded[7] = 9
    return make(Tables(classes, train=Offering([f"s{i}" for i in range(40)], loaded, offered)), test=0.1)


@pytest.mark.parametrize("wrong", [2, -1, 9])
def test_a_class_that_is_none_is_said_when_it_is_loaded_whatever_labels_are_offered(wrong):
    source = Tables(["a", "b"], train=Offering("pqrstuvw", [0, 1, 0, wrong, 0, 1, 0, 1], [0, 1] * 4))
    split = make(source, validation=0.25, test=0.25)
    (name,) = (name for name in ("train", "val", "test") if "s" in split.split(name).ids)
    own = split.split(name)
    at = own.ids.index("s")
    with pytest.raises(DataError, match=f"data: 'label' of sample 's' is {wrong}. Expected 0..1 for the 2 classes"):
        own.load(range(len(own.ids)))
    assert own.load([i for i in range(len(own.ids)) if i != at])["label"].max() < 2


def test_a_class_that_the_study_does_not_see_is_none_of_its_business():
    a = offering(["a", "b"], hidden=[7])
    assert 9 not in [int(each) for name in ("train", "val", "test") for each in visible(a, name)]


def test_strata_are_no_bound_of_targets_where_no_classes_are_stated():
    a = offering(None)
    assert 9 in [int(each) for name in ("train", "val", "test") for each in visible(a, name)]
