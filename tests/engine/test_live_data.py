"""Live Datasets and arrays as data sources: ids, labels, pixels, randomness by sample, and honest errors."""

import random

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Subset, random_split

from kdsearch.builtin.tables.regression import Regression, RegressionOptions
from kdsearch.engine.live_data import from_torch
from kdsearch.engine.live_samples import Columns
from kdsearch.engine.splits import arrange
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Dataset, Field, NoOptions
from kdsearch.testing.dataset import DatasetContract


class Pairs(TorchDataset):
    """n grey images of side 6; `noise` adds the program's own random transform, from all three global generators."""

    def __init__(self, n=20, noise=False, classes=None, start=0):
        self.n, self.noise, self.start = n, noise, start
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        image = torch.full((1, 6, 6), float(i + self.start))
        if self.noise:
            image = image + torch.rand(1) + random.random() + np.random.rand()
        return image.float(), i % 3


class Wrapped(Dataset[NoOptions]):
    def __init__(self, source):
        super().__init__(NoOptions())
        self.source, self.augments = source, source.augments

    def open(self, services):
        return self.source


class Same(DatasetContract):
    def test_ids_are_unique_and_stable(self, source):
        ids = [sample for name in source.splits for sample in source.split(name).ids]
        assert len(set(ids)) == len(ids)


class TestPairs(Same):
    @pytest.fixture
    def dataset(self):
        return Wrapped(from_torch({"train": Pairs(), "test": Pairs(7, start=100)}))


class Texts(TorchDataset):
    """Sample i is its number, twice, and a token of padding."""

    def __len__(self):
        return 9

    def __getitem__(self, i):
        return {"tokens": torch.tensor([i, i, 0]), "mask": torch.tensor([True, True, False]), "label": i % 2}


class TestTexts(Same):
    @pytest.fixture
    def dataset(self):
        return Wrapped(from_torch(Texts()))


@pytest.mark.parametrize("columns", [False, True])
def test_texts_have_their_vocabulary_from_all_splits(columns):
    test = {
        "tokens": torch.tensor([[3, 20, 0]]),
        "mask": torch.ones(1, 3, dtype=torch.bool),
        "label": torch.tensor([1]),
    }
    train = {name: torch.stack([Texts()[i][name] for i in range(9)]) for name in ("tokens", "mask")}
    train["label"] = torch.arange(9) % 2
    source = from_torch({"train": train if columns else Texts(), "test": test})
    tokens, mask = source.fields[:2]
    assert (tokens.kind, tokens.shape, tokens.n_values) == ("tokens", (3,), 21)
    assert (mask.kind, mask.shape, mask.n_values) == ("mask", (3,), None)


def test_a_negative_token_is_named():
    tokens = torch.zeros(600, 3, dtype=torch.long)
    tokens[300, 1] = -1
    with pytest.raises(DataError, match="token id -1 in sample 300 of split 'train'"):
        from_torch({"tokens": tokens, "label": torch.zeros(600, dtype=torch.long)})


class TestNoisyPairs(Same):
    @pytest.fixture
    def dataset(self):
        return Wrapped(from_torch(Pairs(noise=True)))


class TestColumns(Same):
    @pytest.fixture
    def dataset(self):
        images = np.random.default_rng(0).integers(0, 256, (30, 5, 4), dtype=np.uint8)
        return Wrapped(from_torch((images, np.arange(30) % 4)))


def test_sixteen_bits_become_fractions_and_narrow_token_ids_wide():
    pixels = np.array([0, 257, 65_535, 13_107], np.uint16).reshape(1, 2, 2).repeat(3, 0)
    batch = from_torch({"image": pixels, "label": [0, 1, 0]}).split("train").load([0])
    assert batch["image"].flatten().tolist() == pytest.approx([0, 1 / 255, 1, 0.2])
    for dtype in (np.uint8, np.int16, np.uint16, np.int64):
        tokens = np.arange(12, dtype=dtype).reshape(3, 4)
        loaded = from_torch({"tokens": tokens, "label": [0, 1, 0]}).split("train").load([1, 2])["tokens"]
        assert (loaded.dtype, loaded.tolist()) == (torch.int64, tokens[1:].tolist())


def test_uint8_and_pictures_become_fractions_floats_stay():
    pixels = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    batch = from_torch((pixels, [0, 1])).split("train").load([1])
    np.testing.assert_allclose(batch["image"][0, 0].numpy(), pixels[1] / 255.0, rtol=1e-6)
    assert batch["image"].shape == (1, 1, 4, 4)

    rgb = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    listed = Listed([(Image.fromarray(rgb), 1), (Image.fromarray(rgb[::-1].copy()), 0)])
    batch = from_torch(listed).split("train").load([0])
    np.testing.assert_allclose(batch["image"][0].numpy(), rgb.transpose(2, 0, 1) / 255.0, rtol=1e-6)

    floats = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 9
    assert torch.equal(from_torch((floats, torch.tensor([0, 1, 2]))).split("train").load([2])["image"], floats[2:])


