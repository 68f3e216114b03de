"""Composed scenes: the contract, the mask of every object, whose objects and photographs are where, and faults."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdsearch.builtin.vision import scenes as module
from kdsearch.builtin.vision.scenes import Scenes, ScenesOptions, scene
from kdsearch.errors import DataError
from kdsearch.host import Host
from kdsearch.kinds import HIDDEN
from kdsearch.kinds.options import validate
from kdsearch.testing.dataset import DatasetContract, FileServices
from tests.builtin.datasets.files import write_mnist

SMALL = {"path": "data", "side": 24, "train": 10, "val": 6, "test": 6}


def opened(folder, **options):
    if not (folder / "data").exists():
        write_mnist(folder / "data", 60, 20)
    return Scenes(validate(ScenesOptions, {**SMALL, **options})).open(FileServices(folder))


class TestScenes(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        write_mnist(tmp_path / "data", 60, 20)
        return Scenes(ScenesOptions(**SMALL))


class TestAugmentedScenesWithVoid(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        write_mnist(tmp_path / "data", 60, 20)
        return Scenes(ScenesOptions(**SMALL, augment="crop_flip", void=True, channels=1))


def discs(n):
    """Objects that are bright discs, so that what is pasted can be told from what is behind."""
    y, x = np.mgrid[:28, :28]
    disc = np.where((y - 13.5) ** 2 + (x - 13.5) ** 2 < 100, 255, 0).astype(np.uint8)
    return np.stack([disc] * n), np.arange(n) % 10


def test_an_object_is_where_its_mask_says():
    """Before black photographs: what is bright is an object, and the other way round."""
    images, labels = discs(10)
    black = np.zeros((100, 120, 3), np.uint8)
    for seed in range(5):
        image, mask = scene(np.random.default_rng(seed), [black], images, labels, 64)
        assert image.shape == (64, 64, 3)
        assert set(np.unique(mask)) <= set(range(11))
        inside, outside = image[mask > 0].max(1), image[mask == 0].max(1)
        assert len(inside) > 50
        assert (inside > 0.65 * 255).mean() > 0.75, "but for the soft rim"
        assert (outside > 0.65 * 255).mean() < 0.01
        assert (mask > 0).mean() < 0.8


def test_later_objects_hide_earlier_ones_and_most_of_each_is_inside():
    images, labels = np.full((2, 28, 28), 255, np.uint8), np.array([0, 1])
    grey, areas = np.full((80, 80, 3), 90, np.uint8), []
    for seed in range(40):
        _, mask = scene(np.random.default_rng(seed), [grey], images, labels, 64)
        for top, left in zip(*np.nonzero(mask), strict=True):
            assert mask[top, left] in (1, 2)
        areas.append((mask > 0).sum())
    assert min(areas) >= (0.7 * 18) ** 2, "an object of 18 pixels, at most a quarter of each side outside"


def test_no_object_and_no_place_of_a_photograph_is_in_two_splits(tmp_path, monkeypatch):
    seen = {}
    real = module.scene

    def noted(rng, photos, images, labels, side):
        key = "|".join(str(each.shape) for each in photos), images.tobytes()
        seen.setdefault(key, []).append((photos, images))
        return real(rng, photos, images, labels, side)

    monkeypatch.setattr(module, "scene", noted)
    opened(tmp_path)
    used = [each[0] for each in seen.values()]
    assert [len(each) for each in seen.values()] == [10, 6, 6]
    objects = [{row.tobytes() for row in images} for _, images in used]
    assert [len(each) for each in objects] == [50, 10, 20]
    assert not any(a & b for i, a in enumerate(objects) for b in objects[:i])
    (train, _), (val, _), (test, _) = used
    assert all(a.shape[1] + b.shape[1] == 640 for a, b in zip(train, val, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(val, test, strict=True))


def test_more_scenes_leave_the_first_as_they_are_and_another_seed_draws_others(tmp_path):
    few, more, other = opened(tmp_path), opened(tmp_path, train=14), opened(tmp_path, seed=1)
    a, b, c = (each.split("train").load(range(10))["mask"] for each in (few, more, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert set(few.split("train").ids) & set(other.split("train").ids) == set()
    assert few.facts["content"] != other.facts["content"]


def test_augmented_masks_go_with_their_images(tmp_path):
    """Where the mask says so, there is the object: the images are those of a photograph that is black."""
    source = opened(tmp_path, augment="crop_flip", side=32, train=20)
    split = source.split("train")
    part = split._part
    masks = part.masks(range(20))
    part.images.pixels.images[:] = torch.where(masks > 0, 200, 100).to(torch.uint8)  # image = a picture of its mask
    batch = split.load(range(20), augment=True, seed=4)
    image, mask = batch["image"][:, 0], batch["mask"]
    levels = {kind: torch.unique(image[where]) for kind, where in
              (("object", mask > 0), ("ground", mask == 0), ("beyond", mask == HIDDEN))}  # fmt: skip
    assert all(len(each) == 1 for each in levels.values())
    assert levels["beyond"] < levels["ground"] < levels["object"]
    assert not torch.equal(mask, split.load(range(20))["mask"])
    assert not bool((split.load(range(20))["mask"] == HIDDEN).any())


def test_the_void_is_a_pixel_on_either_side(tmp_path):
    plain, void = (opened(tmp_path, void=each).split("val").load(range(6))["mask"] for each in (False, True))
    known = void != HIDDEN
    assert torch.equal(plain[known], void[known])
    padded = torch.nn.functional.pad(plain.double()[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    differs = torch.zeros_like(known)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        differs |= padded[:, dy : dy + 24, dx : dx + 24] != plain
    assert torch.equal(~known, differs)


def test_seven_classes_are_ten_with_four_as_one(tmp_path):
    ten, seven = opened(tmp_path), opened(tmp_path, classes=7)
    a, b = (each.split("train").load(range(10))["mask"] for each in (ten, seven))
    pairs = {(int(k), int(j)) for k, j in zip(a.flatten(), b.flatten(), strict=True)}
    names = {ten.facts["classes"][k]: seven.facts["classes"][j] for k, j in pairs}
    assert len(pairs) == len({k for k, _ in pairs})
    assert all(names[each] == "top" for each in ("T-shirt/top", "pullover", "coat", "shirt") if each in names)
    assert names["background"] == "background"
    assert names.get("bag", "bag") == "bag"


def test_a_study_on_scenes_is_a_segmentation_and_lacking_files_are_told(tmp_path):
    assert Host.load().load_class("dataset", "scenes").task == "segmentation"
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        Scenes(ScenesOptions(path=str(tmp_path))).preflight(FileServices(tmp_path))
