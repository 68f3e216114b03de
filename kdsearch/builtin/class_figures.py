"""Figures of a classification: accuracy class by class, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdsearch.builtin.metrics import answers
from kdsearch.kinds import DataSource, Figure, Predict, Services, Table

DRAWN = 30  # classes that a chart can name; of more, the worst are shown and the rest stands in the table
MISTAKES = 20  # rows of the table of confusions
BLUE = "#22609f"


def class_figures(predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
    """`classes` and `confusion`; nothing where the data set does not name its classes."""
    names = [str(each) for each in data.facts.get("classes", ())]
    if not names:
        return ()
    counts = torch.zeros(len(names), len(names), dtype=torch.int64)  # rows are truth, columns answers
    for each in answers(predict, data, split, services):
        flat = each.targets * len(names) + each.logits.argmax(1)
        counts += torch.bincount(flat, minlength=counts.numel()).reshape(counts.shape)
    return per_class(counts, names), confusion(counts, names)


def per_class(counts: Tensor, names: Sequence[str]) -> Figure:
    """Recall of each class that occurs, the worst first."""
    support, answered, hits = counts.sum(1), counts.sum(0), counts.diag()
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "recall": int(hits[k]) / int(support[k]),
            "precision": int(hits[k]) / int(answered[k]) if answered[k] else None,
            "n": int(support[k]),
        }
        for k, name in enumerate(names)
        if support[k]
    ]
    found.sort(key=lambda row: (row["recall"], row["name"]))
    shown = found[:DRAWN]
    order = [row["name"] for row in shown]
    percent = {"format": ".2%", "type": "quantitative"}
    chart = {
        "title": "share of the class that is answered right",
        "description": "Accuracy by class, the worst first: "
        + "; ".join(f"{row['name']} {100 * row['recall']:.1f} %" for row in shown[:5]),
        "data": {"values": shown},
        "width": "container",
        "height": {"step": 19},
        "mark": {"type": "bar", "height": {"band": 0.6}, "color": BLUE},
        "encoding": {
            "y": {"field": "name", "type": "nominal", "sort": order, "title": None},
            "x": {"field": "recall", "type": "quantitative", "title": None, "axis": {"format": "%"}}
            | {"scale": {"domain": [0, 1]}},
            "tooltip": [
                {"field": "name", "title": "class", "type": "nominal"},
                {"field": "recall", "title": "right", **percent},
                {"field": "precision", "title": "precision", **percent},
                {"field": "n", "title": "samples", "type": "quantitative"},
            ],
        },
    }
    body = [[row["name"], _share(row["recall"]), _share(row["precision"]), row["n"]] for row in found]
    return Figure(
        "classes",
        "Class by class",
        "How much of each class is answered right, the worst class first."
        + (f" The {DRAWN} worst of {len(found)}." if len(found) > DRAWN else ""),
        [chart],
        [Table("Every class", ["class", "right", "precision", "samples"], body)],
    )


def confusion(counts: Tensor, names: Sequence[str]) -> Figure:
    """A matrix where the classes can be named on it, and the most frequent mistakes."""
    support = counts.sum(1)
    mistakes = sorted((-int(counts[i, j]), i, j) for i, j in counts.nonzero().tolist() if i != j)
    body = [[names[i], names[j], -count, _share(-count / int(support[i]))] for count, i, j in mistakes[:MISTAKES]]
    few = len(names) <= DRAWN
    cells = [
        {"truth": names[i], "answer": names[j], "n": int(counts[i, j]), "share": int(counts[i, j]) / int(support[i])}
        for i in range(len(names))
        for j in range(len(names))
        if support[i]
    ]
    axis = {"type": "nominal", "sort": list(names)}
    tooltip = [
        {"field": "truth", "title": "truth", "type": "nominal"},
        {"field": "answer", "title": "answer", "type": "nominal"},
        {"field": "n", "title": "samples", "type": "quantitative"},
        {"field": "share", "title": "of the class", "type": "quantitative", "format": ".1%"},
    ]
    chart = {
        "title": "truth in rows, answers in columns",
        "description": f"{-sum(count for count, _, _ in mistakes)} of {int(support.sum())} answers are wrong. "
        + "; ".join(f"{names[i]} taken for {names[j]} {-count} times" for count, i, j in mistakes[:3]),
        "data": {"values": cells},
        "width": "container",
        "height": {"step": 24},
        "encoding": {
            "y": {"field": "truth", **axis, "title": None},
            "x": {"field": "answer", **axis, "title": None, "axis": {"labelAngle": 0 if len(names) <= 12 else -45}},
            "tooltip": tooltip,
        },
        "layer": [
            {
                "mark": {"type": "rect", "color": BLUE},
                "encoding": {
                    "opacity": {
                        "field": "share",
                        "type": "quantitative",
                        "scale": {"type": "sqrt", "domain": [0, 1], "range": [0.03, 1]},
                        "legend": None,
                    }
                },
            },
            {
                "transform": [{"filter": {"field": "n", "gt": 0}}],
                "mark": {"type": "text", "aria": False},
                "encoding": {
                    "text": {"field": "n", "type": "quantitative"},
                    "color": {
                        "condition": {"test": {"field": "share", "gt": 0.3}, "value": "#fffffe"},
                        "value": "#1c2228",
                    },
                },
            },
        ],
    }
    return Figure(
        "confusion",
        "What is taken for what",
        "Every answer on the split; the darker a field, the larger its share of the class.",
        [chart] if few else (),
        [
            Table(
                f"The most frequent mistakes, of {len(mistakes)} pairs",
                ["truth", "answer", "samples", "of the class"],
                body,
            )
        ]
        if body
        else (),
        () if body else ("There is no mistake.",),
        missing=f"{len(names)} classes: the most frequent mistakes stand in the table.",
    )


def _share(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.2f} %"