class Listed(TorchDataset):
    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        return self.samples[i]


class Unreadable(Listed):
    def __getitem__(self, i):
        return {}["picture"]


def test_global_generators_are_left_alone():
    source = from_torch(Pairs(noise=True))
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    source.split("train").load([0, 1], True, 4)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_random_transforms_that_are_rare_are_noticed():
    """One in ten samples is changed: eight samples show none of it almost half of the time."""
    for k in range(10):

        class Rare(Pairs):
            def __getitem__(self, i, skipped=k):
                image, label = super().__getitem__(i)
                return (image * 0.5 if torch.rand(1 + skipped)[-1] < 0.1 else image), label

        assert from_torch(Rare(n=100)).augments


def test_random_transforms_are_noticed():
    assert from_torch(Pairs(noise=True)).augments
    assert not from_torch(Pairs()).augments


def test_digest_follows_content_labels_and_length():
    base = from_torch(Pairs()).facts["content"]
    assert base == from_torch(Pairs()).facts["content"]
    others = [Pairs(21), Pairs(start=1), Listed([(Pairs()[i][0], 0) for i in range(20)])]
    assert len({base, *(from_torch(each).facts["content"] for each in others)}) == 4
    images = torch.zeros(3000, 1, 2, 2)
    changed = images.clone()
    changed[2999, 0, 1, 1] = 1e-6
    labels = torch.zeros(3000, dtype=torch.long)
    assert from_torch((images, labels)).facts["content"] != from_torch((changed, labels)).facts["content"]


def test_targets_spare_reading_every_sample():
    class Counted(Pairs):
        read = 0

        def __getitem__(self, i):
            self.read += 1
            return super().__getitem__(i)

    with_targets, without = Counted(6000), Counted(6000)
    with_targets.targets = [i % 3 for i in range(6000)]
    sources = [from_torch(with_targets), from_torch(without)]
    assert with_targets.read < 1300 < 6000 <= without.read
    assert torch.equal(sources[0].split("train").labels, sources[1].split("train").labels)


def test_targets_that_the_samples_do_not_have_are_not_theirs():
    """A subclass that makes two classes of three keeps the targets of the Dataset that it is of."""

    class Odd(Pairs):
        targets = [i % 3 for i in range(40)]  # noqa: RUF012

        def __getitem__(self, i):
            image, label = super().__getitem__(i)
            return image, label % 2

    source = from_torch(Odd(40))
    assert source.facts["classes"] == ["0", "1"]
    assert source.split("train").labels.tolist() == [i % 3 % 2 for i in range(40)]


@pytest.mark.parametrize(
    "targets",
    [
        ["a"] * 40,
        [None] * 40,
        [{"class": 1}] * 40,
        [[1, 2], [3]] * 20,
        torch.arange(40.0) % 3,
        lambda: 3,
        [2**70] * 40,
    ],
    ids=["texts", "nothing", "dicts", "ragged", "floats", "method", "huge"],
)
def test_targets_that_are_no_class_indices_are_not_read(targets):
    data = Pairs(40)
    data.targets = targets
    assert from_torch(data).split("train").labels.tolist() == [i % 3 for i in range(40)]


def test_a_subset_has_the_targets_and_classes_of_what_it_is_of():
    class Counted(Pairs):
        read = 0

        def __getitem__(self, i):
            type(self).read += 1
            return super().__getitem__(i)

    data = Counted(6000, classes=["a", "b", "c"])
    data.targets = [i % 3 for i in range(6000)]
    half, rest = random_split(data, [5000, 1000], torch.Generator().manual_seed(0))
    source = from_torch({"train": Subset(half, range(4000)), "test": rest})
    assert Counted.read < 2600
    assert source.split("train").labels.tolist() == [i % 3 for i in half.indices[:4000]]
    assert source.facts["classes"] == ["a", "b", "c"]


def test_lists_halves_and_arrays_of_other_libraries_are_samples():
    images, labels = torch.rand(6, 1, 4, 4).half(), torch.arange(6) % 3
    listed = from_torch([(image, label[None]) for image, label in zip(images, labels, strict=True)])
    framed = from_torch((images, pandas.Series(labels.numpy())))
    for source in (listed, framed):
        batch = source.split("train").load([4])
        assert torch.equal(batch["image"], images[4:5].float())
        assert batch["label"].tolist() == source.split("train").labels[4:5].tolist() == [1]
    assert from_torch(Pairs(classes=np.array(["a", "b", "c"]))).facts["classes"] == ["a", "b", "c"]


