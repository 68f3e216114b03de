"""Scales, ticks, axes and marks as SVG text. Lengths in viewBox pixels; y grows downwards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from kdsearch.report.values import esc


@dataclass(frozen=True)
class Scale:
    """Maps data in [low, high] to pixels in [start, end], linearly or by logarithm; clips what lies outside."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    percent: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (
            (math.log(self.low), math.log(self.high), math.log(max(value, self.low)))
            if self.log
            else (self.low, self.high, value)
        )
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[tuple[float, str]]:
        """(value, label); at least one inside the range, unless it is too narrow for floats to divide."""
        if self.log and (values := log_ticks(self.low, self.high, about)):
            return [(value, tick_label(value, 0.0)) for value in values]
        step = nice((self.high - self.low) / about)
        first = math.ceil(self.low / step - 1e-9)
        values = [(first + at) * step for at in range(3 * about)]
        factor = 100 if self.percent else 1
        return [
            (value, tick_label(value * factor, step * factor)) for value in values if value <= self.high + step * 1e-9
        ]


def nice(step: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten, by ratio."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next((m * power for m, end in ((1, 1.41), (2, 3.16), (5, 7.07)) if step / power < end), 10 * power)


def log_ticks(low: float, high: float, about: int) -> list[float]:
    """Powers of ten, or 1-2-5 of them where few powers lie inside; empty where even those are fewer than three."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**e for e in decades for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    coarse = [10.0**e for e in decades if low <= 10.0**e <= high]
    if len(fine) <= about + 2:
        return fine if len(fine) > 2 else []
    return coarse[:: max(1, -(-len(coarse) // (about + 2)))] if len(coarse) > 2 else fine[::2]


def tick_label(value: float, step: float) -> str:
    """`0`, `0.25`, `20k`, `1.5M`; `step` says how many digits tell two ticks apart."""
    size = max(abs(value), step)
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if 1e15 > size >= factor and (prefix != "k" or size >= 1e4 or not step):
            return tick_label(value / factor, step / factor) + prefix
    if size >= 1e15 or 0 < size < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0
    return f"{value:.{digits}f}" if step else f"{value:.4g}"


def scale_of(
    values: Iterable[float],
    start: float,
    end: float,
    *,
    log: bool = False,
    percent: bool = False,
    zero: bool = False,
    pad: float = 0.06,
) -> Scale:
    """A scale that holds all values with some air. Log falls back to linear unless every value is positive.

    Equal values get a range around them, no values the range [0, 1]; `zero` starts at 0; a percent scale ends at 1.
    """
    found = list(values)
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    if log and low > 1e-90:  # below it the margin would underflow to zero
        ratio = max(high / low, 1.5)
        low, high = (low, high) if high / low >= 1.5 else (low / 1.25, high * 1.25)
        return Scale(low / ratio**pad, high * ratio**pad, start, end, log=True)
    wide = high - low > 1e-12 * max(abs(low), abs(high))
    span = high - low if wide else (0.1 * abs(high) or 1.0)
    low, high = low - span * (pad if wide else 0.5), high + span * (pad if wide else 0.5)
    if percent and found and max(found) <= 1:
        high = min(high, 1.0)
    if zero and found and min(found) >= 0:
        low = 0.0
    return Scale(low, high, start, end, percent=percent)


def px(value: float) -> str:
    """A pixel to a tenth."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


@dataclass(frozen=True)
class Frame:
    """A panel's size and the margins of its plot; `lane` is a strip at the foot for marks that have no y."""

    width: float = 440
    height: float = 290
    left: float = 46
    right: float = 14
    top: float = 30
    bottom: float = 38
    lane: float = 0

    @property
    def x_range(self) -> tuple[float, float]:
        return self.left, self.width - self.right

    @property
    def y_range(self) -> tuple[float, float]:
        """Bottom first."""
        return self.height - self.bottom - self.lane, self.top

    @property
    def lane_y(self) -> float:
        return self.height - self.bottom - self.lane / 2


def drawing(uid: str, frame: Frame, title: str, desc: str, body: str, keys: Sequence[str] = ()) -> str:
    """One accessible SVG. `keys`: names of the numbers in its marks' data-v, for the tooltip."""
    known = f' data-k="{esc("|".join(keys))}"' if keys else ""
    return (
        f'<svg viewBox="0 0 {px(frame.width)} {px(frame.height)}" role="img" '
        f'aria-labelledby="{uid}-t {uid}-d"{known}><title id="{uid}-t">{esc(title)}</title>'
        f'<desc id="{uid}-d">{esc(desc)}</desc>{body}</svg>'
    )


def axes(frame: Frame, x: Scale, y: Scale, x_label: str, y_label: str, *, lane: str = "", whole_x: bool = False) -> str:
    """Grid, tick labels and the names of both axes; the y axis is named above it, so that nobody reads sideways."""
    left, right = frame.x_range
    bottom = frame.y_range[0]
    foot = bottom + frame.lane
    parts = [f'<text class="axis" x="2" y="14">{esc(y_label)}</text>']
    for value, label in y.ticks():
        at = px(y(value))
        parts.append(f'<path class="grid" d="M{px(left)} {at}H{px(right)}"/>')
        if not frame.lane or frame.lane_y - y(value) > 16:  # else it would touch the lane's own label
            parts.append(f'<text class="tick e" x="{px(left - 6)}" y="{at}" dy=".35em">{esc(label)}</text>')
    free = 0.0  # where the next label may begin
    for value, label in x.ticks():
        half = 3.4 * len(label)
        if (whole_x and value != round(value)) or x(value) - half < free:
            continue
        free = x(value) + half + 6
        at = px(x(value))
        parts.append(f'<path class="base" d="M{at} {px(foot)}v4"/>')
        parts.append(f'<text class="tick m" x="{at}" y="{px(foot + 15)}">{esc(label)}</text>')
    if frame.lane:
        parts.append(
            f'<rect class="lane" x="{px(left)}" y="{px(bottom)}" width="{px(right - left)}" height="{px(frame.lane)}"/>'
        )
        parts.append(f'<text class="tick e" x="{px(left - 6)}" y="{px(frame.lane_y)}" dy=".35em">{esc(lane)}</text>')
    parts.append(f'<path class="base" d="M{px(left)} {px(foot)}H{px(right)}"/>')
    parts.append(f'<text class="axis e" x="{px(right)}" y="{px(frame.height - 5)}">{esc(x_label)}</text>')
    return "".join(parts)


def mark(
    kind: str,
    shape: Literal["dot", "ring", "cross", "diamond"],
    x: float,
    y: float,
    values: str,
    name: object = "",
    r: float = 4,
) -> str:
    """One data point. `values`: its numbers, joined by `|`; `name`: what the tooltip calls it."""
    named = f' data-t="{esc(name)}"' if name != "" else ""
    head = f'class="mark {kind}" data-v="{esc(values) if values else ""}"{named}'
    if shape in ("dot", "ring"):
        return f'<circle {head} cx="{px(x)}" cy="{px(y)}" r="{px(r)}"/>'
    if shape == "diamond":
        return f'<path {head} d="M{px(x)} {px(y - r)}l{px(r)} {px(r)}l{px(-r)} {px(r)}l{px(-r)} {px(-r)}z"/>'
    corner, d = f"M{px(x - r)} {px(y - r)}", px(2 * r)
    return f'<path {head} d="{corner}l{d} {d}m0 -{d}l-{d} {d}"/>'


def speck(kind: str, x: float, y: float, values: str, name: object = "") -> str:
    """A mark for thousands: a stroke of no length, drawn round by the style sheet, so that it costs some 70 bytes."""
    named = f' data-t="{esc(name)}"' if name != "" else ""
    return f'<path class="mark {kind}" data-v="{values}"{named} d="M{px(x)} {px(y)}h0"/>'


def line(kind: str, pixels: Sequence[tuple[float, float]]) -> str:
    """Straight from point to point; nothing for fewer than two."""
    if len(pixels) < 2:
        return ""
    return f'<path class="line {kind}" d="M' + "L".join(f"{px(x)} {px(y)}" for x, y in pixels) + '"/>'


def staircase(kind: str, pixels: Sequence[tuple[float, float]], end: float) -> str:
    """Flat until the next point is reached, and on to x = `end`."""
    if not pixels:
        return ""
    steps = "".join(f"H{px(x)}V{px(y)}" for x, y in pixels[1:])
    return f'<path class="line {kind}" d="M{px(pixels[0][0])} {px(pixels[0][1])}{steps}H{px(end)}"/>'
