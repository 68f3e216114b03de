"""The figures in the order of the page, and each as HTML: its panels, caption, notes, and the same data as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdsearch.kinds.figure import Figure
from kdsearch.report.curves_figure import curves_figure
from kdsearch.report.front_figure import front_figure
from kdsearch.report.history_figure import history_figure
from kdsearch.report.html_table import table
from kdsearch.report.ladder_figure import ladder_figure, weights_figure
from kdsearch.report.proxy_figure import proxy_figure
from kdsearch.report.values import esc, rows

FIGURES = (ladder_figure, weights_figure, front_figure, history_figure, proxy_figure, curves_figure)


def figures(result: Mapping[str, Any], evidence: Mapping[str, Any]) -> dict[str, Figure]:
    """Slug -> figure: the report's own, then those of the task."""
    made = [make(result, evidence) for make in FIGURES]
    made += [Figure.of(each) for each in rows(evidence.get("figures"))]
    return {each.slug: each for each in made}


def framed(figure: Figure, number: int, first: int) -> str:
    """The figure as HTML; `number` 0 = it stands alone. Its panels are drawn where `data-chart` says, counted from `first`."""
    title = f"<b>{f'Figure {number}. ' if number else ''}{esc(figure.title)}.</b>"
    slug, says = esc(figure.slug), f" {esc(figure.says)}" if figure.says else ""
    if not figure.panels and not figure.tables:
        return f'<figure id="fig-{slug}"><p class="none">{esc(figure.missing)}</p><figcaption>{title}</figcaption></figure>'
    panels = "".join(
        f'<div class="panel"><div class="chart" data-chart="{first + at}"></div></div>'
        for at in range(len(figure.panels))
    )
    drawn = (
        f'<div class="panels n{min(len(figure.panels), 3)}">{panels}</div>'
        if panels
        else f'<p class="none">{esc(figure.missing)}</p>'
    )
    notes = "".join(f'<p class="remark">{esc(note)}</p>' for note in figure.notes)
    tables = "".join(table(each) for each in figure.tables)
    data = (
        f"<details><summary>{f'Data of figure {number}' if number else 'Data'}</summary>{tables}</details>"
        if tables
        else ""
    )
    if not figure.panels and figure.missing == Figure.missing:
        drawn, data = tables, ""
    return f'<figure id="fig-{slug}">{drawn}<figcaption>{title}{says}</figcaption>{notes}{data}</figure>'