def test_arrays_are_not_held_twice(monkeypatch):
    images, targets = np.zeros((6, 4, 4), np.uint8), np.arange(6.0)
    (train,) = from_torch({"image": images, "target": targets})._splits.values()
    assert train._samples.columns["image"].data_ptr() == images.ctypes.data
    frozen = images[:, ::-1].copy()
    frozen.flags.writeable = False
    for unlike in (images[:, ::-1], frozen):
        assert from_torch((unlike, [0, 1] * 3)).split("train").load([0])["image"].shape == (1, 1, 4, 4)
    read, rows = [], Columns.rows
    monkeypatch.setattr(Columns, "rows", lambda self, index, seeds: read.extend(index) or rows(self, index, seeds))
    from_torch({"image": np.zeros((5000, 2, 2), np.uint8), "target": np.arange(5000.0)})
    assert len(read) < 5300, "once for the digest; not for the target"


def test_copies_of_training_samples_are_counted_whatever_their_label():
    images = torch.arange(30.0).reshape(30, 1, 1, 1).expand(30, 1, 2, 2)
    labels = torch.arange(30) % 3
    val, test = (images[:4], (labels[:4] + 1) % 3), (images[28:], labels[28:])
    source = from_torch({"train": (images[:20], labels[:20]), "unlabeled": images[20:29], "val": val, "test": test})
    assert source.facts["copies"] == {"val": 4, "test": 1}
    assert from_torch({"train": Pairs(30, noise=True), "test": Pairs(30, noise=True)}).facts["copies"] == {"test": 30}
    assert "copies" not in from_torch({"train": Pairs(20), "test": Pairs(20, start=20)}).facts


def test_numbers_that_nobody_knows_are_no_chance():
    target = torch.arange(20.0)
    target[3] = torch.nan
    assert not from_torch({"image": torch.rand(20, 1, 4, 4), "target": target}).augments


def test_named_columns_and_class_names():
    columns = {"image": np.zeros((4, 2, 2), np.uint8), "label": np.array([0, 1, 0, HIDDEN]), "depth": np.ones((4, 3))}
    source = from_torch(columns, classes=["cat", "dog"])
    assert [field.name for field in source.fields] == ["image", "label", "depth"]
    assert source.split("train").load([0])["depth"].dtype == torch.float32
    assert source.facts["classes"] == ["cat", "dog"]
    assert from_torch(Pairs(classes=["a", "b", "c"])).facts["classes"] == ["a", "b", "c"]


def test_a_study_can_arrange_live_data_with_unlabeled_images():
    source = from_torch({"train": Pairs(30), "unlabeled": (torch.zeros(10, 1, 6, 6),)})
    arranged = arrange(source, labeled=9, validation=0.2, test=0.2, seed=0)
    assert arranged.counts()["unlabeled"]["unlabeled"] == len(arranged.split("unlabeled").ids) >= 10
    assert (
        sum(arranged.counts()["labeled"].values())
        + sum(n for name, n in arranged.counts()["val"].items() if name != "unlabeled")
        == 9
    )


IMAGES = np.random.default_rng(1).random((6, 1, 2, 3)).astype("f4")
TOKENS = np.arange(18).reshape(6, 3)


@pytest.mark.parametrize(
    ("task", "given", "expected", "values"),
    [
        ("regression", np.arange(6.0), Field("target", "value", (1,), "float32", "target"), np.arange(6.0)[:, None]),
        ("regression", np.arange(12).reshape(6, 2), Field("target", "value", (2,), "float32", "target"), None),
        (
            "multilabel",
            np.array([[0, 1.0]] * 5 + [[np.nan, 1]]),
            Field("labels", "labels", (2,), "int64", "target"),
            np.array([[0, 1]] * 5 + [[HIDDEN, 1]]),
        ),
        ("multilabel", np.eye(6, dtype=bool), Field("labels", "labels", (6,), "int64", "target"), np.eye(6)),
        (
            "segmentation",
            np.arange(36, dtype="u1").reshape(6, 2, 3),
            Field("mask", "map", (2, 3), "int64", "target", 36),
            None,
        ),
        (
            "segmentation",
            np.full((6, 1, 2, 3), 4),
            Field("mask", "map", (2, 3), "int64", "target", 5),
            np.full((6, 2, 3), 4),
        ),
    ],
)
@pytest.mark.parametrize("how", ["pair", "columns", "items", "items by name"])
def test_a_task_learns_its_own_target(task, given, expected, values, how):
    """The second part of a pair, or what has the task's name for it, stated as a data set of that task does."""
    name = expected.name
    data = {
        "pair": (IMAGES, given),
        "columns": {"image": IMAGES, name: given},
        "items": Listed([(torch.tensor(a), torch.tensor(b)) for a, b in zip(IMAGES, given, strict=True)]),
        "items by name": Listed([{"image": a, name: b} for a, b in zip(IMAGES, given, strict=True)]),
    }[how]
    for source in (from_torch(data, task=task), *([] if "pair" in how or how == "items" else [from_torch(data)])):
        assert (source.fields[1], source.task) == (expected, task)
        found = source.split("train").load(range(6))[name]
        assert found.dtype == expected.torch_dtype
        np.testing.assert_array_equal(found.numpy(), (given if values is None else values))


