"""Students of one study, distilled alike: what scores and strategies are judged by. No stage of a study; nothing is chosen here.

Killed anywhere, the next call goes on: every training that ended is a line of `rows.jsonl`, and the others have checkpoints.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdsearch.engine.cache import Live
from kdsearch.errors import FOREIGN, RefusedError, told
from kdsearch.search.candidates import PATIENCE, Region
from kdsearch.stages import search
from kdsearch.stages.costs import needs_file, violations
from kdsearch.stages.file_costs import file_costs
from kdsearch.stages.quality import measured
from kdsearch.store.artifacts import Artifact, Store, sealed, unsealed
from kdsearch.store.files import append_line, read_lines, remove
from kdsearch.store.folder import TABLE
from kdsearch.store.hashing import digest, stream
from kdsearch.training.finished import load_finished
from kdsearch.training.keys import TRAINING, declared, part_of
from kdsearch.training.materials import Materials
from kdsearch.training.opened import open_teachers
from kdsearch.training.request import Kind, Outcome, Request, owner_of
from kdsearch.training.tools import Tools
from kdsearch.training.trainings import Trainings

NAME = TABLE
ROWS = "rows.jsonl"
KINDS: Mapping[str, Kind] = {"kd": "recipe", "ce": "baseline"}  # column -> what is trained


@dataclass(frozen=True)
class Asked:
    """What a table holds.

    Args:
        n: architectures. epochs: of each training. seeds: trainings of each architecture and kind, which differ in
            initialisation and batches; splits and teacher are the study's.
        kinds: of KINDS.
    """

    n: int
    epochs: int
    seeds: int
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Student:
    """An architecture of the table, with its costs; `onnx_bytes` and `latency_ms` where the study speaks of them."""

    key: str
    text: str
    spec: Mapping[str, Any]
    costs: Mapping[str, float]


@dataclass(frozen=True)
class _Training:
    student: Student
    kind: str
    seed: int
    request: Request


def students_of(materials: Materials, role: str, n: int, work: Path, tools: Tools) -> list[Student]:
    """n distinct architectures that keep the study's limits, drawn uniformly from the space; fewer where it has no more.

    Raises:
        RefusedError: none keeps them.
    """
    limits = materials.study.config.constraints
    named = {name: float(each) for name in ("params", "macs") if (each := getattr(limits, name)) is not None}
    region = Region(materials.spaces[role], materials.io, materials.task, named)
    files = (
        work / f"files-{digest(part_of(search, materials))}"
    )  # by all that they depend on, as in the stage that measures them
    files.mkdir(parents=True, exist_ok=True)
    rng, seen, found, dry = stream(materials.seed, "table", role), set[str](), list[Student](), 0
    while len(found) < n and dry < PATIENCE:
        spec = region.space.canonical(region.space.sample(rng))
        key = region.space.key(spec)
        dry += 1
        if key in seen:
            continue
        seen.add(key)
        try:
            cost = region.cost(spec)
        except FOREIGN:  # the space's own code
            continue
        if any(each > 0 for each in region.violations(cost)):
            continue
        shown = spec.model_dump(mode="json")
        costs = {"params": float(cost.params), "macs": float(cost.macs)}
        if needs_file(materials):
            tools.heed_stop()
            try:
                costs |= file_costs(materials, role, shown, files)
            except RefusedError:  # no file of it can be written
                continue
            if any(each > 0 for each in violations(materials, costs).values()):
                continue
        found.append(Student(key, region.space.encode(spec), shown, costs))
        dry = 0
    if len(found) < 2:
        raise RefusedError(
            f"{len(found)} of {len(seen):,} architectures keep the constraints",
            path="constraints",
            expected="two or more",
        )
    return found


def key_of(materials: Materials, prepared: Artifact, store: Store) -> str:
    """Of all that its trainings are made from, but for what each is asked: rows of another objective or method are not taken."""
    return store.key(NAME, declared(materials, TRAINING), {"prepare": prepared})


def table_of(
    materials: Materials, prepared: Artifact, tools: Tools, work: Path, asked: Asked
) -> tuple[list[Student], list[dict[str, Any]]]:
    """The students, and a row of each training: student's key, kind, seed, validation by epoch, validation and test at its end."""
    role = next(iter(materials.spaces))
    students = students_of(materials, role, asked.n, work, tools)
    teachers = open_teachers(materials, prepared, held_out=True)
    trainings = [
        _Training(each, kind, seed, _request(materials, role, each, kind, seed, asked.epochs))
        for seed in range(asked.seeds)
        for each in students
        for kind in asked.kinds
    ]
    tools.progress.begin(NAME, len(trainings))
    file = work / ROWS
    owners = {owner_of(materials, each.request): each for each in trainings}
    known = {
        row["owner"]: row for line in read_lines(file) if (row := unsealed(line, file))["owner"] in owners
    }  # another length or recipe has another owner
    known = {owner: row for owner, row in known.items() if not row["error"]}  # those are tried anew
    tools.progress.had(len(known))
    for owner, row in _ended(materials, owners, known, work, prepared, teachers, tools):
        append_line(file, sealed(row))
        known[owner] = row
    return students, [known[owner] for owner in owners]


