"""pydantic's complaints about a study -> one StudyError with the key path as the user wrote it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from kdsearch.errors import StudyError, is_of_type, key_path, nearest, nearest_literal, one_of, plain_number, wanted
from kdsearch.study.schema import Use

Loc = Sequence[str | int]

_SECTIONS = ("model_type", "model_attributes_type")


def as_study_error(error: ValidationError, cls: type[BaseModel], raw: Any) -> StudyError:
    """The first complaint: unknown keys before all others, then the innermost of a union's, in the file's order."""
    found = [(key_path(each["loc"], raw, missing=each["type"] == "missing"), each) for each in error.errors()]
    for path, each in found:
        if each["type"] == "extra_forbidden":
            return _unknown(path, each["loc"], cls)
    inner = [
        (path, each) for path, each in found if not any(other != path and _within(other, path) for other, _ in found)
    ]
    path = inner[0][0]
    same = [each for other, each in inner if other == path]
    telling = [each for each in same if not _is_of_type(each["type"])]
    of_whole = [
        each for each in same if isinstance(each["input"], float) and each["type"] in ("int_type", "int_from_float")
    ]
    telling = [*telling, *(of_whole if telling else [])] or same  # 1.5, where a share or a number of things may stand
    if telling[0]["type"] == "missing":
        return StudyError("is missing", path=path, expected=_section(_owner(cls, telling[0]["loc"])))
    telling.sort(key=lambda each: each["type"] in _SECTIONS)  # `a number or a section with the keys max and format`
    expected = list(dict.fromkeys(_expected(each, cls) for each in telling))
    if "a number" in expected and "a whole number" in expected:
        expected.remove("a whole number")
    got = telling[0]["input"]
    close = nearest_literal(got, telling[0])
    fix = plain_number(got, (each["type"] for each in telling))
    return StudyError(f"got {shown(got)}", path=path, expected=" or ".join(expected), nearest=close, fix=fix)


def shown(value: Any) -> str:
    """A value as the user would write it, shortened."""
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _within(path: str, above: str) -> bool:
    return path.startswith((f"{above}.", f"{above}[")) or not above


def _unknown(path: str, loc: Loc, cls: type[BaseModel]) -> StudyError:
    name, owner = str(loc[-1]), _owner(cls, loc[:-1])
    names = list(owner.model_fields) if owner else []
    close = nearest(name, names)
    fix = "A capability's own options go below `options:`." if owner and issubclass(owner, Use) and not close else ""
    return StudyError(f"unknown key '{name}'", path=path, nearest=close, expected=one_of(names), fix=fix)


def _expected(each: Any, cls: type[BaseModel]) -> str:
    kind = each["type"]
    return _section(_owner(cls, each["loc"])) if kind in _SECTIONS else wanted(kind, each["msg"])


def _is_of_type(kind: str) -> bool:
    return is_of_type(kind) or kind in (*_SECTIONS, "none_required")


def _section(owner: type[BaseModel] | None) -> str:
    return f"a section with the keys {', '.join(owner.model_fields)}" if owner else "a value"


def _owner(cls: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    """The section at a location, or None."""
    annotation: Any = cls
    for part in loc:
        for model in _models(annotation):
            if part in model.model_fields:
                annotation = model.model_fields[str(part)].annotation
                break
    models = _models(annotation)
    return models[0] if models else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
