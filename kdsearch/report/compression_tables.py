"""The page's tables of compression: what each step cost, and what training as quantised gave back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdsearch.report.html_table import simple
from kdsearch.report.quality import quality_of
from kdsearch.report.values import count, esc, mapping, number, percent, plain, rows

Row = Mapping[str, Any]


def steps(result: Row) -> str:
    """What each step of compression cost and how far the network recovered, on validation."""
    found = rows(mapping(result.get("pruned")).get("steps"))
    quality = quality_of(mapping(result.get("pruned")))
    body = []
    for each in found:
        at = mapping(each.get("validation"))
        role = f"{plain(each['role'])}: " if len({plain(one.get("role")) for one in found}) > 1 else ""
        values = [quality.write(at.get(key)) for key in ("before", "cut", "recovered")]
        costs = [count(each.get("params")), count(each.get("macs")), percent(each.get("zeros"))]
        body.append([f"{role}{plain(each.get('use'))}", *costs, *values])
    head = ["step", "parameters", "MACs", "zeros", "before", "cut", "recovered"]
    return f"<h3>Compression: {esc(quality.label)}, on validation</h3>" + simple(head, body) if body else ""


def _came_of(row: Row) -> str:
    """Of training as quantised. Without a number there was no file, or one that answers none."""
    if row.get("used"):
        return "used"
    if row.get("epochs") == 0:
        return "nothing is rounded in training"
    if row.get("after") is None:
        before, allowed = number(row.get("before")), number(row.get("allowed"))
        return "not needed" if before is not None and before <= (allowed or 0.0) + 1e-12 else "no file to compare"
    return "no better, not used"


def as_quantised(result: Row) -> str:
    """What training as quantised was for: how much worse each format's file is on validation without and with it."""
    body, name, measures = [], "", mapping(result.get("measures"))
    for each in rows(result.get("as_quantised")):
        quality = quality_of({"quality": {**mapping(measures.get(plain(each.get("metric")))), **each}})
        name = quality.name
        values = [quality.write(each.get(key)) for key in ("before", "allowed", "after")]
        body.append([plain(each.get("format")), *values, count(each.get("epochs")), _came_of(each)])
    head = ["file", "plain", "allowed", "trained as quantised", "epochs", "what came of it"]
    title = f"<h3>Training as quantised: what {esc(name or 'the objective')} loses on validation</h3>"
    return title + simple(head, body) if body else ""
