"""Networks as files that load without code and without the study: `student/` as it was distilled, `pruned/` as cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdsearch.errors import KdsearchError
from kdsearch.kinds import Plan
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import copy_file, remove, storing
from kdsearch.study.check import student_space
from kdsearch.study.code import is_code
from kdsearch.training.finished import Finished
from kdsearch.training.materials import Materials
from kdsearch.training.saved import ABOUT, WEIGHTS, save_model
from kdsearch.training.train import plan_of

STUDENT, PRUNED = "student", "pruned"  # the folders, in the artifact and in the study's


def save_networks(
    materials: Materials, found: Finished, request: Mapping[str, Any], out: Path, name: str
) -> dict[str, dict[str, str]]:
    """Save every network that ships as it is now, below `name` of `out`; role -> its folder there, or why none."""
    roles = found.procedure.shipped()
    saved = {}
    for role in roles:
        path = name if len(roles) == 1 else f"{name}/{role}"
        reason, space = _of_this_study_alone(materials), materials.study.students[role].space
        if not reason:
            try:
                save_model(
                    found.setup.models[role],
                    out / path,
                    space=space,
                    network=None
                    if _is_registered(materials, role)
                    else student_space(materials.study, materials.host, role),
                    spec=request["specs"][role],
                    io=materials.io,
                    history=_history(materials, request["plans"].get(role, ())),
                )
            except KdsearchError as error:  # phases or an adapted procedure made another network of it
                reason = error.problem
        saved[role] = {"path": "" if reason else path, "reason": reason}
    return saved


def _is_registered(materials: Materials, role: str) -> bool:
    """Whether its search space has a name by which any process finds it."""
    study, space = materials.study, materials.study.students[role].space
    is_live = study.live_object(study.path_of_student(role)) is not None or f"search_space:{space}" in study.live
    return not is_live and not is_code(space)


def _of_this_study_alone(materials: Materials) -> str:
    """Why a network cannot be built elsewhere; "" where it can."""
    code = [step.use.use for _, step in materials.study.config.compress.chain if is_code(step.use.use)]
    return f"'{code[0]}' is code of the study" if code else ""


def _history(materials: Materials, plans: Any) -> list[tuple[str, Plan]]:
    """What changed the network's shape, in order; zeros among its weights are weights."""
    chain = [step for _, step in materials.study.config.compress.chain]
    pairs = zip(chain, plans, strict=False)
    return [(step.use.use, plan_of(plan)) for step, plan in pairs if step.kind == "pruner"]


def publish_networks(compressed: Artifact, folder: Path) -> None:
    """Make `student/` and `pruned/` of the study's folder equal to the artifact's; what an earlier study left there goes."""
    saved = (compressed.facts.get(fact, {}) for fact in ("students", "saved"))
    wanted = {each["path"] for by_role in saved for each in by_role.values() if each["path"]}
    for path in sorted(wanted):
        with storing(folder / path):
            (folder / path).mkdir(parents=True, exist_ok=True)
        for name in (ABOUT, WEIGHTS):
            copy_file(compressed.path / path / name, folder / path / name)
    for top in (folder / STUDENT, folder / PRUNED):
        if not top.is_symlink() and top.is_dir():
            _tidy(top, {folder / path for path in wanted})


def _tidy(top: Path, wanted: set[Path]) -> None:
    """Take the networks that are none of these out of `top`, and folders that are empty then."""
    for place in (top, *(each for each in top.iterdir() if each.is_dir() and not each.is_symlink())):
        if place in wanted:
            continue
        for name in (ABOUT, WEIGHTS):
            (place / name).unlink(missing_ok=True)
        if place != top and not any(place.iterdir()):
            remove(place)
    if not any(top.iterdir()):
        remove(top)
