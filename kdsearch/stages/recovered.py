"""One step of compression: plan on the networks so far, cut them, recover. An artifact of its own, keyed by the steps so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kdsearch.errors import TrialError
from kdsearch.stages.subject import subject_of
from kdsearch.store.artifacts import Artifact
from kdsearch.store.weights import write
from kdsearch.study.rules import bare
from kdsearch.study.view import plain_json
from kdsearch.training.finished import Finished, keep_finished, load_finished
from kdsearch.training.grown import check_said, said, structures
from kdsearch.training.keys import TRAINING, capabilities, declared
from kdsearch.training.materials import Materials
from kdsearch.training.request import Request
from kdsearch.training.tools import Tools
from kdsearch.training.train import compressor_of, placing_step, plan_of
from kdsearch.training.trainings import run_trainings

RECOVER = "recover"  # the recovery's folder
RECOVERED = "recovered"  # of the artifacts
COSTS = ("params", "macs", "params_before", "macs_before")


@dataclass(frozen=True)
class Finish:
    """The networks so far: as `distill`, or the step before, left them.

    Args:
        final: their request. scales: of the winner's terms. inputs: of the stage.
    """

    materials: Materials
    found: Finished
    final: Mapping[str, Any]
    scales: Mapping[str, float]
    inputs: Mapping[str, Artifact]
    teachers: Mapping[str, Any]


def started(request: Mapping[str, Any], folder: Path) -> Request:
    """A recovery's request, whose weights to start from lie in the folder."""
    return Request(**{**request, "start": {role: str(folder / name) for role, name in request["start"].items()}})


def recovered(before: Finish, nth: int, tools: Tools) -> Artifact:
    """The study's nth step done: other later steps, or other quantisers, do not do it anew."""
    materials = before.materials
    chain = materials.study.config.compress.chain[: nth + 1]
    part = {
        **declared(materials, (*TRAINING, "constraints")),
        "steps": [[step.kind, plain_json(step.use)] for _, step in chain],
        "compressors": capabilities(materials, [path for path, _ in chain]),
        "compressor_files": materials.files_key([plain_json(step.use) for _, step in chain]),
    }
    key = tools.store.key(RECOVERED, part, before.inputs)
    made = tools.store.get(RECOVERED, key)
    if made is None:
        work = tools.store.work(RECOVERED, key)

        def fill(out: Path) -> dict[str, Any]:
            step, request = _step(before, nth, tools, work, out)
            start = {role: Path(file).name for role, file in request.start.items()}
            return {"step": step, "request": {**request.as_json(), "start": start, "uncut": {}}}

        made = tools.store.put(RECOVERED, key, fill, {})
    return made


def _step(before: Finish, nth: int, tools: Tools, work: Path, out: Path) -> tuple[dict[str, Any], Request]:
    """Plan for each network that ships, with the others as they are; cut them, and recover."""
    materials, found, final, teachers = before.materials, before.found, before.final, before.teachers
    path, step = materials.study.config.compress.chain[nth]
    compressor = compressor_of(materials, nth)
    shipped = found.procedure.shipped()
    if nth == 0:  # of a later step, what is cut is a plan's already
        wanted = said(materials, Request(**final), teachers, work)
        check_said(found.procedure, materials.recipe.procedure, structures(found.setup), wanted)
    roles: dict[str, Any] = {}
    plans, start, uncut = {}, {}, {}
    for role in shipped:
        tools.heed_stop()
        subject = subject_of(materials, found, role, teachers)
        score_before, cost_before = subject.score(subject.model), subject.cost(subject.model)
        with placing_step(materials, path):
            stored = asdict(compressor.plan(subject))
        plan = plan_of(stored)
        plans[role] = [*final.get("plans", {}).get(role, ()), stored]
        cut = compressor.apply(subject.model.copy(), plan)
        suffix = "" if len(shipped) == 1 else f"-{role}"
        for folder in (work, out):
            write(folder / f"cut{suffix}.safetensors", cut.module.state_dict())
        write(work / f"uncut{suffix}.safetensors", subject.model.module.state_dict())
        start[role], uncut[role] = (str(work / f"{name}{suffix}.safetensors") for name in ("cut", "uncut"))
        compressor.enforce(cut, plan, 1.0)
        cost = subject.cost(cut)
        roles[role] = {
            "params": cost.params,
            "macs": cost.macs,
            "params_before": cost_before.params,
            "macs_before": cost_before.macs,
            "score_before": score_before,
            "score_cut": subject.score(cut),
            "log": list(plan.log),
        }
    request = Request(
        RECOVER,
        "recover",
        final["specs"],
        final["values"],
        step.use.recover_epochs,
        start=start,
        plans=plans,
        uncut=uncut,
        scales=before.scales,
        lr_factor=step.use.recover_lr,
    )
    outcome = run_trainings(materials, [request], work, before.inputs["prepare"], teachers, tools)[RECOVER]
    if isinstance(outcome, str):
        raise TrialError(f"recovery after '{step.use.use}' failed: {outcome}")
    keep_finished(work / RECOVER, out / RECOVER)
    after = load_finished(materials, request, work / RECOVER, teachers)
    for role, facts in roles.items():
        subject = subject_of(materials, after, role, teachers)
        facts |= {"score": subject.score(subject.model), "zeros": zeros(subject.model.module)}
    many = len(roles) > 1
    return {
        "kind": step.kind,
        "use": bare(step.use.use),
        **{name: sum(each[name] for each in roles.values()) for name in COSTS},
        "roles": roles,
        "history": outcome.history,
        "notes": list(outcome.notes),
        "log": [f"{role}: {line}" if many else line for role, each in roles.items() for line in each["log"]],
    }, request


def zeros(module: nn.Module) -> float:
    """Share of zeros among the weights of matrices and convolutions."""
    weights = [each for each in module.parameters() if each.ndim > 1]
    return sum(int((each == 0).sum()) for each in weights) / max(1, sum(each.numel() for each in weights))
