"""Records of a data recipe: made chunk by chunk into a JSONL file, so that what a teacher has answered is never asked again.

The first line says what the records are made from. Each further line is a record, written as soon as it is made; the
records of a recipe that makes all at once (`chunk = None`) depend on one another and are one line together.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdsearch.errors import ArtifactError, InterruptedRun, PluginError
from kdsearch.kinds import DataRecipe, DataSource, Record, Services
from kdsearch.store.files import append_line, read_lines, shaped, write_bytes

FORMAT = 1
AGAIN = "Delete it; the recipe starts anew."


def make_records(
    recipe: DataRecipe[Any],
    source: DataSource,
    services: Services,
    file: Path,
    owner: str,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> list[Record]:
    """One record a key, in the order of `recipe.keys`; those that `file` holds are not made again.

    Args:
        owner: hash of what the records are made from (options, teachers, data, seed).
        stop: asked before each chunk; True = raise InterruptedRun, with everything made so far stored.
        report: (records there are, records in all), after each.

    Raises:
        ArtifactError: `file` holds another owner's records, or is of a newer format.
        PluginError: keys that repeat, or records that are not one a key in order, or not JSON.
    """
    keys = list(recipe.keys(source))
    if len(set(keys)) != len(keys):
        twice = next(key for key, n in Counter(keys).items() if n > 1)
        raise PluginError(f"{type(recipe).__name__} names the key '{twice}' twice", expected="stable keys, each once")
    found = read_records(file, owner)
    missing = [key for key in keys if key not in found]
    if recipe.chunk is None and missing:
        missing = keys
    if missing and not read_lines(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        append_line(file, {"format": FORMAT, "owner": owner, "recipe": type(recipe).__name__})
    size = recipe.chunk or max(len(missing), 1)
    for start in range(0, len(missing), size):
        if stop():
            raise InterruptedRun("stopped after a record")
        asked = missing[start : start + size]
        made = _checked(recipe, asked, recipe.make(asked, source, services))
        if recipe.chunk is None:
            together = list(made)
            _append(recipe, file, {"records": [_as_json(each) for each in together]})
            found |= {each.key: each for each in together}
            report(len(found), len(keys))
            continue
        for record in made:
            _append(recipe, file, _as_json(record))
            found[record.key] = record
            report(len(found), len(keys))
    return [found[key] for key in keys]


def read_records(file: Path, owner: str) -> dict[str, Record]:
    """Key -> record of those that are stored whole; a line that a kill tore counts as not there."""
    lines = read_lines(file)
    if not lines:
        return {}
    head = lines[0] if isinstance(lines[0], dict) else {}
    if "owner" not in head:
        raise ArtifactError("holds no records of a data recipe", file=file, fix=AGAIN)
    if head.get("format") != FORMAT:
        raise ArtifactError(f"format {head.get('format')}", file=file, expected=f"format {FORMAT}")
    if head["owner"] != owner:
        raise ArtifactError("holds the records of another recipe", file=file, fix=AGAIN)
    found: dict[str, Record] = {}
    for line in lines[1:]:
        together = isinstance(line, dict) and line.keys() == {"records"}
        every = shaped(line["records"] if together else [line], list[Record], file, AGAIN)
        found |= {each.key: each for each in every}
    return found


def write_records(file: Path, owner: str, recipe: DataRecipe[Any], records: Sequence[Record]) -> None:
    """All of them, in order, for `read_records`."""
    head = {"format": FORMAT, "owner": owner, "recipe": type(recipe).__name__}
    lines = [head, *(_as_json(record) for record in records)]
    write_bytes(file, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines).encode())


def told(records: Sequence[Record]) -> dict[str, Any]:
    """What a report says of them: `records`, `kept`, and `rejected`: why -> how many, most first."""
    why = Counter(record.rejected for record in records if record.rejected)
    return {"records": len(records), "kept": len(records) - why.total(), "rejected": dict(why.most_common())}


def kept(records: Sequence[Record]) -> list[Record]:
    """Those that were not rejected."""
    return [record for record in records if not record.rejected]


def _checked(recipe: DataRecipe[Any], keys: Sequence[str], records: Any) -> Iterator[Record]:
    name, at = type(recipe).__name__, 0
    for record in records:
        wanted = keys[at] if at < len(keys) else "the end"
        if record.key != wanted:
            raise PluginError(f"{name} made the record '{record.key}' where '{wanted}' was asked for")
        at += 1
        yield record
    if at < len(keys):
        raise PluginError(f"{name} made no record for '{keys[at]}'", expected="one record a key, in order")


def _as_json(record: Record) -> dict[str, Any]:
    return {"key": record.key, "fields": dict(record.fields), "rejected": record.rejected}


def _append(recipe: DataRecipe[Any], file: Path, line: Any) -> None:
    try:
        append_line(file, line)
    except (TypeError, ValueError) as error:
        raise PluginError(f"{type(recipe).__name__} made a record that is no JSON ({error})") from None
