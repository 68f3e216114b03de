"""A study as one stage sees it: the sections that the stage declares, and an error for every other one.

A stage's key is a hash of the sections that it declares (`values`), so a section that is read but not declared would leave a
stale result in place when it changes. The view makes that an error where it happens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel

from kdsearch.errors import UndeclaredReadError
from kdsearch.study.schema import Config

if TYPE_CHECKING:
    from kdsearch.study.study import Study

# Where and how fast the work is done is open to every stage, and in no key.
PLACE = (
    "run.workers",
    "run.executor",
    "run.store",
    "run.storage",
    "run.trial_timeout_s",
    "run.trial_memory_bytes",
    "run.log",
)
NO_RESULT = (*PLACE, "data.workers")
MEMBERS = {"teacher": "teachers", "student": "students"}  # written without a name, and declared as those with one
ORDERED = ("objectives", "teachers", "students")  # the first one counts as more than the others


def seen(study: Study, stage: str, paths: Collection[str]) -> Study:
    """The study with the sections at `paths` readable; reading another raises UndeclaredReadError, naming stage and section."""
    view = _Section(study.config, stage, "", frozenset((*paths, *PLACE)))
    return replace(study, config=cast(Config, view))


def values(study: Study, paths: Collection[str]) -> dict[str, Any]:
    """The sections at `paths` as JSON values, but for the keys that change no result: what is hashed.

    Raises:
        AttributeError: a path that the schema does not have.
    """
    found: dict[str, Any] = {"format": 1}
    for path in paths:
        value: Any = study if path in MEMBERS.values() else study.config
        for name in path.split("."):
            value = getattr(value, name)
        plain = without(plain_json(value), path)
        found[path] = list(plain.items()) if path in ORDERED else plain
    return found


def plain_json(value: Any) -> Any:
    """A value of the study as JSON values."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {name: plain_json(each) for name, each in value.items()}
    return [plain_json(each) for each in value] if isinstance(value, list) else value


def without(plain: Any, path: str) -> Any:
    """A section's JSON values without the keys that change no result; a teacher's cache counts by whether it has one."""
    if path == "teachers":
        asked = ("cache", "expected")  # the latter is looked at in every run
        return {name: {k: v for k, v in each.items() if k not in asked} for name, each in plain.items()}
    if isinstance(plain, dict):
        return {name: each for name, each in plain.items() if f"{path}.{name}" not in NO_RESULT}
    return plain


def is_within(path: str, section: str) -> bool:
    """Whether a key path such as `recipe.distillers[0]` is that of the section, or below it."""
    head, dot, rest = path.partition(".")
    spellings = (path, f"{MEMBERS.get(head, head)}{dot}{rest}")
    return section in spellings or any(each.startswith((f"{section}.", f"{section}[")) for each in spellings)


class Closed:
    """Stands where a stage must not look: whatever is asked of it raises UndeclaredReadError."""

    def __init__(self, stage: str, section: str) -> None:
        object.__setattr__(self, "_it", (stage, section))

    def _refuse(self, *_: Any) -> Any:
        raise undeclared(*object.__getattribute__(self, "_it"))

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, "_refuse")()

    __getitem__ = __iter__ = __len__ = __contains__ = __bool__ = __str__ = __call__ = _refuse
    __hash__ = __eq__ = _refuse

    def __repr__(self) -> str:
        return "closed to stage '{}': '{}'".format(*object.__getattribute__(self, "_it"))


class _Section:
    """A section of which the keys at `open` (whole key paths) can be read, and what is below them."""

    def __init__(self, section: BaseModel, stage: str, path: str, open: frozenset[str]) -> None:
        self._section, self._stage, self._path, self._open = section, stage, path, open

    def __getattr__(self, name: str) -> Any:
        if name not in type(self._section).model_fields:
            raise undeclared(self._stage, self._path or "the whole study")
        path = f"{self._path}.{name}" if self._path else MEMBERS.get(name, name)
        value = getattr(self._section, name)
        if path in self._open:
            return value
        if isinstance(value, BaseModel) and any(is_within(each, path) for each in self._open):
            return _Section(value, self._stage, path, self._open)
        raise undeclared(self._stage, path)

    def __iter__(self) -> Iterator[Any]:
        raise undeclared(self._stage, self._path)


def undeclared(stage: str, section: str) -> UndeclaredReadError:
    return UndeclaredReadError(
        f"stage '{stage}' reads '{section}', which it does not declare",
        fix="Add it to READS of the stage: its key does not hold it, so that a change of it would redo nothing.",
    )
