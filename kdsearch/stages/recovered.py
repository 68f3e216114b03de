"""One step of compression: plan on the networks so far, cut them, recover. An artifact of its own, keyed by the steps so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from kdsearch.errors import PluginError, TrialError
from kdsearch.kinds import Compressor, Model, Plan
from kdsearch.kinds.compressor import planned
from kdsearch.stages.subject import subject_of
from kdsearch.store.artifacts import Artifact
from kdsearch.store.weights import write
from kdsearch.study.rules import bare
from kdsearch.study.schema import Use
from kdsearch.study.view import plain_json
from kdsearch.training.finished import Finished, keep_finished, load_finished
from kdsearch.training.grown import check_said, said, structures
from kdsearch.training.keys import TRAINING, capabilities, declared
from kdsearch.training.materials import Materials
from kdsearch.training.request import Outcome, Request
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
    chain = before.materials.study.config.compress.chain[: nth + 1]
    steps = [(path, step.kind, step.use) for path, step in chain]
    return kept(before, steps, partial(_step, before, nth, tools), tools)


def kept(
    before: Finish,
    chain: Sequence[tuple[str, str, Use]],
    make: Callable[[Path, Path], tuple[dict[str, Any], Request]],
    tools: Tools,
    rule: int = 1,
) -> Artifact:
    """The artifact of a training that goes on from others, made where it is not there yet.

    Args:
        chain: (key path, kind, use) of all that was done to the networks since they were distilled, in order.
        make: from a folder to work in and one for what is kept, the facts of the step and the request.
        rule: by which `make` goes; what was made by another one is made anew.
    """
    materials, uses = before.materials, [plain_json(use) for _, _, use in chain]
    part = {
        **declared(materials, (*TRAINING, "constraints")),
        "steps": [[kind, use] for (_, kind, _), use in zip(chain, uses, strict=True)],
        "compressors": capabilities(materials, [path for path, _, _ in chain]),
        "compressor_files": materials.files_key(uses),
        **machine_of(materials, sum(kind != "quantizer" for _, kind, _ in chain)),
        **({"rule": rule} if rule > 1 else {}),
    }
    key = tools.store.key(RECOVERED, part, before.inputs)
    made = tools.store.get(RECOVERED, key)
    if made is None:
        work = tools.store.work(RECOVERED, key)

        def fill(out: Path) -> dict[str, Any]:
            step, request = make(work, out)
            start = {role: Path(file).name for role, file in request.start.items()}
            return {"step": step, "request": {**request.as_json(), "start": start, "uncut": {}}}

        made = tools.store.put(RECOVERED, key, fill, {})
    return made


def machine_of(materials: Materials, steps: int) -> dict[str, Any]:
    """The machine, where one of the study's first steps goes by how fast it is."""
    from kdsearch.deploy.latency import machine

    return {"machine": machine()} if any(compressor_of(materials, i).is_timed for i in range(steps)) else {}


def trained(
    before: Finish, request: Request, work: Path, out: Path, tools: Tools, what: str
) -> tuple[Outcome, Finished]:
    """Train on from the networks so far, and keep in `out` what `load_finished` reads. Raise TrialError where `what` fails."""
    materials, teachers = before.materials, before.teachers
    outcome = run_trainings(materials, [request], work, before.inputs["prepare"], teachers, tools)[request.name]
    if isinstance(outcome, str):
        raise TrialError(f"{what} failed: {outcome}")
    keep_finished(work / request.name, out / request.name)
    return outcome, load_finished(materials, request, work / request.name, teachers)


def _cut(compressor: Compressor[Any], model: Model, plan: Plan) -> Model:
    """Raise PluginError where a compressor's `apply` gives something else."""
    cut: object = compressor.apply(model, plan)
    if not isinstance(cut, Model):
        who = type(compressor).__name__
        raise PluginError(f"`apply` of {who} gives a {type(cut).__name__}", expected="a kdsearch.kinds.Model")
    return cut


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

    def watch(share: float, what: str) -> None:
        tools.heed_stop()
        tools.progress.at(tools.progress.done, f"{step.use.use}, {share:.0%}: {what}")

    compressor.watch = watch
    for role in shipped:
        tools.heed_stop()
        subject = subject_of(materials, found, role, teachers)
        score_before, cost_before = subject.score(subject.model), subject.cost(subject.model)
        with placing_step(materials, path), materials.host.naming(step.kind, step.use.use):
            stored = asdict(planned(compressor, subject))
        plan = plan_of(stored)
        plans[role] = [*final.get("plans", {}).get(role, ()), stored]
        with placing_step(materials, path), materials.host.naming(step.kind, step.use.use):
            cut = _cut(compressor, subject.model.copy(), plan)
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
    outcome, after = trained(before, request, work, out, tools, f"recovery after '{step.use.use}'")
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