def test_what_follows_a_token_is_of_the_same_vocabulary():
    following = np.concatenate([TOKENS[:, 1:], np.full((6, 1), 40)], 1)
    following[2, 1] = HIDDEN
    data = {"tokens": TOKENS, "mask": np.ones((6, 3), bool), "next": following}
    source = from_torch(data)
    assert source.task == "causal_lm"
    assert [(each.name, each.kind, each.use, each.n_values) for each in source.fields] == [
        ("tokens", "tokens", "input", 41),
        ("mask", "mask", "input", None),
        ("next", "tokens", "target", 41),
    ]
    np.testing.assert_array_equal(source.split("train").load([2])["next"].numpy(), following[2:3])


def test_a_name_that_another_task_learns_is_an_input():
    numbers = np.arange(12, dtype="f4").reshape(6, 2)
    source = from_torch({"source": numbers, "target": numbers, "label": np.arange(6) % 2})
    assert [each.use for each in source.fields] == ["input", "input", "target"]
    assert source.task == "classification"
    other = from_torch({"source": numbers, "target": numbers, "label": np.arange(6) % 2}, task="regression")
    assert [each.use for each in other.fields] == ["input", "target", "extra"]


def test_numbers_are_in_units_of_the_training_samples_whose_target_is_seen():
    numbers = np.random.default_rng(2).normal(7, 3, (40, 2))
    numbers[3, 1] = np.nan
    source = from_torch((np.zeros((40, 1, 2, 2), "f4"), numbers), task="regression")
    found = arrange(source, labeled=20, validation=0.2, test=0.2, seed=1, task=Regression(RegressionOptions()))
    rows = [int(sample.rpartition("-")[2]) for sample in found.split("labeled").ids]
    assert 5 < len(rows) < 20
    np.testing.assert_allclose(found.fields[1].mean, np.nanmean(numbers[rows], 0), rtol=1e-6)
    np.testing.assert_allclose(found.fields[1].std, np.nanstd(numbers[rows], 0), rtol=1e-6)
    assert source.fields[1].mean == ()


def test_classes_that_no_sample_has_are_said():
    pair = (IMAGES, np.arange(6) % 3)
    assert from_torch(pair, classes=5).facts["classes"] == list("01234")
    masks = np.full((6, 2, 3), 2)
    assert from_torch((IMAGES, masks), task="segmentation", classes=list("abcd")).fields[1].n_values == 4
    assert from_torch((IMAGES, np.eye(6)), task="multilabel", classes=list("abcdef")).facts["labels"] == list("abcdef")
    with pytest.raises(DataError, match="label 2, but 2 classes are named"):
        from_torch(pair, classes=2)
    with pytest.raises(DataError, match="6 labels a sample, but 5 classes are named"):
        from_torch((IMAGES, np.eye(6)), task="multilabel", classes=5)


