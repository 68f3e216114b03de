"""Which fields of a data set networks read, whatever the task makes of them."""

from __future__ import annotations

from collections.abc import Sequence

from kdsearch.errors import DataError
from kdsearch.kinds import Field

BESIDE = ("mask", "present")  # what says something of other fields and is nothing by itself


def is_read(field: Field) -> bool:
    """Other integers (an index, a time stamp) are nothing that a network could take as they are."""
    return field.torch_dtype.is_floating_point or field.kind in ("tokens", "categories", *BESIDE)


def inputs_of(fields: Sequence[Field], task: str) -> tuple[Field, ...]:
    """The inputs. Raise DataError where there is nothing to read."""
    found = tuple(each for each in fields if each.use == "input" and is_read(each))
    if all(each.kind in BESIDE for each in found):
        has = ", ".join(f"{each.name} ({each.kind}, {each.dtype})" for each in fields) or "no field"
        raise DataError(f"{task}: the data set has {has}", expected="floats (an image or vector), tokens or categories")
    return found
