"""Figures of several labels at once: how well each of them is told, by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdsearch.builtin.by_class import DRAWN, bars
from kdsearch.builtin.tables.label_metrics import answers
from kdsearch.kinds import HIDDEN, DataSource, Figure, Predict, Table


def label_figures(predict: Predict, data: DataSource, split: str) -> Sequence[Figure]:
    """`labels`: F1, precision and recall of each label, the worst first; nothing where the data set does not name its labels."""
    probs, labels = answers(predict, data, split)
    names = [str(each) for each in data.facts.get("labels", ())]
    if len(names) != labels.shape[1]:
        return ()
    said, truth, known = probs > 0.5, labels == 1, labels != HIDDEN
    hits, told, there = ((each & known).sum(0).tolist() for each in (said & truth, said, truth))
    n = known.sum(0).tolist()
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "f1": 2 * hits[k] / (told[k] + there[k]) if told[k] + there[k] else None,
            "precision": hits[k] / told[k] if told[k] else None,
            "recall": hits[k] / there[k] if there[k] else None,
            "there": there[k],
            "n": n[k],
        }
        for k, name in enumerate(names)
    ]
    rows.sort(key=lambda row: (row["f1"] is None, row["f1"] or 0.0, row["name"]))
    shown = [row for row in rows if row["f1"] is not None][:DRAWN]
    percent = {"format": ".1%", "type": "quantitative"}
    tooltip = [
        {"field": "name", "title": "label", "type": "nominal"},
        {"field": "f1", "title": "F1", **percent},
        {"field": "precision", "title": "precision", **percent},
        {"field": "recall", "title": "recall", **percent},
        {"field": "there", "title": "samples that have it", "type": "quantitative"},
    ]
    chart = bars("F1 of the label", "F1 by label", shown, "f1", tooltip)
    body = [
        [row["name"], *(_share(row[key]) for key in ("f1", "precision", "recall")), row["there"], row["n"]]
        for row in rows
    ]
    says = "How well each label is told, by itself, the worst first."
    if len(rows) > DRAWN:
        says += f" The {DRAWN} worst of {len(rows)}."
    head = ["label", "F1", "precision", "recall", "samples that have it", "samples judged"]
    panels = [chart] if shown else []
    return [Figure("labels", "Label by label", says, panels, [Table("Every label", head, body)])]


def _share(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f} %"
