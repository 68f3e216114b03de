"""What a stage's result depends on, derived from what it declares to read: `READS` at the top of its file.

An entry of READS is a key path of the study, with all that is below it, or one of

    objective         the first objective that is a metric, with its options: what validation scores are
    measured          the options of the metrics that trainings may ask for: the task's and the objectives'
    cost_objectives   the objectives that are no metric
    taps              the teachers' taps that the recipe may read

A stage that reads a section which it does not declare raises (`Materials.seen_by`), so that a key holds whatever its stage
reads: the sections, the files that they name, and of every capability in them its distribution, version and, where the package runs
from its own folder, its source (`kdsearch/host/sources.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from kdsearch.host.sources import identity
from kdsearch.kinds import Metric
from kdsearch.study.view import is_within, values
from kdsearch.training.materials import Materials

MACHINE = (
    "run.device",
    "run.devices",
    "run.precision",
    "run.threads_per_trial",
)  # numbers depend on how they are computed
SOURCE = ("seed", "data", "task", *MACHINE)
TRAINING = (*SOURCE, "teachers", "students", "recipe", "objectives", "measured")  # what training a candidate reads

DERIVED: Mapping[str, Callable[[Materials], Any]] = {
    "objective": lambda materials: [materials.objective, *_about(materials.scoring[materials.objective])],
    "measured": lambda materials: {name: _about(metric) for name, metric in materials.metrics.items()},
    "cost_objectives": lambda materials: list(materials.cost_objectives),
    "taps": lambda materials: dict(materials.taps),
}


def _about(metric: Metric[Any]) -> list[Any]:
    return [metric.direction, metric.options.model_dump(mode="json")]


@dataclass(frozen=True)
class Where:
    """An entry of READS for some studies only."""

    holds: Callable[[Materials], bool]
    path: str


def reads_of(stage: ModuleType, materials: Materials) -> tuple[str, ...]:
    """The paths that a stage declares for this study."""
    found: list[str] = []
    for each in stage.READS:
        if isinstance(each, str):
            found.append(each)
        elif each.holds(materials):
            found.append(each.path)
    return tuple(found)


def seen_by(stage: ModuleType, materials: Materials) -> Materials:
    """The materials as the stage may see them."""
    return materials.seen_by(stage.NAME, reads_of(stage, materials))


def part_of(stage: ModuleType, materials: Materials) -> dict[str, Any]:
    """All that a stage's key holds beside its inputs' keys, as JSON values: what it declares, and its own `further`."""
    further: Callable[[Materials], dict[str, Any]] = getattr(stage, "further", lambda _: {})
    return {**declared(materials, reads_of(stage, materials)), **further(seen_by(stage, materials))}


def declared(materials: Materials, reads: Iterable[str], but: str = "") -> dict[str, Any]:
    """Sections, files and capabilities of these entries of READS. `but`: the path of a key below one of them that is not read."""
    reads = tuple(reads)
    sections = values(materials.study, [path for path in reads if path not in DERIVED])
    if but:
        section, _, name = but.rpartition(".")
        sections[section] = {key: each for key, each in sections[section].items() if key != name}
    if "run.device" in reads:  # `auto` is what it has found
        sections["run.device"] = materials.device.accelerator
    return {
        **sections,
        **{name: DERIVED[name](materials) for name in reads if name in DERIVED},
        "files": materials.files_key(sections),
        "capabilities": capabilities(materials, reads, but),
    }


def capabilities(materials: Materials, reads: Iterable[str], but: str = "") -> dict[str, str]:
    """Kind and name -> what it is, of each capability that these sections name or leave to a default, but for those below `but`."""
    reads = tuple(reads)
    named = {
        (each.kind, each.name)
        for each in materials.named
        if any(is_within(each.path, path) for path in reads) and not (but and is_within(each.path, but))
    }
    return {f"{kind}:{name}": identity(materials.host, kind, name) for kind, name in sorted(named)}
