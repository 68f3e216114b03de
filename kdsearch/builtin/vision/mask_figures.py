"""Figures of a segmentation: overlap of answer and truth, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from kdsearch.builtin.vision.mask_metrics import answers, ious, overlaps
from kdsearch.kinds import DataSource, Figure, Predict, Services, Table

DRAWN = 30  # classes that a chart can name; of more, the worst are shown and the rest stands in the table
BLUE = "#22609f"


def mask_figures(predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
    """`classes`; nothing where the data set does not name its classes."""
    names = [str(each) for each in data.facts.get("classes", ())]
    if not names:
        return ()
    sums, pixels = torch.zeros(len(names), 2, dtype=torch.float64), torch.zeros(len(names), dtype=torch.float64)
    for each in answers(predict, data, split, services):
        found = overlaps(each.found, each.truth, each.n_classes)
        sums += found.sum(0)
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
        )
    ]


def _share(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f} %"
