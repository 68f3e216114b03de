"""Stage `compress`: every student that ships pruned and recovered, and the quantisers' plans. The test split is not seen here."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kdsearch.deploy.capture import received
from kdsearch.deploy.cost import count
from kdsearch.engine.setup import Evaluator, LiveSetup
from kdsearch.errors import TrialError
from kdsearch.kinds import Batch, Compressor, Cost, Model, Procedure
from kdsearch.stages.costs import cost_of_model
from kdsearch.stages.products import Shipped, shipped
from kdsearch.store.artifacts import ABOUT, Artifact
from kdsearch.store.hashing import stream
from kdsearch.store.weights import write
from kdsearch.training.built import structure
from kdsearch.training.finished import Finished, keep_finished, load_finished
from kdsearch.training.grown import check_said, said, structures
from kdsearch.training.keys import TRAINING, declared
from kdsearch.training.materials import Materials
from kdsearch.training.opened import open_teachers
from kdsearch.training.request import Request
from kdsearch.training.tools import Tools
from kdsearch.training.train import pruned
from kdsearch.training.trainings import run_trainings

NAME = "compress"
NEEDS = ("prepare", "distill")
READS = (*TRAINING, "constraints", "compress")
CALIBRATION_BATCH = 32
START, RECOVER = "cut.safetensors", "recover"  # weights that recovery starts from; the recovery's folder
RECOVERED = "recovered"  # of the artifacts of pruned students


@dataclass(kw_only=True)
class LiveSubject(Evaluator):
    """See `kdsearch.kinds.Subject`: what a plan for one role is made from; the other roles stay as they are."""

    role: str
    budget: Mapping[str, float]
    materials: Materials
    setup: LiveSetup
    procedure: Procedure[Any]

    @property
    def model(self) -> Model:
        return self.setup.models[self.role]

    def shipped(self, model: Model | None = None) -> Shipped:
        """The product that the role is part of, with another model in its place."""
        setup = replace(self.setup, models={**self.setup.models, self.role: model or self.model})
        return next(each for each in shipped(self.materials, setup, self.procedure) if self.role in each.models)

    def score(self, model: Model) -> float:
        """The objective of the product on validation; higher is better."""
        name = self.materials.objective
        value = self.metrics[name].measure(self.shipped(model).predict, self.data, "val", self)[name]
        return value if self.metrics[name].direction == "max" else -value

    def cost(self, model: Model) -> Cost:
        return count(model, self.io)


def calibration(materials: Materials, n: int) -> list[Batch]:
    """n training samples, drawn by a stream of the study's own, unaugmented."""
    split = materials.data.split("train")
    index = torch.randperm(len(split.ids), generator=stream(materials.seed, "calibration"))[:n].tolist()
    return [split.load(index[at : at + CALIBRATION_BATCH]) for at in range(0, len(index), CALIBRATION_BATCH)]


def feeds(made: Shipped, graph: str, batches: list[Batch]) -> list[dict[str, Any]]:
    """What a graph (the first one, if none is named) receives for these samples, NumPy arrays by input name."""
    name = graph or next(iter(made.product.graphs))
    return [
        {each: value.numpy() for each, value in batch.tensors.items()}
        for batch in received(made.product, made.calls, name, batches)
    ]


def subject_of(materials: Materials, found: Finished, role: str, teachers: Mapping[str, Any]) -> LiveSubject:
    limits = {
        k: v
        for k, v in materials.study.config.constraints.model_dump(exclude_none=True).items()
        if not isinstance(v, dict)
    }
    named = {**teachers, **({"teacher": next(iter(teachers.values()))} if teachers else {})}
    for model in found.setup.models.values():
        model.module.cpu()
    return LiveSubject(
        seed=materials.seed,
        base=materials.study.folder,
        task=materials.task,
        data=materials.data,
        io=materials.io,
        models=found.setup.models,
        teachers=named,
        metrics=materials.metrics,
        device=torch.device("cpu"),
        role=role,
        budget=limits,
        materials=materials,
        setup=found.setup,
        procedure=found.procedure,
    )


def make(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools, work: Path, out: Path) -> dict[str, Any]:
    section = materials.study.config.compress
    distilled = inputs["distill"]
    run = distilled.facts["runs"][distilled.facts["winner"]]
    teachers = open_teachers(materials, inputs["prepare"])
    tools.progress.begin(NAME, 1 + bool(section.prune) + len(section.quantize))
    final = dict(run["request"])
    found = load_finished(materials, Request(**final), distilled.path / distilled.facts["winner"], teachers)
    facts: dict[str, Any] = {"request": final, "folder": "", "pruned": None, "recovery": "", "quantize": {}}
    facts["costs"] = costs_of_shipped(materials, found, final["specs"])
    if section.prune is not None:
        made = recovered(Distilled(materials, found, final, inputs, teachers), tools)
        shutil.copytree(made.path, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(ABOUT))
        facts |= {"pruned": made.facts["pruned"], "request": made.facts["request"], "folder": RECOVER}
        facts["recovery"] = made.key
        found = load_finished(materials, started(facts["request"], made.path), made.path / RECOVER, teachers)
        tools.progress.at(1, f"pruned to {facts['pruned']['params']:,} params")
    parts = shipped(materials, found.setup, found.procedure)
    for i, use in enumerate(section.quantize):
        tools.heed_stop()
        quantizer: Compressor[Any] = materials.make("quantizer", use, f"compress.quantize[{i}]")
        facts["quantize"][use.use] = {
            each.role: asdict(quantizer.plan(subject_of(materials, found, next(iter(each.models)), teachers)))
            for each in parts
        }
        tools.progress.at(tools.progress.done + 1, use.use)
    return facts


