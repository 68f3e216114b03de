"""Stage `compress`: the student pruned and recovered, and the quantisers' plans. The test split is not seen here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kdsearch.deploy.cost import count
from kdsearch.engine.setup import Evaluator
from kdsearch.errors import TrialError
from kdsearch.kinds import IO, Compressor, Cost, Model
from kdsearch.stages.finished import keep_finished, load_finished
from kdsearch.stages.keys import TRAINING
from kdsearch.stages.materials import Materials
from kdsearch.stages.request import Request
from kdsearch.stages.tools import Tools
from kdsearch.stages.training import open_teachers, pruned
from kdsearch.stages.trainings import run_trainings
from kdsearch.store.artifacts import Artifact
from kdsearch.store.hashing import stream
from kdsearch.store.weights import write

NAME = "compress"
NEEDS = ("prepare", "distill")
READS = (*TRAINING, "constraints", "compress")
CALIBRATION_BATCH = 32
START, RECOVER = "cut.safetensors", "recover"  # weights that recovery starts from; the recovery's folder


@dataclass(kw_only=True)
class LiveSubject(Evaluator):
    """See `kdsearch.kinds.Subject`: what a plan is made from."""

    model: Model
    budget: Mapping[str, float]
    materials: Materials

    def score(self, model: Model) -> float:
        """The objective on validation; higher is better."""
        self.models["subject"] = model
        name = self.materials.objective
        value = self.measured(name, "subject", "val")[name]
        return value if self.metrics[name].direction == "max" else -value

    def cost(self, model: Model) -> Cost:
        return count(model, self.io)

    def feeds(self, n: int) -> list[dict[str, Any]]:
        """Training samples drawn by a stream of the study's own, unaugmented."""
        return calibration(self.materials, self.io, self.model, n)


def calibration(materials: Materials, io: IO, model: Model, n: int) -> list[dict[str, Any]]:
    split = materials.data.split("train")
    index = torch.randperm(len(split.ids), generator=stream(materials.seed, "calibration"))[:n].tolist()
    found = []
    for at in range(0, len(index), CALIBRATION_BATCH):
        batch = split.load(index[at : at + CALIBRATION_BATCH])
        found.append({name: batch[name].numpy() for name in model.inputs})
    return found


def subject_of(materials: Materials, model: Model, teachers: Mapping[str, Any]) -> LiveSubject:
    limits = {
        k: v
        for k, v in materials.study.config.constraints.model_dump(exclude_none=True).items()
        if not isinstance(v, dict)
    }
    named = {**teachers, **({"teacher": next(iter(teachers.values()))} if teachers else {})}
    return LiveSubject(
        seed=materials.seed,
        base=materials.study.folder,
        task=materials.task,
        data=materials.data,
        io=materials.io,
        teachers=named,
        metrics=materials.metrics,
        device=torch.device("cpu"),
        model=model,
        budget=limits,
        materials=materials,
    )


def make(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools, work: Path, out: Path) -> dict[str, Any]:
    section = materials.study.config.compress
    distilled = inputs["distill"]
    run = distilled.facts["runs"][distilled.facts["winner"]]
    teachers = open_teachers(materials, inputs["prepare"])
    tools.progress.begin(NAME, 1 + bool(section.prune) + len(section.quantize))
    final = dict(run["request"])
    model = load_finished(materials, Request(**final), distilled.path / distilled.facts["winner"], teachers).model
    facts: dict[str, Any] = {"request": final, "folder": "", "pruned": None, "quantize": {}}
    if section.prune is not None:
        facts["pruned"], request = _prune(materials, model, final, distilled, inputs, teachers, tools, work, out)
        facts["request"] = {**request.as_json(), "start": dict.fromkeys(request.start, START)}
        facts["folder"] = RECOVER
        model = load_finished(materials, request, work / RECOVER, teachers).model
        tools.progress.at(1, f"pruned to {facts['pruned']['params']:,} params")
    model.module.cpu().eval()
    for i, use in enumerate(section.quantize):
        tools.heed_stop()
        quantizer: Compressor[Any] = materials.make("quantizer", use, f"compress.quantize[{i}]")
        plan = quantizer.plan(subject_of(materials, model, teachers))
        facts["quantize"][use.use] = asdict(plan)
        tools.progress.at(tools.progress.done + 1, use.use)
    return facts


def _prune(
    materials: Materials,
    model: Model,
    final: dict[str, Any],
    distilled: Artifact,
    inputs: Mapping[str, Artifact],
    teachers: Mapping[str, Any],
    tools: Tools,
    work: Path,
    out: Path,
) -> tuple[dict[str, Any], Request]:
    """Plan on the distilled student, cut it, and recover with the winner's own recipe."""
    section = materials.study.config.compress.prune
    assert section is not None
    role = next(iter(final["specs"]))
    pruner: Compressor[Any] = materials.make("pruner", section, "compress.prune")
    model.module.cpu()
    subject = subject_of(materials, model, teachers)
    score_before, before = subject.score(model), subject.cost(model)
    plan = asdict(pruner.plan(subject))
    cut = pruned(materials, model.copy(), plan)
    after_cut = subject.score(cut)
    write(work / START, cut.module.state_dict())
    write(out / START, cut.module.state_dict())
    start = {role: str(work / START)}
    request = Request(
        RECOVER,
        "recover",
        final["specs"],
        final["values"],
        section.recover_epochs,
        start=start,
        plans={role: plan},
        scales=distilled.facts["runs"][distilled.facts["winner"]]["scales"],
        lr_factor=section.recover_lr,
    )
    outcome = run_trainings(materials, [request], work, inputs["prepare"], teachers, tools)[RECOVER]
    if isinstance(outcome, str):
        raise TrialError(f"recovery after pruning failed: {outcome}")
    keep_finished(work / RECOVER, out / RECOVER)
    cost = subject.cost(cut)
    return {
        "plan": plan,
        "params": cost.params,
        "macs": cost.macs,
        "params_before": before.params,
        "macs_before": before.macs,
        "score_before": score_before,
        "score_cut": after_cut,
        "history": outcome.history,
        "log": list(plan["log"]),
    }, request