def _request(materials: Materials, role: str, student: Student, kind: str, seed: int, epochs: int) -> Request:
    name = f"{kind}-{digest(student.key)[:16]}-{seed}"
    return Request(name, KINDS[kind], {role: dict(student.spec)}, materials.recipe.default(), epochs)


def _ended(
    materials: Materials,
    owners: Mapping[str, _Training],
    known: Mapping[str, Any],
    work: Path,
    prepared: Artifact,
    teachers: Mapping[str, Live],
    tools: Tools,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(owner, row) of each training that is not known, as it ends. One that fails has its error in place of figures."""
    open_ = [(owner, each) for owner, each in owners.items() if owner not in known]
    waiting, running = iter(open_), dict[str, tuple[str, _Training]]()
    trainings = Trainings(materials, work, prepared, teachers, tools)
    trainings.done = float(len(known))
    left = len(open_)
    try:
        while left:
            tools.heed_stop()
            while trainings.free and (following := next(waiting, None)) is not None:
                running[following[1].request.name] = following
                trainings.submit(following[1].request)
            for name, outcome in trainings.ended().items():
                owner, each = running.pop(name)
                left -= 1
                yield owner, {"owner": owner, **_row(materials, each, outcome, work / name, teachers)}
                remove(work / name)
    finally:
        trainings.close()


def _row(
    materials: Materials, each: _Training, outcome: Outcome | str, folder: Path, teachers: Mapping[str, Live]
) -> dict[str, Any]:
    row: dict[str, Any] = {"key": each.student.key, "kind": each.kind, "seed": each.seed, "error": ""}
    if isinstance(outcome, str):
        return {**row, "error": outcome}
    found = load_finished(materials, each.request, folder, teachers)
    _, quality = measured(materials, lambda batch: found.setup.predict(found.role, batch), "test", found.setup)
    scores = [epoch["score"] for epoch in outcome.history if "score" in epoch]
    values = [outcome.score, quality["value"], *scores]
    if not all(isinstance(value, float) and math.isfinite(value) for value in values):
        return {**row, "error": told(ValueError(f"the objective is {values[:2]}"))}
    return {**row, "val": outcome.score, "test": quality["value"], "epochs": scores}


def csv_of(students: Sequence[Student], rows: Sequence[Mapping[str, Any]], asked: Asked) -> tuple[str, list[str]]:
    """The table as CSV, and a note for each architecture of which a training failed: it is left out.

    Columns: `arch`, costs, then of each kind the means over the seeds on validation and test (`kd_val`, `kd_test`), each seed's
    (`kd_val_s0`), and validation after each epoch (`kd_val_s0_e1`).
    """
    by_key: dict[str, dict[tuple[str, int], Mapping[str, Any]]] = {}
    for row in rows:
        by_key.setdefault(row["key"], {})[row["kind"], row["seed"]] = row
    made, notes = list[dict[str, Any]](), list[str]()
    for student in students:
        own = by_key[student.key]
        if failed := next((row["error"] for row in own.values() if row["error"]), ""):
            notes.append(f"left out: {student.text}: {failed}")
            continue
        line: dict[str, Any] = {"arch": student.text}
        line |= {name: int(value) if value == int(value) else value for name, value in student.costs.items()}
        for kind in asked.kinds:
            for split in ("val", "test"):
                line[f"{kind}_{split}"] = math.fsum(own[kind, s][split] for s in range(asked.seeds)) / asked.seeds
        for kind in asked.kinds:
            for seed in range(asked.seeds):
                row = own[kind, seed]
                line |= {f"{kind}_{split}_s{seed}": row[split] for split in ("val", "test")}
                line |= {f"{kind}_val_s{seed}_e{at}": value for at, value in enumerate(row["epochs"], 1)}
        made.append({name: _digits(value) for name, value in line.items()})
    if len(made) < 2:
        raise RefusedError(f"{len(made)} architectures were trained; {notes[0]}", expected="two or more")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(made[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(made)
    return text.getvalue(), notes


def _digits(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
