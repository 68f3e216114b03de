"""Files that `kdsearch export` made of formats which the study's text does not ask for: they stay as long as the student does."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from kdsearch.stages.cards import card_name
from kdsearch.store.artifacts import Artifact, about_of
from kdsearch.store.files import read_json, write_json
from kdsearch.store.hashing import digest

BY_HAND = "by_hand.json"


class Files(TypedDict):
    """What was written: in the study's folder `paths` of files, and of what goes along."""

    paths: list[str]
    files: list[str]


class Asked(Files):
    """One format. `student`: see `student_of`."""

    format: str
    student: str


def student_of(made: Mapping[str, Artifact]) -> str:
    """A hash of the weights that ship and of the data that they are measured on."""
    compressed, distilled = made["compress"], made["distill"]
    is_pruned = bool(compressed.facts["folder"])
    artifact = compressed if is_pruned else distilled
    folder = compressed.facts["folder"] if is_pruned else distilled.facts["winner"]
    files = about_of(artifact.path, artifact.stage)["files"]
    weights = {name: each["sha256"] for name, each in files.items() if name.startswith(f"{folder}/")}
    return digest({"prepare": made["prepare"].key, "weights": weights})


def asked_before(folder: Path) -> list[Asked]:
    """What the folder has by hand, and is still there. Raise ArtifactError where its record is damaged."""
    file = folder / BY_HAND
    found: list[Asked] = read_json(file, list[Asked], "Delete it.") if file.is_file() else []
    return [each for each in found if any((folder / path).is_file() for path in each["paths"])]


def public(rows: Iterable[Files]) -> set[str]:
    """Names in `export/` of their files and cards."""
    files = {Path(path).name for row in rows for path in (*row["paths"], *row["files"])}
    return files | {card_name(Path(path).name) for row in rows for path in row["paths"]}


def asked_now(
    before: Iterable[Asked],
    exports: Iterable[Mapping[str, Any]],
    formats: Collection[str],
    student: str,
    by_hand: Collection[str],
) -> tuple[list[Asked], list[Asked]]:
    """What the folder has by hand from now on, and what was of another student and is no more.

    Args:
        exports: rows of the result. formats: that this run asked for.
        by_hand: those of them that `kdsearch export` added; none in a run of the study, all of whose formats are its own.
    """
    now = dict[str, Asked]()
    for row in exports:
        if (form := row["format"]) in by_hand:
            had = now.setdefault(form, Asked(format=form, student=student, paths=[], files=[]))
            had["paths"], had["files"] = [*had["paths"], *row["paths"]], [*had["files"], *row["files"]]
    others = [each for each in before if each["format"] not in formats]
    kept, gone = ([each for each in others if (each["student"] == student) is stays] for stays in (True, False))
    return [*now.values(), *kept], gone


def told_of(kept: Iterable[Asked], gone: Iterable[Asked], formats: Collection[str], folder: Path) -> list[str]:
    """What the result does not tell of otherwise."""
    notes = [
        f"{', '.join(each['paths'])}: no part of this result; `kdsearch export` made it, of the same student."
        for each in kept
        if each["format"] not in formats
    ]
    for each in gone:
        again = shlex.join(["kdsearch", "export", str(folder), "--format", each["format"]])
        notes.append(
            f"{', '.join(each['paths'])}: was of another student, and is gone; `{again}` makes it of this one."
        )
    return notes


def keep(folder: Path, rows: list[Asked]) -> None:
    if rows or (folder / BY_HAND).exists():
        write_json(folder / BY_HAND, rows)
