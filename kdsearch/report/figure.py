"""What a figure consists of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kdsearch.report.svg import mark
from kdsearch.report.values import esc

Shape = Literal["dot", "ring", "cross", "diamond", "line", "bar"]


@dataclass(frozen=True)
class Figure:
    """One figure.

    Args:
        slug: its id on the page is `fig-<slug>`.
        title, says: what it shows, and how to read it; plain text.
        panels: SVG drawings; none = the figure says `missing` instead.
        legend: (classes, shape, label).
        twin: the same data as HTML tables.
        columns: panels side by side where the page is wide enough; 1 puts the caption beside the panel.
    """

    slug: str
    title: str
    says: str
    panels: tuple[str, ...] = ()
    legend: tuple[tuple[str, Shape, str], ...] = ()
    twin: str = ""
    columns: int = 2
    missing: str = ""
    notes: tuple[str, ...] = field(default_factory=tuple)


def swatch(kind: str, shape: Shape) -> str:
    """The sign of a legend: no mark, since it stands for no datum."""
    if shape == "line":
        body = f'<path class="line {kind}" d="M1 7h22"/>'
    elif shape == "bar":
        body = f'<rect class="{kind}" x="5" y="1" width="14" height="12"/>'
    else:
        body = mark(kind, shape, 12, 7, "").replace('class="mark ', 'class="key ').replace(' data-v=""', "")
    return f'<svg viewBox="0 0 24 14" width="24" height="14" aria-hidden="true">{body}</svg>'


def framed(figure: Figure, at: int) -> str:
    """The figure as HTML, with its number."""
    head = f"<b>Figure {at}. {esc(figure.title)}.</b> {esc(figure.says)}"
    if not figure.panels:
        return (
            f'<figure id="fig-{figure.slug}"><p class="none">{esc(figure.missing)}</p>'
            f"<figcaption><b>Figure {at}. {esc(figure.title)}.</b></figcaption></figure>"
        )
    signs = "".join(f"<li>{swatch(kind, shape)}{esc(label)}</li>" for kind, shape, label in figure.legend)
    legend = f'<ul class="legend">{signs}</ul>' if signs else ""
    notes = "".join(f'<p class="remark">{esc(note)}</p>' for note in figure.notes)
    twin = f"<details><summary>Data of figure {at}</summary>{figure.twin}</details>" if figure.twin else ""
    panels = "".join(f'<div class="panel">{each}</div>' for each in figure.panels)
    return (
        f'<figure id="fig-{figure.slug}" class="c{figure.columns}"><div class="panels">{panels}</div>'
        f'<div class="words">{legend}<figcaption>{head}</figcaption>{notes}{twin}</div></figure>'
    )