def costs_of_shipped(materials: Materials, found: Finished, specs: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Params and MACs by role of what was distilled: as the search counted them, unless phases made another network."""
    costs = {}
    for role in found.procedure.shipped():
        own, counted = found.setup.models[role], materials.build_student(role, specs[role], 0)
        is_same = structure(own.module) == structure(counted.module)
        cost = cost_of_model(counted, materials) if is_same else count(own, materials.io)
        costs[role] = {"params": cost.params, "macs": cost.macs}
    return costs


def started(request: Mapping[str, Any], folder: Path) -> Request:
    """A recovery's request, whose weights to start from lie in the folder."""
    return Request(**{**request, "start": {role: str(folder / name) for role, name in request["start"].items()}})


@dataclass(frozen=True)
class Distilled:
    """The winner as `distill` left it.

    Args:
        final: its request. inputs: of the stage.
    """

    materials: Materials
    found: Finished
    final: Mapping[str, Any]
    inputs: Mapping[str, Artifact]
    teachers: Mapping[str, Any]


def recovered(winner: Distilled, tools: Tools) -> Artifact:
    """The pruned and recovered students: an artifact of their own, which other quantisers do not make anew."""
    part = declared(winner.materials, (*TRAINING, "constraints", "compress.prune"))
    key = tools.store.key(RECOVERED, part, winner.inputs)
    made = tools.store.get(RECOVERED, key)
    if made is None:
        work = tools.store.work(RECOVERED, key)

        def fill(out: Path) -> dict[str, Any]:
            pruned, request = _prune(winner, tools, work, out)
            start = {role: Path(file).name for role, file in request.start.items()}
            return {"pruned": pruned, "request": {**request.as_json(), "start": start}}

        made = tools.store.put(RECOVERED, key, fill, {})
    return made


def _prune(winner: Distilled, tools: Tools, work: Path, out: Path) -> tuple[dict[str, Any], Request]:
    """Plan on the distilled students that ship, each with the others as they are; cut them, and recover by the winner's recipe."""
    materials, found, final, teachers = winner.materials, winner.found, winner.final, winner.teachers
    section, distilled = materials.study.config.compress.prune, winner.inputs["distill"]
    assert section is not None
    pruner: Compressor[Any] = materials.make("pruner", section, "compress.prune")
    wanted = said(materials, Request(**final), teachers, work)
    check_said(found.procedure, materials.recipe.procedure, structures(found.setup), wanted)
    roles: dict[str, Any] = {}
    plans, start = {}, {}
    for role in found.procedure.shipped():
        subject = subject_of(materials, found, role, teachers)
        score_before, before = subject.score(subject.model), subject.cost(subject.model)
        plan = plans[role] = asdict(pruner.plan(subject))
        cut = pruned(materials, subject.model.copy(), plan)
        name = START if len(found.procedure.shipped()) == 1 else f"cut-{role}.safetensors"
        for folder in (work, out):
            write(folder / name, cut.module.state_dict())
        start[role] = str(work / name)
        after = subject.cost(cut)
        roles[role] = {
            "params": after.params,
            "macs": after.macs,
            "params_before": before.params,
            "macs_before": before.macs,
            "score_before": score_before,
            "score_cut": subject.score(cut),
            "log": list(plan["log"]),
        }
    request = Request(
        RECOVER,
        "recover",
        final["specs"],
        final["values"],
        section.recover_epochs,
        start=start,
        plans=plans,
        scales=distilled.facts["runs"][distilled.facts["winner"]]["scales"],
        lr_factor=section.recover_lr,
    )
    outcome = run_trainings(materials, [request], work, winner.inputs["prepare"], teachers, tools)[RECOVER]
    if isinstance(outcome, str):
        raise TrialError(f"recovery after pruning failed: {outcome}")
    keep_finished(work / RECOVER, out / RECOVER)
    many = len(roles) > 1
    return {
        **{
            name: sum(each[name] for each in roles.values())
            for name in ("params", "macs", "params_before", "macs_before")
        },
        "roles": roles,
        "history": outcome.history,
        "log": [f"{role}: {line}" if many else line for role, each in roles.items() for line in each["log"]],
    }, request
