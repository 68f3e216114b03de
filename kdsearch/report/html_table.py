"""Tables as HTML: sortable by any column, folded into cards on a narrow screen."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from kdsearch.kinds.figure import Table
from kdsearch.report.values import MISSING, esc, general

NUMBER = re.compile(r"[+\-\u2212]?[\d.,]+(e[+\-]?\d+)?( ?(%|[kMGT]?B|[kMGT]|ms|s|points|times))?")
LONG = re.compile(r"[^\s<>]{20,}")
JOINT = re.compile(r"[./(](?=\w)|(?<=\w{12})_(?=[^\W_])")
CARDS = 4  # with more columns than this, a narrow screen shows a row as a card; with as many, where there are texts
TEXT = 24  # characters of a cell that is one


class Markup(str):
    """Text that is HTML already; a number in the first data-v of its tags is what a column of it is ordered by."""


def breaking(text: str) -> str:
    """HTML in which a long name may go on in the next line after a dot, slash or bracket; a longer one after an underscore."""
    return LONG.sub(lambda word: JOINT.sub(r"\g<0><wbr>", word[0]), text)


def written(cell: object) -> str:
    """A cell as HTML."""
    if isinstance(cell, Markup):
        return cell
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return (
        breaking(esc(cell))
        if isinstance(cell, str)
        else esc(general(cell))
        if isinstance(cell, int | float)
        else MISSING
    )


def bare(content: str) -> str:
    return html.unescape(re.sub(r"<small[^>]*>.*?</small>|<[^>]*>", "", content)).strip()


def table(made: Table, strong: int | None = None, cards: bool = True) -> str:
    """Columns of numbers stand right; row `strong` stands out; the first column heads its row.

    cards: whether a narrow screen may show a row as a card; without, the table is scrolled there.
    """
    head = [esc(each) for each in made.head]
    body = [[written(cell) for cell in row] for row in made.rows]
    numeric = [
        at > 0
        and all((text := bare(row[at])) in ("", MISSING) or NUMBER.fullmatch(text) for row in body if at < len(row))
        for at in range(len(head))
    ]
    has_text = any(len(bare(cell)) > TEXT for row in body for cell in row)
    cards = cards and (len(head) > CARDS or (len(head) == CARDS and has_text))

    def cell(at: int, content: str) -> str:
        tag, label = ("td", f' data-l="{head[at]}"' if cards and at < len(head) else "") if at else ("th", "")
        scope = ' scope="row"' if tag == "th" else ""
        style = ' class="n"' if at < len(head) and numeric[at] else ""
        return f"<{tag}{scope}{style}{label}>{content}</{tag}>"

    top = "".join(
        f'<th scope="col"{" class=n" if numeric[at] else ""}><button type="button">{each}</button></th>'
        if len(body) > 1
        else f'<th scope="col"{" class=n" if numeric[at] else ""}>{each}</th>'
        for at, each in enumerate(head)
    )
    lines = "".join(
        ('<tr class="best">' if nth == strong else "<tr>") + "".join(map(cell, range(len(row)), row)) + "</tr>"
        for nth, row in enumerate(body)
    )
    title = f"<caption>{esc(made.caption)}</caption>" if made.caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(made.caption or "table")}">'
        f"<table{' class=cards' if cards else ''}>{title}<thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def simple(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    caption: str = "",
    strong: int | None = None,
    cards: bool = True,
) -> str:
    """A table of the page itself, whose cells may be Markup."""
    return table(Table(caption, head, rows), strong, cards)  # type: ignore[arg-type]
