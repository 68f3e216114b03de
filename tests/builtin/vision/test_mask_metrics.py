"""Metrics of masks: their contract, torchmetrics and plain loops, and what must hold exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Generator
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from kdsearch.builtin import passes
from kdsearch.builtin.vision import mask_metrics
from kdsearch.builtin.vision.mask_metrics import (
    BoundaryF1,
    BoundaryOptions,
    MeanIou,
    PixelAccuracy,
    TrimapMeanIou,
    TrimapOptions,
    near_boundaries,
    overlaps,
)
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Batch, NoOptions
from kdsearch.testing.metric import MetricContract
from tests.builtin.vision.test_segmentation import masks, source

MIOU, ACCURACY = MeanIou(NoOptions()), PixelAccuracy(NoOptions())


class MaskContract(MetricContract):
    def source(self):
        return source(40, ("train", "val"))

    def answer(self, batch):
        weight = torch.randn(4, 3, generator=Generator().manual_seed(0))
        return {"logits": torch.einsum("kc,bchw->bkhw", weight, batch["image"])}

    def right(self, batch):
        return {"logits": 20 * F.one_hot(batch["mask"].clamp(min=0), 4).permute(0, 3, 1, 2).float()}


class TestMeanIou(MaskContract):
    metric, name = MeanIou, "miou"


class TestPixelAccuracy(MaskContract):
    metric, name = PixelAccuracy, "pixel_accuracy"


class TestTrimapMeanIou(MaskContract):
    metric, name, options = TrimapMeanIou, "trimap_miou", {"radius": 1}


class TestBoundaryF1(MaskContract):
    metric, name, options = BoundaryF1, "boundary_f1", {"tolerance": 0}


class Masks:
    """A source of one split `val` of these masks (B, H, W)."""

    def __init__(self, mask):
        self.facts = {}
        self.ids, self.mask = tuple(f"m{i}" for i in range(len(mask))), mask

    def split(self, name):
        assert name == "val"
        return self

    def load(self, index, augment=False, seed=0):
        at = torch.tensor(list(index), dtype=torch.long)
        return Batch(tuple(self.ids[i] for i in index), {"mask": self.mask[at], "at": at})


def value(metric, found, truth, n_classes=4, teacher=None):
    """The metric of answers (B, H, W)."""

    def predict(batch):
        return {"logits": F.one_hot(found[batch["at"]], n_classes).permute(0, 3, 1, 2).float()}

    services = TestMeanIou().services()
    if teacher is not None:
        services.predict = lambda name, batch: {
            "logits": F.one_hot(teacher[batch["at"]], n_classes).permute(0, 3, 1, 2).float()
        }
    return metric.measure(predict, Masks(truth), "val", services)


def drawn(n=70, seed=3):
    """Answers that are right at two pixels of three; more images than a chunk."""
    truth = masks(n, seed)
    rng = Generator().manual_seed(seed)
    wrong = torch.rand(truth.shape, generator=rng) < 0.33
    other = torch.randint(3, truth.shape, generator=rng)  # never the last class
    return torch.where(wrong | (truth == HIDDEN), other, truth.clamp(min=0)), truth


def test_overlap_and_accuracy_are_torchmetrics():
    found, truth = drawn()
    expected = multiclass_jaccard_index(found, truth, 4, ignore_index=HIDDEN)
    got = value(MIOU, found, truth)
    assert got["miou"] == pytest.approx(float(expected), abs=1e-6)
    assert got["n"] == 70
    expected = multiclass_accuracy(found, truth, 4, average="micro", ignore_index=HIDDEN)
    assert value(ACCURACY, found, truth)["pixel_accuracy"] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("classes", [(0,), (1, 3), (0, 1, 2)])
def test_of_a_group_of_classes_miou_is_the_mean_of_theirs(classes):
    found, truth = drawn()
    each = multiclass_jaccard_index(found, truth, 4, average="none", ignore_index=HIDDEN)
    assert value(MIOU, found, truth).of_classes(classes) == pytest.approx(float(each[list(classes)].mean()), abs=1e-6)
    assert value(ACCURACY, found, truth).of_classes is None


def test_classes_that_do_not_occur_count_nothing():
    found, truth = drawn()
    assert value(MIOU, found, truth, 9)["miou"] == value(MIOU, found, truth, 4)["miou"]
    half = torch.tensor([[[0, 0], [1, 1]]])
    assert value(MIOU, torch.zeros(1, 2, 2, dtype=torch.long), half)["miou"] == pytest.approx((0.5 + 0) / 2)
    assert value(MIOU, torch.tensor([[[0, 0], [1, 2]]]), half)["miou"] == pytest.approx((1 + 0.5 + 0) / 3)


def by_loops(found, truth, radius):
    """Trimap mIoU pixel by pixel."""
    inside, union = np.zeros(4), np.zeros(4)
    for b, y, x in np.ndindex(truth.shape):
        window = truth[b, max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
        if truth[b, y, x] == HIDDEN or len(set(window[window != HIDDEN].tolist())) < 2:
            continue
        inside[truth[b, y, x]] += found[b, y, x] == truth[b, y, x]
        for k in {int(truth[b, y, x]), int(found[b, y, x])}:
            union[k] += 1
    return (inside[union > 0] / union[union > 0]).mean()


@pytest.mark.parametrize("radius", [1, 2])
def test_the_trimap_is_of_pixels_near_another_class(radius):
    truth = torch.zeros(2, 9, 12, dtype=torch.long)
    truth[0, 2:5, 3:9], truth[1, :, 6:], truth[1, 4:, 9] = 1, 2, HIDDEN
    found = truth.clamp(min=0).roll(1, 2)
    metric = TrimapMeanIou(TrimapOptions(radius=radius))
    assert value(metric, found, truth)["trimap_miou"] == pytest.approx(by_loops(found.numpy(), truth.numpy(), radius))
    far = near_boundaries(truth, radius)[1, :, : 6 - radius]
    assert bool((far == HIDDEN).all())


def test_images_of_one_class_have_no_trimap():
    same = torch.ones(3, 5, 5, dtype=torch.long)
    with pytest.raises(DataError, match="no image of split 'val' has a pixel near another class"):
        value(TrimapMeanIou(TrimapOptions()), same, same)
    same[0, 2] = 2
    assert value(TrimapMeanIou(TrimapOptions()), same, same)["trimap_miou"] == 1


def square(top, left):
    mask = torch.zeros(1, 20, 20, dtype=torch.long)
    mask[0, top : top + 8, left : left + 8] = 1
    return mask


def test_few_boundary_pixels_that_are_near_count_as_few():
    """1 of 50 and 1 of 40: 2 x 0.02 x 0.025 / 0.045; a class that is nowhere is left out, one of misses is 0."""
    sums = torch.tensor([[1.0, 50, 1, 40], [0, 0, 0, 0], [0, 3, 0, 2]], dtype=torch.float64)
    assert BoundaryF1(BoundaryOptions()).of(sums[:1]) == pytest.approx(2 / 90, rel=1e-12)
    assert BoundaryF1(BoundaryOptions()).of(sums) == pytest.approx(1 / 90, rel=1e-12)


def boundary_f1(found, truth, tolerance):
    return value(BoundaryF1(BoundaryOptions(tolerance=tolerance)), found, truth)["boundary_f1"]


def test_boundaries_that_are_off_by_the_tolerance_are_right():
    assert boundary_f1(square(5, 5), square(5, 5), 0) == 1
    assert boundary_f1(square(6, 5), square(5, 5), 1) == 1
    assert boundary_f1(square(6, 5), square(5, 5), 0) < 1
    assert boundary_f1(square(7, 5), square(5, 5), 1) < 1


def boundary_by_loops(found, truth, tolerance):
    """Csurka's measure, pixel by pixel; the frame is no boundary, unknown pixels are nobody's."""

    def edge(mask, k):
        places = set()
        for y, x in np.ndindex(mask.shape):
            around = mask[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            if mask[y, x] == k and (around != k).any():
                places.add((y, x))
        return places

    def near(a, b):
        return sum(any(max(abs(y - v), abs(x - u)) <= tolerance for v, u in b) for y, x in a)

    scores = []
    for k in range(4):
        sums = np.zeros(4)
        for one, other in zip(found, truth, strict=True):
            a, b = edge(np.where(other == HIDDEN, HIDDEN, one), k), edge(other, k)
            sums += [near(a, b), len(a), near(b, a), len(b)]
        if sums[1] or sums[3]:
            p, r = sums[0] / max(sums[1], 1), sums[2] / max(sums[3], 1)
            scores.append(2 * p * r / (p + r) if p + r else 0.0)
    return np.mean(scores)


@pytest.mark.parametrize("tolerance", [0, 1, 2])
def test_boundary_f1_is_a_plain_loop_s(tolerance):
    found, truth = drawn(6, seed=5)
    expected = boundary_by_loops(found.numpy(), truth.numpy(), tolerance)
    assert boundary_f1(found, truth, tolerance) == pytest.approx(expected, abs=1e-9)


def test_the_teacher_stands_in_for_masks_that_are_hidden_and_for_no_pixel_of_another():
    found, truth = drawn(8)
    teacher = torch.randint(4, truth.shape, generator=Generator().manual_seed(9))
    some = truth.clone()
    some[::2] = HIDDEN
    filled = torch.where((some != HIDDEN).flatten(1).any(1)[:, None, None], some, teacher)
    assert value(MIOU, found, some, teacher=teacher) == value(MIOU, found, filled)
    assert value(MIOU, found, some)["n"] == 4
    with pytest.raises(DataError, match="8 images and no mask"):
        value(MIOU, found, torch.full_like(truth, HIDDEN))


def test_a_chunk_holds_some_images_only(monkeypatch):
    found, truth = drawn(9)
    whole = value(MIOU, found, truth)
    monkeypatch.setattr(mask_metrics, "CHUNK", 4)
    assert value(MIOU, found, truth) == whole


def test_large_images_are_judged_few_at_a_time(monkeypatch):
    data, metric, sizes = source(40, ("train", "val")), TestMeanIou(), []
    whole = MIOU.measure(metric.answer, data, "val", None)

    def answer(batch):
        found = metric.answer(batch)
        sizes.append(found["logits"].numel())
        return found

    monkeypatch.setattr(passes, "NUMBERS", 3 * 4 * data.split("val").load([0])["mask"].numel())
    assert dict(MIOU.measure(answer, data, "val", None)) == dict(whole)
    assert max(sizes) == passes.NUMBERS


def test_boundaries_of_many_classes_take_the_memory_of_one(monkeypatch):
    """21 classes of 32 images of 512x512 pixels at once were gigabytes."""
    sizes, pool = [], F.max_pool2d
    monkeypatch.setattr(F, "max_pool2d", lambda x, *rest: sizes.append(x.numel()) or pool(x, *rest))
    found, truth = drawn(6, seed=5)
    boundary_f1(found, truth, 1)
    assert max(sizes) == truth[0].numel()


def test_pixels_are_counted_as_whole_numbers():
    """Float32 counts to 2^24: of larger images it lost the rest."""
    found = overlaps(torch.zeros(1, 4, 4, dtype=torch.int64), torch.zeros(1, 4, 4, dtype=torch.int64), 2)
    assert found.dtype == torch.int64
    assert found.tolist() == [[[16, 16], [0, 0]]]
