"""A row as the network's inputs: numbers in their own units, categories by number, as table.json says. Needs NumPy alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

LARGEST = 1e37  # that training takes


def inputs(sample: str, files: Mapping[str, Path]) -> dict[str, np.ndarray[Any, Any]]:
    """`numbers` (1, D) float32, `missing` (1, M) float32 and `categories` (1, C) int64, those that the network has.

    Args:
        sample: a row as JSON, such as {"age": 31, "city": "Oslo"}; what it lacks is missing.
        files: `table.json` among them.

    A number or a boolean is the category that says it, however that is written: 4 is `4` or `4.0`, true is `True` or `TRUE`. A
    category that training did not have is the column's unknown one. What stands in a column that was empty in training is not read.

    Raises:
        ValueError: no JSON object, a number that is none, or a value in no form that the column has; names the column.
    """
    known = json.loads(Path(files["table.json"]).read_text(encoding="utf-8"))
    columns = [*known["numbers"], *(each["name"] for each in known["categories"])]
    try:
        row = json.loads(sample)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise ValueError(f'a row is a JSON object, {{"column": value, ...}}, of {", ".join(columns)}')
    strange = sorted(set(row) - {*columns, *known["empty"]})
    if strange:
        raise ValueError(f"no column '{strange[0]}': there are {', '.join(columns)}")
    given = {name: None if _is_missing(value, known["marks"]) else value for name, value in row.items()}
    made: dict[str, np.ndarray[Any, Any]] = {}
    if known["numbers"]:
        values = [_number(name, given.get(name)) for name in known["numbers"]]
        filled = [mean if math.isnan(value) else value for value, mean in zip(values, known["mean"], strict=True)]
        made["numbers"] = np.array([filled], np.float32)
        if known["missing"]:
            unknown = {name for name, value in zip(known["numbers"], values, strict=True) if math.isnan(value)}
            made["missing"] = np.array([[name in unknown for name in known["missing"]]], np.float32)
    if known["categories"]:
        made["categories"] = np.array([[_id(each, given.get(each["name"])) for each in known["categories"]]], np.int64)
    return made


def _is_missing(value: Any, marks: list[str]) -> bool:
    if isinstance(value, str):
        return not value.strip() or _whole(value.strip()) in map(_whole, marks)
    return value is None or value != value or (_is_number(value) and any(_reads(mark) == value for mark in marks))


def _number(name: str, value: Any) -> float:
    if value is None:
        return math.nan
    found = float(value) if _is_number(value) and abs(value) <= LARGEST else _reads(value)
    if found is None or abs(found) > LARGEST:
        raise ValueError(f"column '{name}': {value!r} is no number" + ("" if found is None else f" within {LARGEST:g}"))
    return found


def _id(column: Mapping[str, Any], value: Any) -> int:
    """Of a category, by the forms that it may have in a CSV file or JSON Lines."""
    values, unknown = column["values"], int(column["unknown"])
    if value is None:
        return unknown
    said = value.strip() if isinstance(value, str) else json.dumps(value)
    if said in values or isinstance(value, str) or not values:
        same = [each for each in values if _whole(each) == _whole(said)]
        return int(values.get(said, values[same[-1]] if same else unknown))
    if isinstance(value, bool):
        alike = [each for each in values if each.lower() in ("true", "false")]
        same = [each for each in alike if each.lower() == said]
    else:
        alike = [each for each in values if _is_number(value) and _reads(each) is not None]
        same = [each for each in alike if _reads(each) == value]
    if len(same) > 1 or not alike:
        some = ", ".join(f'"{each}"' for each in (same or list(values))[:10])
        raise ValueError(f"column '{column['name']}': {said} is none of its values; write one as text, such as {some}")
    return int(values[same[0]]) if same else unknown


def _whole(text: str) -> str:
    """`10` for `10.0`, which other programs write for one another; any other text as it is."""
    return text[:-2] if text.endswith(".0") and text[:-2].removeprefix("-").isdecimal() else text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _reads(text: Any) -> float | None:
    """The number that a text is, None where it is none."""
    try:
        return float(text) if isinstance(text, str) and "_" not in text else None
    except ValueError:
        return None
