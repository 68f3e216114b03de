"""docs/result.md names the fields of a result: each that a study gives, and none that it does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "result.md"
JUDGED = {"accuracy", "quality"}  # a section of its own on the page
Keys = tuple[str, ...]


def named() -> dict[Keys, bool]:
    """Path, `*` for a name in capitals -> whether it is always there."""
    found = columns(PAGE.read_text(encoding="utf-8").partition("## The whole")[2])
    return {
        tuple("*" if part.isupper() else part for part in text.split(".")): always for text, always in found.items()
    }


def columns(text: str) -> dict[str, bool]:
    """What stands in the first column of the tables -> whether it has no question mark."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    return {name: not optional for row in rows for name, optional in re.findall(r"`([^` ]+)`(\??)", row)}


def test_what_a_quality_says(finished):
    section = PAGE.read_text(encoding="utf-8").partition("## A quality")[2].partition("\n## ")[0]
    assert set(columns(section)) == set(finished.result["student"]["quality"])
    assert all(columns(section).values())


def given(value: Any, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every key's path with its value, those of lists with `[]`, and what stands below, but for what a quality says."""
    for key, each in value.items():
        if key in JUDGED:
            continue
        items = each if isinstance(each, list) else [each]
        here = (*path, f"{key}[]" if isinstance(each, list) else key)
        yield here, each
        for item in items:
            if isinstance(item, dict) and "direction" not in item:
                yield from given(item, here)


def fits(pattern: Keys, path: Keys) -> bool:
    return len(pattern) == len(path) and all(a in ("*", b) for a, b in zip(pattern, path, strict=True))


def test_every_field_is_named(finished):
    page = named()
    parents = {path[:n] for path in page for n in range(1, len(path))}
    for path, value in given(finished.result):
        said = any(fits(each, path) for each in page) or any(fits(each, path) for each in parents)
        opened = [path[:n] for n in range(1, len(path)) if not any(fits(each, path[:n]) for each in parents)]
        assert said or opened or value in (None, [], {}), ".".join(path)


def test_every_name_is_of_a_field(finished):
    """But for those that the page calls optional, and below what this study has not."""
    found = dict(given(finished.result))
    for pattern, always in named().items():
        above = [value for path, value in found.items() if fits(pattern[:-1], path)] or [finished.result] * (
            len(pattern) == 1
        )
        if always and any(above):
            assert any(fits(pattern, path) for path in found), ".".join(pattern)
