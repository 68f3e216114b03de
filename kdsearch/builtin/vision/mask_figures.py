"""Figures of a segmentation: overlap of answer and truth, class by class, and images with both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from kdsearch.builtin.by_class import Row, Words, by_class, share
from kdsearch.builtin.vision.mask_metrics import answers, ious, overlaps
from kdsearch.errors import DataError, PluginError
from kdsearch.kinds import DataSource, Figure, Picture, Predict, Services, class_colour

ACROSS = 3  # entries of the legend in a row
IMAGES = 5  # that are shown, from the best answered to the worst


def mask_figures(predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
    """`classes` and `masks`; nothing where the data set does not name its classes."""
    names = [str(each) for each in data.facts.get("classes", ())]
    if not names:
        return ()
    sums, pixels = torch.zeros(len(names), 2, dtype=torch.float64), torch.zeros(len(names), dtype=torch.float64)
    quality: dict[str, float] = {}  # of each image
    for each in answers(predict, data, split, services):
        found = overlaps(each.found, each.truth, each.n_classes)
        sums += found.sum(0)
        quality |= {id: float(ious(own).nanmean()) for id, own in zip(each.batch.ids, found, strict=True)}
        pixels += torch.stack([(each.truth == k).sum() for k in range(each.n_classes)])
    rows = [
        Row(name, float(iou), float(sums[k, 0] / pixels[k]) if pixels[k] else None, int(pixels[k]))
        for k, (name, iou) in enumerate(zip(names, ious(sums), strict=True))
        if not iou.isnan()
    ]
    words = Words(
        "intersection over union",
        "Overlap by class",
        "How well answer and truth cover each other, over all pixels of the split, the worst class first.",
        ("overlap", "found", "pixels"),
        1,
    )
    return [
        by_class(rows, words),
        masks(predict, data, split, services, quality, names),
    ]


def masks(
    predict: Predict,
    data: DataSource,
    split: str,
    services: Services,
    quality: Mapping[str, float],
    names: Sequence[str],
) -> Figure:
    """Images from the best answered to the worst: as they are, the truth, the teacher's answer where there is one, the student's.

    quality: id -> mean overlap of the classes of that image.
    """
    order = sorted(quality, key=lambda id: (-quality[id], id))
    n = min(IMAGES, len(order))
    ids = [order[i * (len(order) - 1) // max(n - 1, 1)] for i in range(n)]
    samples = data.split(split)
    place = {id: i for i, id in enumerate(samples.ids)}
    batch = samples.load([place[id] for id in ids])
    found = {"student": predict(batch)["logits"].argmax(1).cpu()}
    with suppress(PluginError, DataError, KeyError):  # no teacher of that name, or one that has no answer stored
        found = {"teacher": services.predict("teacher", batch)["logits"].argmax(1).cpu(), **found}
    own = {who: overlap_of(answer, batch["mask"], len(names)) for who, answer in found.items()}
    images = next(value for value in batch.tensors.values() if value.ndim == 4)
    rows = [
        [
            Picture.of("image", images[i], says=batch.ids[i]),
            Picture.of_classes("truth", batch["mask"][i]),
            *(Picture.of_classes(who, answer[i], says=share(own[who][i], 1) or "") for who, answer in found.items()),
        ]
        for i in range(n)
    ]
    shown = torch.cat([mask.flatten().cpu() for mask in (batch["mask"], *found.values())])
    seen = shown[shown >= 0].bincount().nonzero()[:, 0].tolist()
    says = "From the best answered image to the worst; below an answer the mean overlap of that image's classes."
    return Figure("masks", "Image by image", says, [legend(names, seen)], pictures=rows)


def legend(names: Sequence[str], classes: Sequence[int]) -> dict[str, Any]:
    """The pictures' colours with their classes' names, three in a row."""
    rows: list[dict[str, Any]] = [
        {"name": names[k], "colour": class_colour(k), "x": at % ACROSS, "y": at // ACROSS}
        for at, k in enumerate(classes)
    ]
    place = {
        "x": {"field": "x", "type": "quantitative", "axis": None, "scale": {"domain": [-0.1, ACROSS], "nice": False}},
        "y": {"field": "y", "type": "ordinal", "axis": None},
    }
    return {
        "description": "Colours of the classes: " + ", ".join(row["name"] for row in rows),
        "data": {"values": rows},
        "width": "container",
        "height": {"step": 19},
        "encoding": place,
        "layer": [
            {
                "mark": {
                    "type": "point",
                    "shape": "square",
                    "size": 110,
                    "stroke": "#7b858f",
                    "strokeWidth": 1,
                    "aria": False,
                },
                "encoding": {"fill": {"field": "colour", "type": "nominal", "scale": None}},
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 11, "limit": 130, "aria": False},
                "encoding": {"text": {"field": "name", "type": "nominal"}},
            },
        ],
    }


def overlap_of(found: Tensor, truth: Tensor, n_classes: int) -> list[float | None]:
    """Mean overlap of each image's classes, None of an image without a known pixel; found, truth: (B, H, W)."""
    means = [float(ious(each).nanmean()) for each in overlaps(found, truth.cpu(), n_classes)]
    return [None if mean != mean else mean for mean in means]
