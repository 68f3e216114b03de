"""The figures in the order of the page, and the frame that all share: panels, legend, caption, table twin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdsearch.report.curves_figure import curves_figure
from kdsearch.report.figure import framed
from kdsearch.report.front_figure import front_figure
from kdsearch.report.history_figure import history_figure
from kdsearch.report.ladder_figure import ladder_figure, weights_figure
from kdsearch.report.proxy_figure import proxy_figure

FIGURES = (ladder_figure, weights_figure, front_figure, history_figure, proxy_figure, curves_figure)


def figures(result: Mapping[str, Any], evidence: Mapping[str, Any]) -> dict[str, str]:
    """Slug -> HTML of each figure, numbered in the order of the page; one without data says what is missing."""
    made = [make(result, evidence) for make in FIGURES]
    return {each.slug: framed(each, at) for at, each in enumerate(made, 1)}
