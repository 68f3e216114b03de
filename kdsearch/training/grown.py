"""Networks that phases make larger: what a procedure says of them (`Procedure.grown`) is held against what they become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdsearch.engine.cache import Live
from kdsearch.engine.setup import LiveSetup
from kdsearch.errors import PluginError
from kdsearch.kinds import Procedure
from kdsearch.training.adapted import grows
from kdsearch.training.built import Structure, structure
from kdsearch.training.materials import Materials
from kdsearch.training.request import Request, seed_of
from kdsearch.training.train import staged

By = Mapping[str, Structure]  # by role


def structures(setup: LiveSetup) -> dict[str, Structure]:
    return {role: structure(model.module) for role, model in setup.models.items()}


def said(
    materials: Materials,
    request: Request,
    teachers: Mapping[str, Live],
    folder: Path,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Structure]:
    """Of every role, as the procedure says that the request's phases leave it. `changes`: see `staged`."""
    asked = replace(request, kind="cost", start={}, plans={})
    return structures(staged(materials, asked, teachers, folder, seed_of(materials, request), changes)[1])


def check_said(procedure: Procedure[Any], name: str, found: By, wanted: By) -> None:
    """Raise PluginError, with the first tensor that differs, for a role that ships and is not what the procedure says."""
    for role in procedure.shipped():
        if differs := _difference(found[role], wanted[role]):
            who = "its `grown` says" if grows(type(procedure)) else "they began with, and it has no `grown`"
            raise PluginError(
                f"the phases of '{name}' leave another network of '{role}' than {who}: {differs}",
                expected="a procedure whose `grown` gives the networks that its phases make",
            )


def check_recovered(procedure: Procedure[Any], name: str, found: By, before: By) -> None:
    """Raise PluginError for a recovery that changes a network that ships: a pruned one would not be what pruning planned."""
    for role in procedure.shipped():
        if differs := _difference(found[role], before[role]):
            raise PluginError(
                f"after pruning '{name}' changes the network of '{role}' again: {differs}",
                expected="a `recovery` whose phases leave networks as they are",
                fix="Without a step of compression it is not asked for one.",
            )


def check_counted(materials: Materials, procedure: Procedure[Any], found: By, before: By) -> None:
    """Raise StudyError where phases make another network without a word of it, and the study limits or prunes what it was."""
    config = materials.study.config
    counts = [name for name in ("params", "macs") if getattr(config.constraints, name) is not None]
    paths = [*[path for path, _ in config.compress.chain][:1], *(f"constraints.{n}" for n in counts)]
    paths += [f"objectives.{name}" for name in materials.cost_objectives if name in ("params", "macs")]
    for role in procedure.shipped():
        if paths and found[role] != before[role]:
            raise materials.study.error(
                f"the phases of '{materials.recipe.procedure}' make another network of '{role}' and do not say which",
                paths[0],
                expected="a procedure whose `grown` gives the networks that its phases make",
                fix=f"Remove {', '.join(paths)}.",
            )


def _difference(found: Structure, wanted: Structure) -> str:
    """The first tensor that differs, in words; "" where none does."""
    for name in {**wanted, **found}:
        if found.get(name) != wanted.get(name):
            return f"'{name}' is {_shown(found.get(name))}, not {_shown(wanted.get(name))}"
    return ""


def _shown(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else f"({', '.join(map(str, shape))})"
