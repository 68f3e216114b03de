"""A study file's text -> plain values and the line of every key. Stricter than YAML: one document, no tags, no duplicate keys."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdsearch.errors import StudyError
from kdsearch.limits import STUDY_BYTES, STUDY_DEPTH, STUDY_TEXT, STUDY_VALUES, WHOLE
from kdsearch.store.inputs import content

MERGE = "tag:yaml.org,2002:merge"
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # what no text has: it may have tabs and ends of lines


@dataclass(frozen=True)
class Source:
    """A study as written: JSON values, and key path (`recipe.distillers[0].use`) -> 1-based line.

    `base`: what relative paths start from, where that is not the file's folder.
    """

    raw: Mapping[str, Any]
    lines: Mapping[str, int]
    file: Path | None = None
    base: Path | None = None

    def line(self, path: str) -> int | None:
        """The line of a key path, or of its nearest ancestor that is written."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get(path)


def read(file: Path) -> Source:
    """Read a study file. Raise StudyError naming the line of what is wrong."""
    if not os.path.lexists(file):
        near = _similar(file)
        fix = "" if near else "Run `kdsearch init` to write one."
        raise StudyError("there is no such file", file=file, nearest=near, fix=fix)
    data = content(file, "a study file", most=STUDY_BYTES, error=StudyError)
    return parse(data, file)


def name_of(file: str) -> str:
    """What a study in this file is called: its stem; what a name cannot hold becomes '-'."""
    stem = file.rpartition(".")[0] or file
    return re.sub(r"[^A-Za-z0-9_.-]", "-", stem).lstrip("-_.")[:64] or "study"


def _similar(file: Path) -> str:
    from kdsearch.errors import nearest

    try:
        return nearest(file.name, (each.name for each in file.parent.iterdir() if each.suffix in (".yaml", ".yml")))
    except OSError:
        return ""


def parse(data: bytes, file: Path | None = None) -> Source:
    """Parse a study's bytes (UTF-8). Raise StudyError naming the line of what is wrong."""
    text = _decode(data, file)
    for number, each in enumerate(text.splitlines(), 1):
        if "\t" in each[: len(each) - len(each.lstrip())]:
            raise StudyError("a tab in the indentation", file=file, line=number, expected="spaces")
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        _look(yaml.parse(text), file)
        node = YAML(typ="safe", pure=True).compose(text)
        if node is None:
            raise StudyError("the file is empty", file=file, fix="Run `kdsearch init` to write a study.")
        reader = _Reader(file)
        raw = reader.value(node, "", ())
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise StudyError(f"not valid YAML: {problem}", file=file, line=line) from None
    except YAMLError as error:
        first = str(error).splitlines()[0]
        raise StudyError(f"not valid YAML: {first}", file=file) from None
    except RecursionError:
        raise StudyError("nested too deeply", file=file, expected="a study") from None
    if not isinstance(raw, dict):
        raise StudyError(
            f"the file holds {_kind(raw)}", file=file, line=node.start_mark.line + 1, expected="keys such as 'data:'"
        )
    return _steps_alone(Source(raw, reader.lines, file))


def _steps_alone(source: Source) -> Source:
    """A list of `compress` is that of its steps: key paths have one spelling."""
    steps = source.raw.get("compress")
    if not isinstance(steps, list):
        return source
    lines = {path.replace("compress[", "compress.steps[", 1): line for path, line in source.lines.items()}
    return Source({**source.raw, "compress": {"steps": steps}}, lines, source.file)


def _decode(data: bytes, file: Path | None) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise StudyError("not a text file (bytes that are no UTF-8)", file=file, line=line, expected="YAML") from None
    for number, each in enumerate(text.split("\n"), 1):
        bad = CONTROL.search(each)
        if bad is not None:
            raise StudyError(f"not a text file (byte {ord(bad[0]):#04x})", file=file, line=number, expected="YAML")
    return text


def _look(events: Any, file: Path | None) -> None:
    """Raise StudyError for tags, a second document, or more than a study may hold: as far as that, no farther, it is parsed."""
    documents = depth = values = 0
    for event in events:
        name, line = type(event).__name__, event.start_mark.line + 1
        documents += name == "DocumentStartEvent"
        if documents > 1:
            raise StudyError("a second document ('---')", file=file, line=line, expected="one study a file")
        tag = getattr(event, "tag", None)
        if tag is not None:
            shown = str(tag).replace("tag:yaml.org,2002:", "!!")
            raise StudyError(f"tag '{shown}'", file=file, line=line, expected="plain values, without tags")
        depth += name in ("MappingStartEvent", "SequenceStartEvent")
        depth -= name in ("MappingEndEvent", "SequenceEndEvent")
        values += name in ("ScalarEvent", "AliasEvent")
        check_size(values, depth, file, line)


def check_size(values: int, depth: int, file: object = None, line: int | None = None, path: str = "") -> None:
    """Raise StudyError for more values, or deeper nesting, than a study may have."""
    if depth > STUDY_DEPTH:
        raise StudyError("nested too deeply", file=file, line=line, path=path, expected=f"at most {STUDY_DEPTH} levels")
    if values > STUDY_VALUES:
        problem = f"more than {STUDY_VALUES:,} values once aliases are filled in"
        raise StudyError(problem, file=file, line=line, path=path, expected="a study")


def check_value(value: Any) -> str:
    """What a study's single value would have to be instead, or "" where it may stand."""
    if isinstance(value, int) and abs(value) > WHOLE:
        return "a whole number below 2**63"
    if isinstance(value, str) and len(value) > STUDY_TEXT:
        return f"at most {STUDY_TEXT:,} characters"
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    return ""


