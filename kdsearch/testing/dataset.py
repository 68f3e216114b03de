"""What every data set promises, as tests: inherit `DatasetContract` and give it a `dataset` fixture."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Batch, Dataset, DataSource, Services, Split


class FileServices:
    """The services that opening a data set uses: paths below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, path: str) -> Path:
        found = self.folder / path
        if not found.exists():
            raise DataError("does not exist", file=found, expected="a file or folder")
        return found


class DatasetContract:
    """Override `dataset` (a pytest fixture that returns a Dataset), and `services` where paths are not below tmp_path."""

    @pytest.fixture
    def dataset(self) -> Dataset[Any]:
        raise NotImplementedError("a fixture that returns the data set under test")

    @pytest.fixture
    def services(self, tmp_path: Path) -> Services:
        return cast(Services, FileServices(tmp_path))

    @pytest.fixture
    def source(self, dataset: Dataset[Any], services: Services) -> DataSource:
        return dataset.open(services)

    def test_has_train_and_names_its_splits(self, source: DataSource) -> None:
        assert "train" in source.splits
        for name in source.splits:
            assert len(source.split(name).ids) > 0
        with pytest.raises(DataError):
            source.split("no such split")

    def test_facts_are_json_and_say_the_origin(self, source: DataSource) -> None:
        facts = json.loads(json.dumps(dict(source.facts)))
        assert facts["source"]
        assert facts["licence"]

    def test_ids_are_unique_and_stable(self, dataset: Dataset[Any], services: Services, source: DataSource) -> None:
        ids = [sample for name in source.splits for sample in source.split(name).ids]
        assert len(set(ids)) == len(ids)
        again = type(dataset)(dataset.options).open(services)
        assert [sample for name in again.splits for sample in again.split(name).ids] == ids
        assert dict(again.facts) == dict(source.facts)
        for name in source.splits:
            index = few(source.split(name))
            assert_equal(source.split(name).load(index), again.split(name).load(index))

    def test_batches_are_what_fields_say(self, source: DataSource) -> None:
        for name in source.splits:
            split = source.split(name)
            index = few(split)
            batch = split.load(index)
            assert batch.ids == tuple(split.ids[i] for i in index)
            for field in source.fields:
                value = batch[field.name]
                assert value.dtype == field.torch_dtype
                assert len(value.shape) == 1 + len(field.shape)
                assert all(want in (None, got) for want, got in zip(field.shape, value.shape[1:], strict=True))
                if value.dtype.is_floating_point:
                    assert bool(torch.isfinite(value).all())
                if field.n_values is not None:
                    assert bool(((value >= 0) & (value < field.n_values)).all())

    def test_labels_are_classes(self, source: DataSource) -> None:
        if not any(field.kind == "label" for field in source.fields):
            pytest.skip("no class labels")
        n_classes = len(source.facts["classes"])
        for name in source.splits:
            split = source.split(name)
            labels = split.load(few(split, 64))["label"]
            assert bool((((labels >= 0) & (labels < n_classes)) | (labels == HIDDEN)).all())
            offered = getattr(split, "labels", None)
            if offered is not None:
                assert torch.equal(offered[few(split, 64)], labels)

    def test_a_sample_does_not_depend_on_its_batch(self, source: DataSource) -> None:
        for augment in (False, True):
            split = source.split("train")
            index = few(split)
            together = split.load(index, augment, 3)
            assert_equal(split.load(index[::-1], augment, 3), together.rows(torch.arange(len(index)).flip(0)))
            for i, row in enumerate(index):
                assert_equal(split.load([row], augment, 3), together.rows(torch.tensor([i])))

    def test_augmentation_follows_the_seed_and_nothing_else(self, dataset: Dataset[Any], source: DataSource) -> None:
        split = source.split("train")
        index = few(split, 16)
        torch.manual_seed(1)
        before = torch.get_rng_state()
        one = split.load(index, True, 1)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert_equal(split.load(index, True, 1), one)
        changes = not equal(split.load(index, True, 2), one)
        assert changes == dataset.augments
        if not dataset.augments:
            assert_equal(split.load(index), one)

    def test_without_augment_the_seed_is_not_read(self, source: DataSource) -> None:
        split = source.split("train")
        assert_equal(split.load(few(split), False, 1), split.load(few(split), False, 2))

    def test_a_split_can_be_sent_to_a_loader_process(self, source: DataSource) -> None:
        split = source.split("train")
        sent = pickle.loads(pickle.dumps(split))
        assert_equal(sent.load(few(split), True, 3), split.load(few(split), True, 3))

    def test_no_samples_make_an_empty_batch(self, source: DataSource) -> None:
        batch = source.split("train").load([])
        assert len(batch) == 0
        for field in source.fields:
            assert batch[field.name].shape[0] == 0


def few(split: Split, n: int = 6) -> list[int]:
    """Up to n positions, evenly spaced from the first to the last."""
    total = len(split.ids)
    return sorted({i * (total - 1) // max(1, n - 1) for i in range(n)})


def equal(one: Batch, other: Batch) -> bool:
    """Same ids, names and bits."""
    return (
        one.ids == other.ids
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(one[name], other[name]) for name in one.tensors)
        and dict(one.texts) == dict(other.texts)
    )


def assert_equal(one: Batch, other: Batch) -> None:
    assert one.ids == other.ids
    assert equal(one, other)
