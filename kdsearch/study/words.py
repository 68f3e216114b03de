"""A study in a few lines, for a screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdsearch.study.schema import Config, DistillerUse, Student, Teacher

WIDTH = 100  # characters of a line


def study_words(config: Config, teachers: Mapping[str, Teacher], students: Mapping[str, Student]) -> str:
    """What is learned from what, what must fit, and how long is looked. `teachers` and `students`: by name and by role."""
    data, search, refine, distill = config.data, config.search, config.refine, config.distill
    labels = "" if data.labeled == 1 else f", labels for {data.labeled:g}"
    limits = config.constraints.model_dump(exclude_none=True)
    lines = {
        "data": f"{data.use}{labels}",
        "teacher": "; ".join(_teacher(name, each) for name, each in teachers.items()) or "none",
        "student": "; ".join(_student(role, each) for role, each in students.items()),
        "recipe": ", ".join(map(_distiller, config.recipe.distillers)) or "the labels alone",
        "goal": ", ".join(f"{name} {way}" for name, way in config.objectives.items()) or "the task's own",
        "limits": ", ".join(f"{name} <= {_limit(each)}" for name, each in limits.items()) or "none",
        "effort": f"{search.candidates:,} candidates, {refine.trials:,} trials of {refine.epochs:,} epochs, "
        f"{distill.epochs:,} epochs for the winner",
        "files": ", ".join(config.export.formats),
    }
    told = [f"Study '{config.name}', seed {config.seed}", *(f"{name:8} {text}" for name, text in lines.items())]
    return "\n".join(line if len(line) <= WIDTH else f"{line[: WIDTH - 4]} ..." for line in told)


def _teacher(name: str, teacher: Teacher) -> str:
    return teacher.use if name == "main" else f"{name}: {teacher.use}"


def _student(role: str, student: Student) -> str:
    spec = ", ".join(f"{name} {_setting(value)}" for name, value in student.spec.items())
    return (student.space if role == "student" else f"{role}: {student.space}") + (f" ({spec})" if spec else "")


def _distiller(use: DistillerUse) -> str:
    weight = "" if use.weight == 1 else f" (weight {_setting(use.weight)})"
    return f"{use.name or use.use}{weight}"


def _setting(value: Any) -> str:
    if value == "search":
        return "searched"
    if isinstance(value, Mapping) and "choices" in value:
        return "|".join(map(str, value["choices"]))
    if isinstance(value, Mapping) and {"low", "high"} <= set(value):
        return f"{value['low']}..{value['high']}"
    if isinstance(value, list | tuple):
        return "-".join(map(str, value))
    return str(value)


def _limit(value: Any) -> str:
    """A number, or a section as `constraints.latency_ms` is: the number and the format that has to keep it."""
    if not isinstance(value, Mapping):
        return f"{value:,}"
    return f"{value['max']:,}" + (f" ({value['format']})" if "format" in value else "")
