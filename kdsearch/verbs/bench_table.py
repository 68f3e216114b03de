"""Making a table of real distillations, for `bench proxies` and `bench search`: every student of it distilled alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from kdsearch.errors import StudyError, nearest, one_of
from kdsearch.host import Host
from kdsearch.search.agreement import kendall_tau
from kdsearch.store.files import write_bytes
from kdsearch.study.check import student_space
from kdsearch.study.reading import load_study
from kdsearch.verbs.run import at_work, command

TABLE = "table.csv"


def bench_table(
    *,
    file: Path,
    n: int,
    epochs: int | None = None,
    seeds: int = 1,
    kinds: tuple[str, ...] = (),
    out: Path | None = None,
    dir: Path | None = None,
    workers: int | None = None,
    seed: int | None = None,
    sets: tuple[str, ...] = (),
    allow_code: tuple[str, ...] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Distil `n` architectures of a study's space, each `seeds` times, and write what they come to as CSV.

    epochs: of each; default: `distill.epochs`. kinds: `kd` (the recipe's default point), `ce` (labels alone); default: both.

    Raises:
        UserError: wrong input, or several students; RefusedError: fewer than two architectures that can be trained.
    """
    from kdsearch.ops.threads import cpu_threads
    from kdsearch.stages.run import run_stages
    from kdsearch.stages.table import KINDS, NAME, Asked, csv_of, key_of, table_of
    from kdsearch.training.recipe_data import supplied

    for kind in kinds:
        if kind not in KINDS:
            raise StudyError(f"'{kind}'", path="--kinds", nearest=nearest(kind, KINDS), expected=one_of(KINDS))
    host = Host.load()
    study = load_study(file, host, allow_code, sets, seed)
    if len(study.students) > 1:
        raise StudyError(f"{len(study.students)} students", file=file, path="students", expected="one, which varies")
    size = student_space(study, host, "student").size()
    if size is not None and size < 2:
        path = f"{study.path_of_student('student')}.spec"
        raise study.error("the space holds one architecture", path, expected="two or more")
    asked = Asked(n, epochs or study.config.distill.epochs, seeds, tuple(dict.fromkeys(kinds)) or tuple(KINDS))
    folder = dir if dir is not None else Path(file).parent / f"{Path(file).stem}-table"
    options = {"--n": n, "--epochs": epochs, "--seeds": seeds, "--kinds": ",".join(kinds) or None, "--out": out}
    again = command(
        "bench table", file, {**options, "--dir": dir, "--workers": workers, "--seed": seed}, sets, allow_code
    )
    with at_work(study, host, folder, workers, progress, again) as (materials, tools):
        prepared = run_stages(materials, tools, until="prepare")["prepare"]
        materials = supplied(materials, prepared, tools.store)
        work = tools.store.work(NAME, key_of(materials, prepared, tools.store))
        try:
            with cpu_threads(study.config.run.threads_per_trial):
                students, rows = table_of(materials, prepared, tools, work, asked)
        finally:
            tools.progress.end()
            tools.close()
        text, notes = csv_of(students, rows, asked)
        target = out if out is not None else folder / TABLE
        write_bytes(target, text.encode())
        metric = materials.metrics[materials.objective]
    found = {
        "study": study.config.name,
        "table": str(target),
        "objective": materials.objective,
        "direction": metric.direction,
        "architectures": len(students) - len(notes),  # those of which a training failed are the notes
        "epochs": asked.epochs,
        "seeds": seeds,
        "kinds": {kind: _agreement(rows, kind, students, metric.direction) for kind in asked.kinds},
        "again": again,
        "notes": [*notes, *_short(len(students), asked.n)],
    }
    return {**found, "text": _text(found)}


def _short(found: int, asked: int) -> list[str]:
    return [f"{found} architectures, not {asked}: the space holds no more within the limits"] if found < asked else []


def _agreement(rows: Sequence[Mapping[str, Any]], kind: str, students: Sequence[Any], direction: str) -> dict[str, Any]:
    """Kendall's tau of test figures between seeds (mean over pairs; what no score can be expected to exceed by much), of
    validation with test, and of parameters with test where more is better (with its negative else); and the best architecture's
    mean over the seeds on test.
    """
    own: dict[int, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if row["kind"] == kind and not row["error"]:
            own.setdefault(row["seed"], {})[row["key"]] = row
    keys = [each for each in students if all(each.key in by_key for by_key in own.values())]

    def of(seed: int, name: str) -> list[float]:
        return [own[seed][each.key][name] for each in keys]

    def mean(values: Sequence[float | None]) -> float | None:
        known = [each for each in values if each is not None]
        return sum(known) / len(known) if known else None

    params, sign = [each.costs["params"] for each in keys], 1 if direction == "max" else -1
    return {
        "tau_between_seeds": mean([kendall_tau(of(a, "test"), of(b, "test")) for a, b in combinations(sorted(own), 2)]),
        "tau_of_validation": mean([kendall_tau(of(seed, "val"), of(seed, "test")) for seed in own]),
        "tau_of_params": mean([kendall_tau(params, [sign * each for each in of(seed, "test")]) for seed in own]),
        "best": (max if direction == "max" else min)(
            (sum(of_) / len(of_) for of_ in zip(*(of(seed, "test") for seed in own), strict=True)), default=None
        ),
    }


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("s" if n != 1 else "")


def _text(found: Mapping[str, Any]) -> str:
    lines = [
        f"{found['table']}: {found['architectures']} architectures, {_many(found['epochs'], 'epoch')}, "
        f"{_many(found['seeds'], 'seed')}; "
        f"{found['objective']} ({found['direction']})"
    ]
    for kind, each in found["kinds"].items():
        said = {
            "seeds agree": each["tau_between_seeds"],
            "validation with test": each["tau_of_validation"],
            "params with test": each["tau_of_params"],
        }
        lines.append(
            f"  {kind}: tau of "
            + ", ".join(f"{name} {'-' if value is None else format(value, '.3f')}" for name, value in said.items())
        )
    return "\n".join([*lines, *(f"  {each}" for each in found["notes"])])
