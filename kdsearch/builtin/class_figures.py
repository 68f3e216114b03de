"""Figures of a classification: accuracy class by class, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdsearch.builtin.by_class import BLUE, DRAWN, Row, Words, by_class, share
from kdsearch.builtin.metrics import answers
from kdsearch.kinds import DataSource, Figure, Predict, Services, Table

MISTAKES = 20  # rows of the table of confusions
LETTER, NARROW = 7, 320  # pixels that a letter takes, and a matrix on a telephone
DIGIT, READABLE = 0.65, 8  # width of a digit to the size of its font; pixels below which nobody reads it


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
    found = [
        Row(names[k], int(hits[k]) / int(support[k]), int(hits[k]) / int(answered[k]) if answered[k] else None, int(n))
        for k, n in enumerate(support)
        if n
    ]
    words = Words(
        "share of the class that is answered right",
        "Accuracy by class",
        "How much of each class is answered right, the worst class first.",
        ("right", "precision", "samples"),
        2,
    )
    return by_class(found, words)


def confusion(counts: Tensor, names: Sequence[str]) -> Figure:
    """A matrix where the classes can be named on it, and the most frequent mistakes."""
    support = counts.sum(1)
    mistakes = sorted((-int(counts[i, j]), i, j) for i, j in counts.nonzero().tolist() if i != j)
    body = [[names[i], names[j], -count, share(-count / int(support[i]), 2)] for count, i, j in mistakes[:MISTAKES]]
    few = len(names) <= DRAWN
    cells = [
        {"truth": names[i], "answer": names[j], "n": int(counts[i, j]), "share": int(counts[i, j]) / int(support[i])}
        for i in range(len(names))
        for j in range(len(names))
        if support[i]
    ]
    axis = {"type": "nominal", "sort": list(names)}
    fits = max(map(len, names)) * LETTER * len(names) <= NARROW
    upright = {"labelAngle": 0 if fits else -45 if len(names) <= 12 else -90, "labelOverlap": False}
    most = len(str(int(counts.max())))
    size = f"width / {len(names)} / {most * DIGIT}"  # of digits that fill a field, as wide as the page makes it
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
            "x": {"field": "answer", **axis, "title": None, "axis": upright},
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
                "mark": {
                    "type": "text",
                    "aria": False,
                    "fontSize": {"expr": f"{size} < {READABLE} ? 0 : min(11, {size})"},
                },
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
        "Every answer on the split; the stronger a field's colour, the larger its share of the class. "
        "A field says how many it holds where there is room, and where it is pointed at.",
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
