"""A row as the network's inputs: numbers in their own units, categories by number, as table.json says. Needs NumPy alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def inputs(sample: str, files: Mapping[str, Path]) -> dict[str, np.ndarray[Any, Any]]:
    """`numbers` (1, D) float32, `missing` (1, M) float32 and `categories` (1, C) int64, those that the network has.

    Args:
        sample: a row as JSON, such as {"age": 31, "city": "Oslo"}; what it lacks is missing.
        files: `table.json` among them.

    Raises:
        ValueError: no JSON object, or a number that is none; names the column.
    """
    known = json.loads(Path(files["table.json"]).read_text(encoding="utf-8"))
    columns = [*known["numbers"], *(each["name"] for each in known["categories"])]
    try:
        row = json.loads(sample)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise ValueError(f'a row is a JSON object, {{"column": value, ...}}, of {", ".join(columns)}')
    strange = sorted(set(row) - set(columns))
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
        names = {name: _name(value) for name, value in given.items() if value is not None}
        ids = [each["values"].get(names.get(each["name"]), each["unknown"]) for each in known["categories"]]
        made["categories"] = np.array([ids], np.int64)
    return made


def _is_missing(value: Any, marks: list[str]) -> bool:
    return value is None or (isinstance(value, str) and (not value.strip() or value.strip() in marks))


def _number(name: str, value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"column '{name}': {value!r} is no number")
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"column '{name}': {value!r} is no number") from None


def _name(value: Any) -> str:
    """A category as a CSV file would have it."""
    return value.strip() if isinstance(value, str) else json.dumps(value)
