"""What rows of a table hold, as digests: equal for copies, in whatever form other programs write their numbers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

Values = Mapping[str, Sequence[Any]]  # column -> a value a row, None = missing

__all__ = ["digests", "in_one_form", "n_rows", "together", "unrepeated", "untold", "whole"]


def whole(value: Any) -> Any:
    """`10` for `10.0`, 10.0 and 10, which other programs write for one another; any other value as it is."""
    if isinstance(value, str):
        is_whole = value.endswith(".0") and value[:-2].removeprefix("-").isdecimal()
        return value[:-2] if is_whole else value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(int(value)) if is_number and value == value // 1 else value


def in_one_form(found: Mapping[str, Sequence[str | None]], names: Collection[str] = ()) -> dict[str, list[str | None]]:
    """Split -> a name a row, of which a whole number that some rows write as 1 and others as 1.0 is 1, or the one among `names`."""
    told = {value for rows in found.values() for value in rows if value is not None} - {*names}
    forms = Counter(map(whole, told))
    called = {whole(name): name for name in names}
    said = {each: called.get(whole(each), whole(each) if forms[whole(each)] > 1 else each) for each in told}
    return {
        split: [None if value is None else said.get(value, value) for value in rows] for split, rows in found.items()
    }


def n_rows(values: Values) -> int:
    """How many rows the columns have."""
    return max((len(each) for each in values.values()), default=0)


def digests(values: Values, names: Sequence[str], read: Callable[[Any], Any] = whole) -> tuple[str, ...]:
    """16 hexadecimal digits of what each row holds in these columns, in any order. `read`: what a value counts as."""
    made = []
    for row in range(n_rows(values)):
        held = {name: read(values[name][row]) for name in names if values[name][row] is not None}
        text = json.dumps(held, sort_keys=True, separators=(",", ":")).encode()
        made.append(hashlib.blake2b(text, digest_size=8).hexdigest())
    return tuple(made)


def untold(values: Values, targets: Collection[str]) -> list[int]:
    """The rows that have none of the targets."""
    columns = [values[name] for name in targets if name in values]
    return [row for row in range(n_rows(values)) if all(each[row] is None for each in columns)]


def together(
    values: Values, written: Sequence[str], held: Sequence[str], names: Sequence[str], targets: Collection[str]
) -> tuple[str, ...]:
    """The group of each row: rows that hold the same, and those that differ in targets alone where one of them lacks these.

    A group is called by the least of the ids `written`; () where each row is alone.
    """
    keys = list(held)
    if targets and (without := untold(values, targets)):
        asked = digests(values, [name for name in names if name not in targets])
        open_ = {asked[row] for row in without}
        keys = [each if each in open_ else key for each, key in zip(asked, held, strict=True)]
    least: dict[str, str] = {}
    for key, sample in zip(keys, written, strict=True):
        least[key] = min(sample, least.get(key, sample))
    return tuple(least[key] for key in keys) if len(least) < len(keys) else ()


def unrepeated(ids: Iterable[str]) -> Iterator[str]:
    """Equal ones get -2, -3, ..."""
    counts: Counter[str] = Counter()
    for each in ids:
        counts[each] += 1
        yield each if counts[each] == 1 else f"{each}-{counts[each]}"
