"""How good a network or file is, by whatever the study's objective measures."""

from __future__ import annotations

from dataclasses import dataclass

from kdsearch.report.values import MISSING, count, is_share, items, level, mapping, number, percent, plain

FLAT = 5e-5  # a difference of shares that no figure of the page shows


@dataclass(frozen=True)
class Quality:
    """One measured value of the objective; `value` None = not measured.

    Args:
        metric: its name. up: higher is better. share: a fraction, read in per cent. unit: of any other metric.
        interval: 95 %. n: what it was measured on, in samples or whatever the metric counts. title: what people call it.
    """

    metric: str
    value: float | None
    up: bool = True
    share: bool = False
    unit: str = ""
    interval: tuple[float, float] | None = None
    n: int | None = None
    title: str = ""

    @property
    def name(self) -> str:
        """`nDCG@10`; the metric's own name where it has no other."""
        return self.title or self.metric

    @property
    def text(self) -> str:
        """`97.12 %`, `0.312 nats`."""
        return self.write(self.value)

    def write(self, value: object) -> str:
        if number(value) is None:
            return MISSING
        return percent(value) if self.share else f"{level(value)} {self.unit}".rstrip()

    @property
    def range(self) -> str:
        """`96.2 to 98.4 %` or nothing."""
        if self.interval is None:
            return ""
        low, high = self.interval
        return f"{100 * low:.1f} to {100 * high:.1f} %" if self.share else f"{level(low)} to {self.write(high)}"

    @property
    def known(self) -> str:
        """What the value rests on: `95 % interval 96.2 to 98.4 %, 359 samples`."""
        said = [f"95 % interval {self.range}"] if self.range else []
        return ", ".join([*said, *([f"n = {count(self.n)}"] if self.n else [])])

    @property
    def label(self) -> str:
        """The name for an axis or a column: `accuracy`, `loss (nats), lower is better`."""
        return self.name + (f" ({self.unit})" if self.unit else "") + ("" if self.up else ", lower is better")

    def against(self, other: Quality, name: str) -> str:
        """`1.20 points below the teacher`, `0.013 nats better than the teacher`; nothing where either is unknown."""
        if self.value is None or other.value is None:
            return ""
        gain = self.value - other.value
        if abs(gain) < (FLAT if self.share else 1e-9 * max(abs(self.value), abs(other.value), 1e-30)):
            return f"level with {name}"
        if self.share and self.up:
            return f"{100 * abs(gain):.2f} points {'above' if gain > 0 else 'below'} {name}"
        size = f"{100 * abs(gain):.2f} points" if self.share else self._size(abs(gain))
        return f"{size} {'better' if (gain > 0) == self.up else 'worse'} than {name}"

    def _size(self, gain: float) -> str:
        """A difference with as many decimals as the value, one digit at least: what the value does not say it does not either."""
        _, _, decimals = level(self.value).partition(".")
        text = f"{gain:,.{len(decimals)}f}"
        return f"{text if any(each in '123456789' for each in text) else f'{gain:.1g}'} {self.unit}".rstrip()


def quality_of(row: object) -> Quality:
    """The quality that a network's or file's row holds; its accuracy where that is all it says."""
    given = mapping(row)
    raw = mapping(given.get("quality"))
    if not raw:
        return Quality("accuracy", number(given.get("accuracy")), share=True)
    metric, unit = plain(raw.get("metric")), raw.get("unit")
    ends = [number(each) for each in items(raw.get("interval"))]
    pair = (ends[0], ends[1]) if len(ends) == 2 and None not in ends else None
    n = number(raw.get("n"))
    share = unit == "share" if unit is not None else is_share(metric)
    return Quality(
        metric,
        number(raw.get("value")),
        raw.get("direction") != "min",
        share,
        "" if share or not unit else plain(unit),
        pair if pair is not None and pair[0] <= pair[1] else None,  # type: ignore[operator, arg-type]
        int(n) if n is not None else None,
        plain(raw["title"]) if raw.get("title") else "",
    )
