"""Architectures and other nested values as a person says them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kdsearch.report.values import items, plain, scalar
from kdsearch.store.hashing import canonical


def architecture(text: object) -> str:
    """A canonical spec in words: `basic block, depths 1-1-1, widths 12-24-16`; any other text as it is."""
    found = plain(text)
    if not found.startswith("{"):
        return found
    try:
        spec = json.loads(found)
    except (ValueError, RecursionError):
        return found
    return spec_words(spec) if isinstance(spec, dict) and spec else found


def part(text: object, role: object) -> object:
    """A role's own out of the architecture of several students, which is JSON by role; where no role is asked for, all of it."""
    try:
        return text if role is None else canonical(json.loads(plain(text))[role])
    except (ValueError, KeyError, TypeError, RecursionError):
        return text


def spec_words(spec: Mapping[str, Any]) -> str:
    """What kind it is, then its sizes, then what it has and what it has not."""
    found = sorted(spec.items(), key=lambda each: place(each[1]))
    return ", ".join(entry(plain(name).replace("_", " "), value) for name, value in found)


def place(value: object) -> int:
    if value in ("none", 0):  # False is 0
        return 3
    return 2 if value is True else 0 if isinstance(value, str) else 1


def entry(name: str, value: object) -> str:
    """A word stands before its name, a number after it; a switch that is on is its name alone; what is 0 is not there."""
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if value in ("none", 0):
        return f"no {name}"
    if isinstance(value, str):
        return f"{plain(value)} {name}"
    if isinstance(value, Mapping):
        return f"{name} ({spec_words(value)})"
    inner = items(value)
    if inner and all(isinstance(each, Mapping) for each in inner):
        return f"{name} ({'; '.join(spec_words(each) for each in inner)})"
    return f"{name} {'-'.join(scalar(each) for each in inner) if inner else scalar(value)}"
