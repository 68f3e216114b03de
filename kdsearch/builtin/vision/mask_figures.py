"""Figures of a segmentation: overlap of answer and truth, class by class, and images with both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch

from kdsearch.builtin.vision.mask_metrics import answers, ious, overlaps
from kdsearch.errors import PluginError
from kdsearch.kinds import DataSource, Figure, Picture, Predict, Services, Table

DRAWN = 30  # classes that a chart can name; of more, the worst are shown and the rest stands in the table
BLUE = "#22609f"
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
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "iou": float(iou),
            "recall": float(sums[k, 0] / pixels[k]) if pixels[k] else None,
            "n": int(pixels[k]),
        }
        for k, (name, iou) in enumerate(zip(names, ious(sums), strict=True))
        if not iou.isnan()
    ]
    rows.sort(key=lambda row: (row["iou"], row["name"]))
    shown = rows[:DRAWN]
    percent = {"format": ".1%", "type": "quantitative"}
    chart = {
        "title": "intersection over union",
        "description": "Overlap by class, the worst first: "
        + "; ".join(f"{row['name']} {100 * row['iou']:.1f} %" for row in shown[:5]),
        "data": {"values": shown},
        "width": "container",
        "height": {"step": 19},
        "mark": {"type": "bar", "height": {"band": 0.6}, "color": BLUE},
        "encoding": {
            "y": {"field": "name", "type": "nominal", "sort": [row["name"] for row in shown], "title": None},
            "x": {"field": "iou", "type": "quantitative", "title": None, "axis": {"format": "%"}}
            | {"scale": {"domain": [0, 1]}},
            "tooltip": [
                {"field": "name", "title": "class", "type": "nominal"},
                {"field": "iou", "title": "overlap", **percent},
                {"field": "recall", "title": "found", **percent},
                {"field": "n", "title": "pixels", "type": "quantitative"},
            ],
        },
    }
    body = [[row["name"], _share(row["iou"]), _share(row["recall"]), row["n"]] for row in rows]
    return [
        Figure(
            "classes",
            "Class by class",
            "How well answer and truth cover each other, over all pixels of the split, the worst class first."
            + (f" The {DRAWN} worst of {len(rows)}." if len(rows) > DRAWN else ""),
            [chart],
            [Table("Every class", ["class", "overlap", "found", "pixels"], body)],
        ),
        masks(predict, data, split, services, quality),
    ]


def masks(predict: Predict, data: DataSource, split: str, services: Services, quality: Mapping[str, float]) -> Figure:
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
    with suppress(PluginError, KeyError):  # the study has no teacher of that name
        found = {"teacher": services.predict("teacher", batch)["logits"].argmax(1).cpu(), **found}
    images = next(value for value in batch.tensors.values() if value.ndim == 4)
    rows = [
        [
            Picture.of("image", images[i], says=batch.ids[i]),
            Picture.of_classes("truth", batch["mask"][i]),
            *(
                Picture.of_classes(who, answer[i], says=_share(quality[id]) or "" if who == "student" else "")
                for who, answer in found.items()
            ),
        ]
        for i, id in enumerate(ids)
    ]
    says = "From the best answered image to the worst; below an answer the mean overlap of that image's classes."
    return Figure("masks", "Image by image", says, pictures=rows)


def _share(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f} %"