@pytest.mark.parametrize(
    ("task", "data", "words"),
    [
        (
            "regression",
            {"image": IMAGES, "price": np.zeros(6)},
            "live samples have image, price, and 'regression' learns a field 'target'. Expected 'target', one number",
        ),
        ("regression", (IMAGES, np.array([0, 1, np.inf, 2, 3, 4])), "'target' of sample 2 of split 'train' holds inf"),
        ("multilabel", (IMAGES, np.full((6, 2), 0.3)), "'labels' of sample 0 of split 'train' holds 0.3"),
        ("multilabel", (IMAGES, np.ones(6, int)), "'labels' is () int64 a sample. Expected (K,) of 1, 0"),
        ("segmentation", (IMAGES, np.zeros((6, 2, 3))), "'mask' is (2, 3) float32 a sample. Expected (H, W) class"),
        ("segmentation", (IMAGES, np.full((6, 2, 3), -1)), "'mask' of sample 0 of split 'train' holds -1"),
        ("segmentation", (IMAGES, np.full((6, 2, 3), 255)), "'mask' holds 255. Expected (H, W) class indices"),
        (
            "causal_lm",
            {"tokens": TOKENS, "mask": TOKENS, "next": TOKENS - 5},
            "'next' of sample 0 of split 'train' hold",
        ),
    ],
)
def test_targets_that_are_none(task, data, words):
    with pytest.raises(DataError) as error:
        from_torch(data, task=task)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: (np.zeros((3, 2, 2)), np.zeros(4, int)), ["'image' 3", "'label' 4"]),
        (lambda: (np.zeros((3, 2)), np.zeros(3, int)), ["'image' of shape (2,)", "(C, H, W)"]),
        (lambda: (np.zeros((3, 2, 2)), np.array([0, -1, 1])), ["label -1 of sample 1"]),
        (
            lambda: (np.array([[[0.0, 1.0]], [[0.5, np.nan]]]), np.zeros(2, int)),
            ["'image' of sample 1 of split 'train' holds nan. Expected finite numbers"],
        ),
        (
            lambda: Unreadable([0, 1]),
            ["sample 0 of split 'train' cannot be read: KeyError: 'picture' (in __getitem__, test_live_d"],
        ),
        (lambda: Listed([]), ["split 'train' has no samples"]),
        (
            lambda: Listed([(torch.zeros(1, 4, 4), 0)] * 3 + [(torch.full((1, 4, 4), np.inf), 0)]),
            ["'image' of sample 3 of split 'train' holds inf. Expected finite numbers"],
        ),
        (
            lambda: {"x": np.array([[0.0, 1], [0, 2], [-np.inf, 3]]), "label": np.array([0, 1, 0])},
            ["'x' of sample 2 of split 'train' holds -inf. Expected finite numbers"],
        ),
        (
            lambda: {"label": np.array([0, 1]), "x": np.array([0.0, 1, np.nan])},
            ["split 'train': arrays of different length ('label' 2, 'x' 3)"],
        ),
        (
            lambda: Listed([{"x": torch.zeros(3), "label": 0}, {"x": torch.tensor([0, np.nan, 0]), "label": 1}]),
            ["'x' of sample 1 of split 'train' holds nan. Expected finite numbers"],
        ),
        (
            lambda: (np.zeros((3, 8, 8, 3), np.uint8), np.zeros(3, int)),
            ["'image' of shape (8, 8, 3). Expected (C, H, W). Give image.transpose(2, 0, 1)."],
        ),
        (lambda: (np.zeros((3, 2, 2)), np.zeros(3)), ["'label' is () float32 a sample", "whole numbers"]),
        (lambda: (np.zeros((3, 2, 2)), np.eye(3)), ["'label' is (3,) float32", "label.argmax()"]),
        (lambda: (np.zeros((3, 2, 2)), np.zeros((3, 2, 2), int)), ["'label' is (2, 2) int64", "'segmentation'"]),
        (
            lambda: Listed([(torch.zeros(1, 4, 4), 0), (torch.zeros(1, 5, 4), 1)]),
            ["sample 1", "(1, 5, 4)", "(1, 4, 4)"],
        ),
        (lambda: Listed([(torch.zeros(1, 4, 4), 0, 7)] * 2), ["3 parts"]),
        (lambda: Listed([(object(), 0)] * 2), ["sample 0", "'image' is a object"]),
        (lambda: {"train": Pairs(), "valid": Pairs()}, ["split 'valid'", "did you mean 'val'"]),
        (lambda: {"val": Pairs()}, ["no split 'train'"]),
        (
            lambda: {"train": Pairs(), "test": (torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.long))},
            ["'test'", "(1, 8, 8)"],
        ),
        (lambda: Pairs(classes=["a", "b"]), ["label 2", "2 classes"]),
        (
            lambda: {"train": Pairs(), "test": torch.zeros(3, 1, 6, 6)},
            ["split 'test' has no 'label', which 'train' has", "Where nobody knows it, write -100."],
        ),
        (lambda: (np.zeros((3, 2)), np.zeros(3, int)), ["Vectors are given by name"]),
        (lambda: 7, ["is a int"]),
        (lambda: iter([]), ["expected", "Dataset with a length"]),
    ],
)
def test_faults(data, words):
    with pytest.raises(DataError) as error:
        from_torch(data())
    for word in words:
        assert word.lower() in str(error.value).lower()
