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
from kdsearch.kit.modalities import is_present
from kdsearch.testing.contract import require, same
from kdsearch.testing.padding import as_long_as


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
    """Override `dataset` (a pytest fixture that returns a Dataset), and `services` where paths are not below tmp_path.

    A field may leave a size open: a batch is then as long as its longest sample, padded at the end with one value.
    """

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
        require("train" in source.splits, f"no split 'train' among {', '.join(source.splits)}")
        for name in source.splits:
            require(len(source.split(name).ids) > 0, f"split '{name}' has no sample: leave it out of `splits`")
        with pytest.raises(DataError):
            source.split("no such split")

    def test_facts_are_json_and_say_the_origin(self, source: DataSource) -> None:
        facts = json.loads(json.dumps(dict(source.facts)))
        for name in ("source", "licence"):
            require(bool(facts.get(name)), f"facts say no '{name}'")

    def test_ids_are_unique_and_stable(self, dataset: Dataset[Any], services: Services, source: DataSource) -> None:
        ids = [sample for name in source.splits for sample in source.split(name).ids]
        require(len(set(ids)) == len(ids), f"{len(ids)} samples have {len(set(ids))} ids: each needs one of its own")
        again = type(dataset)(dataset.options).open(services)
        is_same = [sample for name in again.splits for sample in again.split(name).ids] == ids
        require(is_same, "opened again, it has other ids, or others in another order")
        require(dict(again.facts) == dict(source.facts), "opened again, it states other facts")
        for name in source.splits:
            index = few(source.split(name))
            require_equal(
                source.split(name).load(index), again.split(name).load(index), f"split '{name}', opened again"
            )

    def test_batches_are_what_fields_say(self, source: DataSource) -> None:
        for name in source.splits:
            split = source.split(name)
            index = few(split)
            batch = split.load(index)
            wanted = tuple(split.ids[i] for i in index)
            require(batch.ids == wanted, f"split '{name}': load({index}) gives the ids {batch.ids}, expected {wanted}")
            for field in source.fields:
                require(
                    field.name in batch,
                    f"split '{name}': no field '{field.name}' in a batch of {sorted(batch.tensors)}",
                )
                value, at = batch[field.name], f"split '{name}', field '{field.name}'"
                require(value.dtype == field.torch_dtype, f"{at}: {value.dtype}, declared as {field.torch_dtype}")
                sizes = tuple(value.shape[1:])
                fits = len(sizes) == len(field.shape) and all(
                    want in (None, got) for want, got in zip(field.shape, sizes, strict=True)
                )
                require(fits, f"{at}: samples of shape {sizes}, declared as {tuple(field.shape)}")
                if None in field.shape:  # padding is no value
                    value = value[(value != field.fill) & ~value.isnan()]
                if value.dtype.is_floating_point:
                    require(bool(torch.isfinite(value).all()), f"{at}: values that are not finite")
                if field.n_values is not None:
                    known = value[value != HIDDEN] if field.use == "target" else value
                    is_inside = bool(((known >= 0) & (known < field.n_values)).all())
                    require(is_inside, f"{at}: values outside of 0 to {field.n_values - 1}, which `n_values` promises")

    def test_labels_are_classes(self, source: DataSource) -> None:
        if not any(field.kind == "label" for field in source.fields):
            return
        n_classes = len(source.facts["classes"])
        for name in source.splits:
            split = source.split(name)
            labels = split.load(few(split, 64))["label"]
            is_class = bool((((labels >= 0) & (labels < n_classes)) | (labels == HIDDEN)).all())
            require(is_class, f"split '{name}': labels that are none of {n_classes} classes, nor HIDDEN ({HIDDEN})")
            offered = getattr(split, "labels", None)
            if offered is not None:
                agree = torch.equal(offered[few(split, 64)], labels)
                require(agree, f"split '{name}': its `labels` are not those of its batches")

    def test_a_sample_does_not_depend_on_its_batch(self, source: DataSource) -> None:
        for augment in (False, True):
            split = source.split("train")
            index = few(split)
            together = split.load(index, augment, 3)
            turned = together.rows(torch.arange(len(index)).flip(0))
            require_equal(split.load(index[::-1], augment, 3), turned, f"samples in another order, augment {augment}")
            for i, row in enumerate(index):
                alone = as_long_as(split.load([row], augment, 3), together, source.fields)
                require_equal(alone, together.rows(torch.tensor([i])), f"a sample alone, augment {augment}")

    def test_nothing_stands_where_a_field_is_missing_or_masked(self, source: DataSource) -> None:
        fields = {field.name: field for field in source.fields}
        for name in source.splits:
            batch = source.split(name).load(few(source.split(name), 64))
            for field in source.fields:
                if field.kind == "present":
                    of = field.name.removeprefix("present_")
                    require(of in fields, f"'{field.name}' says that a field '{of}' is present, and there is none")
                    for each in (name for name in (of, f"{of}_mask") if name in fields):
                        missing = batch[each][batch[field.name] == 0]
                        require(not bool(missing.any()), f"'{each}' is not 0 in a sample that has no '{of}'")
                if field.kind == "mask" and len(field.shape) == 1:
                    counts = (batch[field.name] != 0).long()
                    require(bool((counts.diff(dim=1) <= 0).all()), f"'{field.name}' has padding before what counts")
                    there = is_present(batch, field.name.removesuffix("_mask"))
                    require(bool(counts[there].any(1).all()), f"'{field.name}' leaves nothing of a sample")

    def test_augmentation_follows_the_seed_and_nothing_else(self, dataset: Dataset[Any], source: DataSource) -> None:
        split = source.split("train")
        index = few(split, 16)
        torch.manual_seed(1)
        before = torch.get_rng_state()
        one = split.load(index, True, 1)
        require(torch.equal(torch.get_rng_state(), before), "augmenting draws from torch's global stream")
        torch.manual_seed(2)
        require_equal(split.load(index, True, 1), one, "augmented twice with one seed")
        changes = not equal(split.load(index, True, 2), one)
        told = "do not change" if dataset.augments else "change"
        require(changes == dataset.augments, f"`augments` is {dataset.augments}, but samples {told} with the seed")
        if not dataset.augments:
            require_equal(split.load(index), one, "asked to augment, though `augments` is False")

    def test_without_augment_the_seed_is_not_read(self, source: DataSource) -> None:
        split = source.split("train")
        require_equal(
            split.load(few(split), False, 1), split.load(few(split), False, 2), "another seed without augment"
        )

    def test_a_split_can_be_sent_to_a_loader_process(self, source: DataSource) -> None:
        split = source.split("train")
        sent = pickle.loads(pickle.dumps(split))
        require_equal(sent.load(few(split), True, 3), split.load(few(split), True, 3), "sent to another process")

    def test_no_samples_make_an_empty_batch(self, source: DataSource) -> None:
        batch = source.split("train").load([])
        require(len(batch) == 0, f"load([]) gives a batch of {len(batch)} samples")
        for field in source.fields:
            n = batch[field.name].shape[0]
            require(n == 0, f"load([]) gives {n} rows of '{field.name}'")


def few(split: Split, n: int = 6) -> list[int]:
    """Up to n positions, evenly spaced from the first to the last."""
    total = len(split.ids)
    return sorted({i * (total - 1) // max(1, n - 1) for i in range(n)})


def equal(one: Batch, other: Batch) -> bool:
    """Same ids, names and bits."""
    return (
        one.ids == other.ids
        and one.tensors.keys() == other.tensors.keys()
        and all(same(one[name], other[name]) for name in one.tensors)
        and dict(one.texts) == dict(other.texts)
    )


def require_equal(one: Batch, other: Batch, when: str) -> None:
    """Raise AssertionError naming the fields that differ."""
    require(one.ids == other.ids, f"{when}: other ids, {one.ids} and {other.ids}")
    names = sorted({*one.tensors, *other.tensors})
    differing = [
        name
        for name in names
        if name not in one.tensors or name not in other.tensors or not same(one[name], other[name])
    ]
    require(not differing, f"{when}: other values of {', '.join(differing)}")
    require(dict(one.texts) == dict(other.texts), f"{when}: other texts")
