"""Task `segmentation`: its contract, its loss by hand, its strata, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Generator

from kdsearch.builtin.vision.segmentation import Segmentation, SegmentationOptions, main_class
from kdsearch.engine.splits import arrange
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Batch, Field, Outputs, Picture
from kdsearch.testing.task import TaskContract
from kdsearch.testing.training import TensorSource

FIELDS = (Field("image", "image", (3, 6, 5)), Field("mask", "map", (6, 5), "int64", "target", 4))


class Source(TensorSource):
    """Images with masks of four classes, some of their pixels unknown."""

    @property
    def fields(self):
        return FIELDS

    @property
    def facts(self):
        return {"classes": ["ground", "a", "b", "c"], "source": "noise", "licence": "none"}


def masks(n, seed=0):
    """Blocks of classes, a tenth of the pixels unknown, one in each image known."""
    rng = Generator().manual_seed(seed)
    mask = torch.randint(4, (n, 3, 5), generator=rng).repeat_interleave(2, 1)
    mask[torch.rand(mask.shape, generator=rng) < 0.1] = HIDDEN
    mask[:, 0, 0] = torch.arange(n) % 4
    return mask


def source(n=16, splits=("train",)):
    made = {}
    for number, split in enumerate(splits):
        image = torch.randn(n, 3, 6, 5, generator=Generator().manual_seed(number))
        made[split] = {"image": image, "mask": masks(n, number)}
    return Source(made)


class TestSegmentation(TaskContract):
    task = Segmentation

    def source(self):
        return source()


class TestSmoothedSegmentation(TestSegmentation):
    options = {"label_smoothing": 0.1}  # noqa: RUF012


def loss_of(logits, mask, **options):
    task = Segmentation(SegmentationOptions(**options))
    return task.loss(Outputs({"logits": logits}, owner="student"), Batch(tuple("ab"), {"mask": mask}))


def test_the_loss_is_the_mean_over_known_pixels():
    logits = torch.randn(2, 4, 6, 5, generator=Generator().manual_seed(1), dtype=torch.float64)
    mask = masks(2)
    z, total, n = logits.numpy(), 0.0, 0
    for b, y, x in np.ndindex(2, 6, 5):
        if mask[b, y, x] != HIDDEN:
            place = z[b, :, y, x]
            total += math.log(np.exp(place).sum()) - place[mask[b, y, x]]
            n += 1
    assert 0 < n < 60
    assert loss_of(logits, mask).item() == pytest.approx(total / n, abs=1e-12)
    assert loss_of(logits, torch.full_like(mask, HIDDEN)).item() == 0


def test_the_main_class_is_of_most_pixels_but_the_first():
    mask = torch.tensor([[[0, 0, 0], [2, 2, 1]], [[0, 0, 0], [0, 0, 0]], [[HIDDEN, HIDDEN, 3], [0, 1, 1]]])
    assert main_class(mask).tolist() == [2, 0, 1]
    assert main_class(torch.full((2, 3, 3), HIDDEN)).tolist() == [HIDDEN, HIDDEN]
    assert main_class(torch.zeros(1, 3, 3, dtype=torch.int64)).tolist() == [0]
    assert main_class(torch.zeros(0, 3, 3, dtype=torch.int64)).tolist() == []


def test_few_labels_are_shared_out_over_main_classes():
    """A fifth of the masks: each main class has its part, and what is not shown is HIDDEN throughout."""
    task = Segmentation(SegmentationOptions())
    found = arrange(source(80), labeled=0.2, validation=0.2, test=0.2, seed=0, task=task)
    labeled, rest = found.split("labeled"), found.split("unlabeled")
    mask = labeled.load(range(len(labeled.ids)))["mask"]
    every = source(80).split("train").load(range(80))["mask"]
    assert set(main_class(mask).tolist()) == set(main_class(every).tolist())
    assert bool((rest.load(range(len(rest.ids)))["mask"] == HIDDEN).all())
    assert len(labeled.ids) + int((found.split("val").load(range(16))["mask"] != HIDDEN).flatten(1).any(1).sum()) == 13


@pytest.mark.parametrize(
    ("fields", "classes", "says"),
    [
        (FIELDS[1:], "abcd", "an image of fixed size"),
        ((Field("image", "image", (3, None, 5)), FIELDS[1]), "abcd", "an image of fixed size"),
        (FIELDS[:1], "abcd", "a field 'mask' of integers, 6x5"),
        ((FIELDS[0], Field("mask", "map", (3, 5), "int64", "target")), "abcd", "6x5 as the image is"),
        ((FIELDS[0], Field("mask", "map", (6, 5), "float32", "target")), "abcd", "a field 'mask' of integers"),
        (FIELDS, "a", "two or more names"),
    ],
)
def test_what_it_cannot_use_is_refused(fields, classes, says):
    with pytest.raises(DataError) as error:
        Segmentation(SegmentationOptions()).io(fields, {"classes": list(classes)})
    assert says in str(error.value)


def test_figures_tell_the_overlap_of_each_class():
    """By hand: a network that answers `a` everywhere."""
    task, data = Segmentation(SegmentationOptions()), source(8, ("val",))

    def predict(batch):
        return {"logits": torch.tensor([0.0, 1, 0, 0]).reshape(1, 4, 1, 1).expand(len(batch), 4, 6, 5)}

    figure, _ = task.figures(predict, data, "val", TestSegmentation().services())
    mask = data.split("val").load(range(8))["mask"]
    known = mask[mask != HIDDEN]
    rows = {row[0]: row[1:] for row in figure.tables[0].rows}
    assert rows["a"] == [f"{100 * (known == 1).double().mean():.1f} %", "100.0 %", int((known == 1).sum())]
    assert rows["b"] == ["0.0 %", "0.0 %", int((known == 2).sum())]
    assert figure.tables[0].rows[-1][0] == "a", "the worst first"
    assert "a 0.0 %" not in figure.panels[0]["description"]


def test_pictures_go_from_the_best_answered_image_to_the_worst():
    """Of images that a network answers right but for so many rows; the pictures are those of these images."""
    task, data = Segmentation(SegmentationOptions()), source(12, ("val",))
    split = data.split("val")
    every = split.load(range(12))
    wrong = {id: i % 6 for i, id in enumerate(every.ids)}

    def predict(batch):
        mask = batch["mask"].clamp(min=0).clone()
        for row, id in zip(mask, batch.ids, strict=True):
            row[: wrong[id]] = (row[: wrong[id]] + 1) % 4
        return {"logits": torch.nn.functional.one_hot(mask, 4).permute(0, 3, 1, 2).float()}

    services = TestSegmentation().services()
    _, figure = task.figures(predict, data, "val", services)
    shown = []
    for row in figure.pictures:
        assert [each.title for each in row] == ["image", "truth", "student"]
        at = next(i for i in range(12) if Picture.of_classes("truth", every["mask"][i]) == row[1])
        assert row[0] == Picture.of("image", every["image"][at], says=split.ids[at])
        assert row[2].src == Picture.of_classes("", predict(split.load([at]))["logits"].argmax(1)[0]).src
        shown.append(at)
    assert len(set(shown)) == 5
    assert wrong[every.ids[shown[0]]] == 0
    assert wrong[every.ids[shown[-1]]] == 5
    said = [float(row[2].says.removesuffix(" %")) for row in figure.pictures]
    assert said == sorted(said, reverse=True)
    assert said[0] == 100
    services.predict = lambda name, batch: {"logits": predict(batch)["logits"].roll(1, 1)}
    _, figure = task.figures(predict, data, "val", services)
    assert [each.title for each in figure.pictures[0]] == ["image", "truth", "teacher", "student"]

    def stored(name, batch):
        raise DataError("has no answers to 5 samples")

    services.predict = stored
    _, figure = task.figures(predict, data, "val", services)
    assert [each.title for each in figure.pictures[0]] == ["image", "truth", "student"]
