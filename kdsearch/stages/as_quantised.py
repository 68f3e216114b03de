"""Training as quantised: where a format's file loses too much on validation, the student learns once more, rounded as the file is.

The winner's recipe trains it, so the teacher teaches the quantised student. The test split is not seen here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from kdsearch.engine.measured import values_of
from kdsearch.errors import RefusedError
from kdsearch.kinds import Batch, Compressor, Exporter, Predict
from kdsearch.kinds.compressor import planned
from kdsearch.ops.settle import settle
from kdsearch.stages.costs import latency_threads
from kdsearch.stages.one_file import Target, opened, written
from kdsearch.stages.products import Shipped, shipped
from kdsearch.stages.quality import allowed_drop, goodness, quality_of
from kdsearch.stages.recovered import Finish, kept, started, trained
from kdsearch.stages.subject import subject_of
from kdsearch.store.artifacts import Artifact
from kdsearch.store.weights import write
from kdsearch.study.rules import bare, format_of
from kdsearch.training.finished import Finished, load_finished
from kdsearch.training.materials import Materials
from kdsearch.training.request import QUANTIZER, Request
from kdsearch.training.tools import Tools
from kdsearch.training.train import plan_of

RULE = 3  # by which weights are rounded in training; what was trained by another one has others behind them


def wanted(materials: Materials) -> dict[int, str]:
    """Index -> format, of the quantizers that the study lets train, and whose files it exports."""
    config = materials.study.config
    uses = {i: format_of(config, use) for i, use in enumerate(config.compress.quantize) if use.recover_epochs}
    return {i: form for i, form in uses.items() if form in config.export.formats}


def may_train(materials: Materials) -> bool:
    """Whether any quantizer of the study may."""
    return any(use.recover_epochs for use in materials.study.config.compress.quantize)


def trained_as(
    before: Finish, index: int, form: str, plans: Mapping[str, Any], tools: Tools, work: Path
) -> tuple[dict[str, Any], Artifact | None]:
    """What became of one format, and the artifact of its training; None where the plain file keeps its bound.

    Args:
        plans: quantizer -> role -> its plan.
    """
    materials, use = before.materials, before.materials.study.config.compress.quantize[index]
    found: dict[str, Any] = {"format": form, "epochs": use.recover_epochs, "folder": "", "history": [], "after": None}
    try:
        found |= _lost(before, before.found, form, plans, work / "plain")
    except RefusedError:  # the export stage says why
        return {**found, "before": None}, None
    plain = found["before"]
    found["before"] = _number(plain)
    if plain <= found["allowed"] + 1e-12:
        return found, None
    if not _rounds(before, index, plans[use.use]):
        tools.progress.say(
            f"compress: {form} loses {plain:.4g} on validation; nothing of it can be rounded in training"
        )
        return {**found, "epochs": 0}, None
    tools.progress.say(f"compress: {form} loses {plain:.4g} on validation; trained as quantised")
    path = f"compress.quantize[{index}]"
    chain = [(each, step.kind, step.use) for each, step in materials.study.config.compress.chain]
    made = kept(before, [*chain, (path, "quantizer", use)], partial(_training, before, index, tools), tools, RULE)
    request = made.facts["request"]
    after = load_as(materials, request, made.path / request["name"], made.path, before.teachers)
    found |= {"history": made.facts["step"]["history"], "request": request}
    try:
        lost = _lost(before, after, form, plans, work / "trained")["before"]
    except RefusedError:  # then the plain network's file is the better one
        lost = math.inf
    return {**found, "after": _number(lost), "folder": request["name"] if lost < plain else ""}, made


def _rounds(before: Finish, index: int, plans: Mapping[str, Any]) -> bool:
    """Whether anything of the networks is rounded where they train as quantised. plans: by role, of one network by ""."""
    materials, found = before.materials, before.found
    use = materials.study.config.compress.quantize[index]
    quantizer: Compressor[Any] = materials.make("quantizer", use, f"compress.quantize[{index}]")
    models = {role: found.setup.models[role] for role in found.procedure.shipped()}
    return any(quantizer.apply(own, plan_of(plans.get(role) or plans[""])) is not own for role, own in models.items())


def _number(lost: float) -> float | None:
    """For facts; None where a network has no quality, as one has that answers NaN."""
    return lost if math.isfinite(lost) else None


def load_as(
    materials: Materials, request: Mapping[str, Any], folder: Path, base: Path, teachers: Mapping[str, Any]
) -> Finished:
    """The networks that were trained as quantised, as ordinary ones: their weights are what the rounding made of them.

    base: where the request's weights to start from lie.
    """
    found = load_finished(materials, started(request, base), folder, teachers)
    for role in found.procedure.shipped():
        settle(found.setup.models[role].module)
    return found


def _training(before: Finish, index: int, tools: Tools, work: Path, out: Path) -> tuple[dict[str, Any], Request]:
    """Every network that ships starts from its weights, rounded in each pass."""
    materials, found, final = before.materials, before.found, before.final
    use = materials.study.config.compress.quantize[index]
    quantizer: Compressor[Any] = materials.make("quantizer", use, f"compress.quantize[{index}]")
    roles, plans, start = found.procedure.shipped(), {}, {}
    for role in roles:
        subject = subject_of(materials, found, role, before.teachers)
        plan = planned(quantizer, subject)
        plans[role] = [*final.get("plans", {}).get(role, ()), {**asdict(plan), QUANTIZER: use.use}]
        name = "start.safetensors" if len(roles) == 1 else f"start-{role}.safetensors"
        state = quantizer.apply(subject.model, plan).module.state_dict()
        for folder in (work, out):
            write(folder / name, state)
        start[role] = str(work / name)
    request = Request(
        f"as-{bare(use.use)}", "recover", final["specs"], final["values"], use.recover_epochs,
        start=start, plans=plans, scales=before.scales, lr_factor=use.recover_lr,
    )  # fmt: skip
    outcome, _ = trained(before, request, work, out, tools, f"training as '{use.use}'")
    return {"history": outcome.history, "notes": list(outcome.notes)}, request


def _lost(before: Finish, networks: Finished, form: str, plans: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """How much worse on validation these networks' files are than the plain students in torch, and what the study allows.

    Of several that ship by themselves the one that loses most.
    """
    materials = before.materials
    config = materials.study.config
    exporter: Exporter[Any] = materials.make("exporter", config.export.exporter, "export.exporter")
    work.mkdir(parents=True, exist_ok=True)
    plain = shipped(materials, before.found.setup, before.found.procedure)
    worst: dict[str, Any] = {}
    for whole, part in zip(plain, shipped(materials, networks.setup, networks.procedure), strict=True):
        target = Target(materials, exporter, part, networks.setup, plans, [], work, work, "", judges=False)
        files, _ = written(target, form.removeprefix(f"{bare(config.export.exporter.use)}-"))
        calls = {name: opened(exporter, file, latency_threads(materials)) for name, file in files.items()}
        fp32 = _on_validation(materials, whole.predict, before.found)
        lost = goodness(fp32) - goodness(_on_validation(materials, _answering(part, calls), networks))
        if not worst or lost > worst["before"]:
            allowed = allowed_drop(config.export.max_drop.get(form), fp32)
            worst = {"before": lost, "allowed": allowed, "metric": fp32["metric"], "unit": fp32["unit"]}
    return worst


def _answering(part: Shipped, calls: Mapping[str, Any]) -> Predict:
    def predict(batch: Batch) -> Mapping[str, Any]:
        return part.product.call(calls, batch)

    return predict


def _on_validation(materials: Materials, predict: Predict, of: Finished) -> dict[str, Any]:
    name = materials.objective
    metric = materials.metrics[name]
    values = values_of(name, metric, predict, materials.data, "val", of.setup)
    return quality_of(name, metric, values, materials.seed).as_json()