def check_raw(value: Any, path: str = "", above: int = 0) -> int:
    """How many values there are. Raise StudyError, naming the key path, for what exceeds a study's limits."""
    check_size(0, above, path=path)
    if isinstance(value, Mapping):
        inner = [(each, f"{path}.{name}" if path else str(name)) for name, each in value.items()]
    elif isinstance(value, list | tuple):
        inner = [(each, f"{path}[{i}]") for i, each in enumerate(value)]
    elif expected := check_value(value):
        shown = f"a number of {value.bit_length()} bits" if isinstance(value, int) else _short(value)
        raise StudyError(f"got {shown}", path=path, expected=expected)
    else:
        return 1
    count = 1 + sum(check_raw(each, where, above + 1) for each, where in inner)
    check_size(count, above, path=path)
    return count


class _Reader:
    """Nodes to values; fills `lines`."""

    def __init__(self, file: Path | None) -> None:
        from ruamel.yaml import YAML

        self.file, self.lines, self.count = file, {}, 0  # type: tuple[Path | None, dict[str, int], int]
        self.scalar = YAML(typ="safe", pure=True).constructor.construct_object

    def error(self, problem: str, node: Any, path: str, **more: str) -> StudyError:
        return StudyError(problem, file=self.file, line=node.start_mark.line + 1, path=path, **more)

    def value(self, node: Any, path: str, above: tuple[int, ...]) -> Any:
        self.count += 1
        if id(node) in above:
            raise self.error("an alias that contains itself", node, path)
        check_size(self.count, len(above), self.file, node.start_mark.line + 1, path)
        above = (*above, id(node))
        if node.id == "mapping":
            return self.mapping(node, path, above)
        if node.id == "sequence":
            items = []
            for i, item in enumerate(node.value):
                where = f"{path}[{i}]"
                self.lines[where] = item.start_mark.line + 1
                items.append(self.value(item, where, above))
            return items
        try:
            value = self.scalar(node)
        except ValueError as error:
            raise self.error(f"got '{_short(node.value)}'", node, path, expected=str(error)) from None
        if expected := check_value(value):
            raise self.error(f"got {_short(node.value)}", node, path, expected=expected)
        if value is not None and not isinstance(value, str | int | float | bool):
            raise self.error(
                f"got {_short(node.value)}, which YAML reads as {_kind(value)}",
                node,
                path,
                expected="text in quotes, or a number",
            )
        return value

    def mapping(self, node: Any, path: str, above: tuple[int, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        first: dict[str, int] = {}
        for other in reversed(_merged(node)):  # `<<: *anchor`: the mapping's own keys win, then the earlier merge
            if other.id != "mapping":
                raise self.error("'<<' without a mapping", other, path, expected="`<<: *anchor` of a mapping")
            self.count += 1
            check_size(self.count, len(above), self.file, other.start_mark.line + 1, path)
            if id(other) not in above:
                found |= self.mapping(other, path, (*above, id(other)))
        for key, value in node.value:
            if key.tag == MERGE:
                continue
            line = key.start_mark.line + 1
            name = key.value if key.id == "scalar" else None
            if name is None or key.tag != "tag:yaml.org,2002:str":
                shown = f"key {_short(name)}" if name is not None else "a key that is no text"
                raise self.error(shown, key, path, expected="a name (in quotes where it looks like a number)")
            if len(name) > STUDY_TEXT:
                raise self.error(f"key {_short(name)}", key, path, expected=check_value(name))
            where = f"{path}.{name}" if path else name
            if name in first:
                raise self.error(
                    f"'{name}' is written twice, first in line {first[name]}", key, where, fix="Remove one of them."
                )
            first[name] = self.lines[where] = line
            found[name] = self.value(value, where, above)
        return found


def _merged(node: Any) -> list[Any]:
    """The nodes that a mapping merges, in order."""
    merged: list[Any] = []
    for key, value in node.value:
        if key.tag == MERGE:
            merged += value.value if value.id == "sequence" else [value]
    return merged


def _short(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= 80 else f"{shown[:60]}... ({len(shown):,} characters)"


def _kind(value: Any) -> str:
    names = {dict: "keys", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")


def place(values: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of `values` with the key path (`search.keep`, `recipe.distillers[0].weight`) set; missing keys are made.

    Raises:
        StudyError: for a list index that does not exist, or a step into what is neither keys nor a list.
    """
    import re

    steps: list[str | int] = []
    for part in path.split("."):
        if not re.fullmatch(r"[^\[\]]+(\[\d{1,9}\])*", part):
            raise StudyError(f"'{path}' is no key path", expected="such as search.keep or recipe.distillers[0].weight")
        name, *indices = part.replace("]", "").split("[")
        steps += [name, *map(int, indices)]

    check_size(0, len(steps), path=path)

    from kdsearch.study.schema import section_of

    def put(owner: Any, rest: Sequence[str | int], at: str) -> Any:
        if not rest:
            return value
        step, *after = rest
        if isinstance(step, int):
            if not isinstance(owner, list) or step >= len(owner):
                size = len(owner) if isinstance(owner, list) else 0
                raise StudyError(f"there is no item [{step}]", path=at, expected=f"an index below {size}")
            return [put(each, after, f"{at}[{step}]") if i == step else each for i, each in enumerate(owner)]
        if isinstance(owner, str):
            owner = section_of(owner, step)
        if owner is not None and not isinstance(owner, Mapping):
            raise StudyError(f"'{step}' cannot be set in {_kind(owner)}", path=at, expected="a section")
        inner = put((owner or {}).get(step), after, f"{at}.{step}" if at else step)
        return {**(owner or {}), step: inner}

    placed = put(values, steps, "")
    assert isinstance(placed, dict)
    return placed
