"""The figures in the order of the page, and each as HTML: its panels, caption, notes, and the same data as tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.kinds.figure import Figure, Picture
from kdsearch.report.classes_figure import classes_figure
from kdsearch.report.curves_figure import curves_figure
from kdsearch.report.front_figure import front_figure
from kdsearch.report.history_figure import history_figure
from kdsearch.report.html_table import table
from kdsearch.report.ladder_figure import ladder_figure, weights_figure
from kdsearch.report.proxy_figure import proxy_figure
from kdsearch.report.values import MISSING, esc, plain, rows

PNG = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]{1,2000000}={0,2}")
FIGURES = {
    "ladder": ladder_figure,
    "weights": weights_figure,
    "front": front_figure,
    "history": history_figure,
    "proxies": proxy_figure,
    "curves": curves_figure,
    "learnt": classes_figure,
}
OWN = tuple(FIGURES)


def figures(result: Mapping[str, Any], evidence: Mapping[str, Any]) -> dict[str, Figure]:
    """Slug -> figure: the report's own, then those of the task."""
    made = [make(result, evidence) for make in FIGURES.values()]
    found = [each for each in made if each is not None]
    found += [Figure.of(each) for each in rows(evidence.get("figures"))]
    return {each.slug: each for each in found}


def gallery(pictures: Sequence[Sequence[Picture]]) -> str:
    """A row a sample, a column each of what is shown of it; a title stands on its column, or below where rows differ."""
    if not pictures:
        return ""
    titles = [each.title for each in max(pictures, key=len)]
    common = all([each.title for each in row] == titles[: len(row)] for row in pictures)
    head = "".join(f'<th scope="col">{esc(title)}</th>' for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{seen(each, not common)}</td>" for each in row) + "</tr>" for row in pictures)
    top = f"<thead><tr>{head}</tr></thead>" if common else ""
    return f'<table class="pictures" style="max-width:{len(titles) * 10}em">{top}<tbody>{body}</tbody></table>'


def seen(picture: Picture, titled: bool) -> str:
    """The image with its words; one that is no PNG is only said to be there."""
    words = [plain(each) for each in (picture.title, picture.says) if each]
    below = words if titled else words[1:] if picture.title else words
    is_png = isinstance(picture.src, str) and PNG.fullmatch(picture.src) is not None
    drawn = f'<img src="{picture.src}" alt="{esc(", ".join(words))}">' if is_png else f'<p class="none">{MISSING}</p>'
    return drawn + (f"<small>{esc(', '.join(below))}</small>" if below else "")


def framed(figure: Figure, number: int, first: int) -> str:
    """The figure as HTML; `number` 0 = it stands alone. Its panels are drawn where `data-chart` says, counted from `first`."""
    title = f"<b>{f'Figure {number}. ' if number else ''}{esc(figure.title)}.</b>"
    slug, says = esc(figure.slug), f" {esc(figure.says)}" if figure.says else ""
    if not figure.panels and not figure.tables and not figure.pictures:
        return f'<figure id="fig-{slug}"><p class="none">{esc(figure.missing)}</p><figcaption>{title}</figcaption></figure>'
    panels = "".join(
        f'<div class="panel"><div class="chart" data-chart="{first + at}"></div></div>'
        for at in range(len(figure.panels))
    )
    drawn = gallery(figure.pictures)
    if panels:
        drawn += f'<div class="panels n{min(len(figure.panels), 3)}">{panels}</div>'
    drawn = drawn or f'<p class="none">{esc(figure.missing)}</p>'
    notes = "".join(f'<p class="remark">{esc(note)}</p>' for note in figure.notes)
    tables = "".join(table(each) for each in figure.tables)
    data = (
        f"<details><summary>{f'Data of figure {number}' if number else 'Data'}</summary>{tables}</details>"
        if tables
        else ""
    )
    if not figure.panels and not figure.pictures and figure.missing == Figure.missing:
        drawn, data = tables, ""
    return f'<figure id="fig-{slug}">{drawn}<figcaption>{title}{says}</figcaption>{notes}{data}</figure>'
