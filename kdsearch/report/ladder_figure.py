"""What compression costs and saves, and how many bits the weights of each file take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdsearch.report.figure import Figure
from kdsearch.report.svg import Frame, drawing, px, scale_of
from kdsearch.report.values import (
    MISSING,
    count,
    esc,
    items,
    mapping,
    milliseconds,
    number,
    percent,
    rows,
    short,
    si,
    table,
)

Row = Mapping[str, Any]
BITS = ("32", "16", "8", "4")
ROW = 30  # pixels a rung
NAME = 92  # pixels for its name


def interval(rung: Row) -> tuple[float, float] | None:
    """The rung's interval where it is two numbers in order."""
    ends = [number(each) for each in items(rung.get("interval"))]
    if len(ends) != 2 or ends[0] is None or ends[1] is None or ends[0] > ends[1]:
        return None
    return ends[0], ends[1]


def bar_panel(rungs: Sequence[Row], key: str, label: str, write: Callable[[object], str], *, log: bool = False) -> str:
    """One bar a rung, or a dot with its interval for accuracy, whose axis does not start at zero.

    Every rung has one `mark rung KEY`, with its number, or "not measured" where it was not measured.
    """
    values = [number(rung.get(key)) for rung in rungs]
    ends = [interval(rung) if key == "accuracy" else None for rung in rungs]
    frame = Frame(
        width=330, height=44 + ROW * len(rungs), left=NAME, right=78 if key != "accuracy" else 70, top=30, bottom=14
    )
    known = [v for v in values if v is not None] + [end for pair in ends if pair for end in pair]
    dots = key == "accuracy"
    x = scale_of(known, *frame.x_range, percent=dots, zero=not dots, pad=0.08, log=log and not dots)
    parts = [f'<text class="axis" x="2" y="14">{esc(label)}</text>']
    for at, (rung, value, pair) in enumerate(zip(rungs, values, ends, strict=True)):
        y = frame.top + ROW * at + ROW / 2
        written = write(value) if value is not None else "not measured"
        inner = f'<text class="name e" x="{NAME - 8}" y="{px(y)}" dy=".35em">{esc(short(rung.get("name"), 12))}</text>'
        if value is None:
            inner += f'<text class="tick" x="{NAME}" y="{px(y)}" dy=".35em">{written}</text>'
        elif dots:
            inner += f'<path class="base" d="M{NAME} {px(y)}H{px(x.end)}"/>'
            if pair:
                inner += f'<path class="whisker" d="M{px(x(pair[0]))} {px(y)}H{px(x(pair[1]))}"/>'
            inner += f'<circle class="fill" cx="{px(x(value))}" cy="{px(y)}" r="5"/>'
            inner += f'<text class="value" x="{px(x.end + 6)}" y="{px(y)}" dy=".35em">{written}</text>'
        else:
            end = max(x(value), NAME + 1.5)
            inner += f'<rect class="fill" x="{NAME}" y="{px(y - 8)}" width="{px(end - NAME)}" height="16"/>'
            inner += f'<text class="value" x="{px(end + 6)}" y="{px(y)}" dy=".35em">{written}</text>'
        parts.append(
            f'<g class="mark rung {key}" data-v="{esc(written)}" data-t="{esc(short(rung.get("name"), 80))}">{inner}</g>'
        )
    missing = sum(value is None for value in values)
    desc = "; ".join(f"{short(r.get('name'), 40)} {write(v)}" for r, v in zip(rungs, values, strict=True))
    return drawing(
        f"ladder-{key}", frame, label, desc + (f" ({missing} not measured)" if missing else ""), "".join(parts)
    )


def ladder_figure(result: Row, evidence: Row) -> Figure:
    """Accuracy, size and latency of every rung, in aligned rows."""
    rungs = rows(evidence.get("ladder"))
    panels: tuple[str, ...] = ()
    if rungs:
        panels = (
            bar_panel(rungs, "accuracy", "test accuracy", percent),
            bar_panel(rungs, "bytes", "size of the weights or file", lambda v: si(v, "B")),
            bar_panel(rungs, "latency_ms", "latency, one sample (ms)", lambda v: f"{milliseconds(v)} ms"),
        )
    body = [
        [
            esc(rung.get("name")),
            percent(rung.get("accuracy")),
            f"{percent(pair[0])} to {percent(pair[1])}" if (pair := interval(rung)) else MISSING,
            count(rung.get("bytes")),
            count(rung.get("params")),
            count(rung.get("macs")),
            milliseconds(rung.get("latency_ms")),
        ]
        for rung in rungs
    ]
    head = ["rung", "accuracy", "95 % interval", "bytes", "parameters", "MACs", "latency (ms)"]
    whiskers = " Bars through the dots are 95 % intervals; the axis of accuracy does not start at zero."
    return Figure(
        "ladder",
        "From the teacher to the smallest file",
        "Each row is one step of compression, top to bottom."
        + (whiskers if any(interval(rung) for rung in rungs) else " The axis of accuracy does not start at zero."),
        panels,
        twin=table(head, body, numeric=range(1, 7)),
        columns=3,
        missing="The steps of compression were not recorded.",
    )


def weights_figure(result: Row, evidence: Row) -> Figure:
    """Share of weight elements stored at each width, one stacked bar a file."""
    exports = [export for export in rows(result.get("exports")) if mapping(export.get("weight_share"))]
    frame = Frame(width=440, height=16 + ROW * max(len(exports), 1), left=NAME + 4, right=10, top=8, bottom=8)
    x = scale_of([0, 1], *frame.x_range, pad=0)
    parts = []
    for at, export in enumerate(exports):
        y = frame.top + ROW * at + 4
        share = mapping(export.get("weight_share"))
        parts.append(
            f'<text class="name e" x="{NAME - 4}" y="{px(y + 11)}" dy=".35em">{esc(short(export.get("format"), 12))}</text>'
        )
        done = 0.0
        for bits in BITS:
            part = min(max(number(share.get(bits)) or 0.0, 0.0), 1.0 - done)
            if part <= 0:
                continue
            left, width = x(done), x(done + part) - x(done)
            done += part
            inner = f'<rect class="w{bits}" x="{px(left)}" y="{px(y)}" width="{px(width)}" height="22"/>'
            if width > 44:
                middle = f'x="{px(left + width / 2)}" y="{px(y + 11)}" dy=".35em"'
                inner += f'<text class="in m w{bits}" {middle}>{percent(part, 1)}</text>'
            name = f"{short(export.get('format'), 40)}, {bits} bit"
            parts.append(f'<g class="mark share" data-v="{percent(part)}" data-t="{esc(name)}">{inner}</g>')
    body = [
        [esc(export.get("format")), *(percent(mapping(export.get("weight_share")).get(bits)) for bits in BITS)]
        for export in exports
    ]
    return Figure(
        "weights",
        "Bits a weight takes",
        "Share of the fp32 graph's weight elements that each file really stores at a width; "
        "scales and zero points count in the file's size.",
        (drawing("weights-share", frame, "Weight share by bit width", f"{len(exports)} files.", "".join(parts)),)
        if exports
        else (),
        tuple((f"w{bits}", "bar", f"{bits} bit") for bits in BITS),
        table(["file", *(f"{bits} bit" for bits in BITS)], body, numeric=range(1, 5)),
        columns=1,
        missing="No exported file says how its weights are stored.",
    )
