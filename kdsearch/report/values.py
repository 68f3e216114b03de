"""What the report reads and how it writes it: nothing here trusts the type, size or text of a value."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "\u2013"  # an en dash
HUGE = 1e100  # beyond it no axis can be drawn: treated as missing
# controls and lone surrogates, which neither HTML nor UTF-8 can hold
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
UNBROKEN = re.compile(r"\b\d[\d.,]*(?: (?:%|ms|s|[kMGT]?B|[kMGT])(?!\w)|(?:-\d+){1,7}(?![\w-]))")
CODE = re.compile("`([^`<>]+)`")
SHARES = ("accuracy", "top1", "top5", "agreement", "miou", "recall", "precision", "f1")


def number(value: object) -> float | None:
    """The value as a finite float, or None for anything else (NaN, infinities, text, booleans, beyond 1e100)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not abs(value) < HUGE:  # also NaN
        return None
    return float(value)


def mapping(value: object) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def items(value: object) -> list[Any]:
    """The value as a list where it is a sequence that is no text, else an empty one."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else []


def rows(value: object) -> list[Mapping[str, Any]]:
    """The mappings of a sequence."""
    return [row for row in items(value) if isinstance(row, Mapping)]


def plain(value: object) -> str:
    """Text without what a page cannot hold; MISSING for None and for the empty text."""
    return UNPRINTABLE.sub("\ufffd", str(value)) if value is not None and value != "" else MISSING


def esc(value: object) -> str:
    """Text for HTML and for quoted attributes."""
    return html.escape(plain(value))


def prose(value: object) -> str:
    """Text for HTML in which no line ends between a number and its unit, nor within `8-16-32`; words between backticks are code."""
    return CODE.sub(r"<code>\1</code>", UNBROKEN.sub(r"<span class=nb>\g<0></span>", esc(value)))


def short(value: object, longest: int) -> str:
    """At most `longest` characters: the middle goes, since names differ at their ends. Not escaped."""
    text = plain(value)
    if len(text) <= longest:
        return text
    head = (longest - 1 + 1) // 2
    return text[:head] + "…" + text[len(text) - (longest - 1 - head) :]


def count(value: object) -> str:
    """`78,210`."""
    found = number(value)
    return MISSING if found is None else f"{found:,.0f}" if abs(found) < 1e15 else f"{found:.3g}"


def si(value: object, unit: str = "") -> str:
    """Three digits and a decimal prefix: `78.2 k`, `1.2 MB`."""
    found = number(value)
    if found is None:
        return MISSING
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(found) >= factor * 0.9995:
            return f"{found / factor:.3g} {prefix}{unit}" if abs(found) < 1e15 else f"{found:.3g} {unit}".rstrip()
    return f"{found:.3g} {unit}".rstrip()


def percent(value: object, digits: int = 2) -> str:
    """A fraction as `97.12 %`."""
    found = number(value)
    return MISSING if found is None else f"{100 * found:.{digits}f} %" if abs(found) < 1e6 else f"{found:.3g}"


def general(value: object) -> str:
    """Five significant digits; integers in full."""
    found = number(value)
    if found is None:
        return MISSING
    return count(found) if found == int(found) and abs(found) >= 1000 else f"{found:.5g}"


def rough(value: object) -> str:
    """Three significant digits: `9.54e-07`, of what matters by its size alone."""
    found = number(value)
    return MISSING if found is None else f"{found:.3g}"


def level(value: object) -> str:
    """Four significant digits, the zeros that end them included: `3.400`; whole ones from 1,000 on."""
    found = number(value)
    if found is None:
        return MISSING
    return f"{found:,.0f}" if abs(found) >= 999.95 and abs(found) < 1e15 else f"{found:#.4g}"


def milliseconds(value: object) -> str:
    """Three significant digits without the unit, the zeros that end them included: `0.110`; integers from 100 on."""
    found = number(value)
    if found is None:
        return MISSING
    return f"{found:,.0f}" if abs(found) >= 99.95 else f"{found:#.3g}"


def seconds(value: object) -> str:
    """`4.21 s`, `12 min 05 s`, `3 h 07 min`."""
    found = number(value)
    if found is None:
        return MISSING
    if found < 60:
        return f"{found:.2f} s"
    whole = round(found)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def about(seconds: float) -> str:
    """What is guessed: `about 40 s`, `about 4 minutes`, `about 2.5 hours`."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"about {seconds / 3600:,.1f} hours"


def is_share(name: str) -> bool:
    """Whether a metric of this name is a fraction that people read in percent."""
    return any(each in name.lower() for each in SHARES)


def metric(name: str, value: object) -> str:
    """A metric's value in the way of its name."""
    return percent(value) if is_share(name) else general(value)


def scalar(value: object) -> str:
    """Any JSON value on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return general(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(key)}: {scalar(each)}" for key, each in value.items()) or MISSING
    if items(value):
        return ", ".join(scalar(each) for each in items(value))
    return plain(value) if isinstance(value, str) else MISSING


def flat(value: object, path: str = "") -> list[tuple[str, object]]:
    """Nested mappings and lists of mappings as (dotted path, leaf)."""
    if isinstance(value, Mapping) and value:
        parts = [(f"{path}.{plain(key)}" if path else plain(key), each) for key, each in value.items()]
    elif rows(value):
        parts = [(f"{path}[{at}]", each) for at, each in enumerate(items(value))]
    else:
        return [(path, value)] if path else []
    return [leaf for key, each in parts for leaf in flat(each, key)]
