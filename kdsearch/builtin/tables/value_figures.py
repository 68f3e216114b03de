"""Figures of a regression: what was answered against the truth, and how large the errors are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdsearch.builtin.tables.value_metrics import answers
from kdsearch.kinds import DataSource, Figure, Predict, Table

DRAWN = 400  # samples a panel shows, evenly spaced in the order of the truth
TARGETS = 6  # of more the rest stands in the table
BLUE, GREY = "#22609f", "#7b858f"
SHARES = (0.5, 0.9)  # of the samples, whose error is at most what the table says


def value_figures(predict: Predict, data: DataSource, split: str) -> Sequence[Figure]:
    """`answers`: a panel a target, with a line where answer and truth are equal; every target's errors in a table."""
    values, targets = answers(predict, data, split)
    found = [
        (value[~target.isnan()], target[~target.isnan()]) for value, target in zip(values.T, targets.T, strict=True)
    ]
    names = [str(each) for each in data.facts.get("targets", ())]
    if len(names) != targets.shape[1]:
        names = ["value"] if targets.shape[1] == 1 else [f"value {k + 1}" for k in range(targets.shape[1])]
    told = [(name, *each) for name, each in zip(names, found, strict=True) if len(each[0])]
    panels = [_panel(*each) for each in told[:TARGETS]]
    body = [_errors(*each) for each in told]
    says = "Each point is a sample of the split, those on the line are answered exactly."
    if len(targets) > DRAWN:
        says += f" {DRAWN} of {len(targets):,} are drawn."
    if len(told) > TARGETS:
        says += f" The first {TARGETS} of {len(told)} targets."
    head = [
        "target",
        "lowest truth",
        "highest truth",
        "mean error",
        "half are within",
        "nine in ten within",
        "largest error",
    ]
    return [Figure("answers", "Answer and truth", says, panels, [Table("Errors (answer - truth)", head, body)])]


def _panel(name: str, values: Tensor, targets: Tensor) -> dict[str, Any]:
    order = targets.argsort(stable=True)
    n = min(DRAWN, len(order))
    at = order[[i * (len(order) - 1) // max(n - 1, 1) for i in range(n)]].tolist()
    rows = [{"truth": float(targets[i]), "answer": float(values[i])} for i in at]
    ends = [float(each) for each in (targets.min(), targets.max())]
    line = [{"truth": end, "answer": end} for end in ends]
    axis = {"type": "quantitative", "scale": {"zero": False}}
    error = float((values - targets).abs().median())
    return {
        "title": f"{name}: answer against truth",
        "description": f"{name}: {n} answers against the truth, which is from {ends[0]:.4g} to {ends[1]:.4g}; half of the errors "
        f"are within {error:.3g}.",
        "data": {"values": rows},
        "width": "container",
        "height": 250,
        "encoding": {
            "x": {"field": "truth", "title": "truth", **axis},
            "y": {"field": "answer", "title": None, **axis},
        },
        "layer": [
            {"data": {"values": line}, "mark": {"type": "line", "color": GREY, "strokeWidth": 1, "aria": False}},
            {
                "mark": {"type": "point", "color": BLUE, "size": 26, "opacity": 0.6},
                "encoding": {
                    "tooltip": [
                        {"field": "truth", "title": "truth", "type": "quantitative", "format": ",.4~g"},
                        {"field": "answer", "title": "answer", "type": "quantitative", "format": ",.4~g"},
                    ]
                },
            },
        ],
    }


def _errors(name: str, values: Tensor, targets: Tensor) -> list[str]:
    error = values - targets
    within = torch.quantile(error.abs(), torch.tensor(SHARES, dtype=error.dtype)).tolist()
    found = [float(targets.min()), float(targets.max()), float(error.mean()), *within, float(error.abs().max())]
    return [name, *(f"{each:.4g}" for each in found)]
