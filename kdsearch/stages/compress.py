"""Stage `compress`: every student that ships cut and recovered, step by step, the quantisers' plans, and training as quantised. The
test split is not seen here.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdsearch.deploy.cost import count
from kdsearch.kinds import Compressor
from kdsearch.kinds.compressor import planned
from kdsearch.stages.as_quantised import may_train, trained_as, wanted
from kdsearch.stages.costs import cost_of_model
from kdsearch.stages.products import shipped
from kdsearch.stages.recovered import RECOVER, Finish, machine_of, recovered, started
from kdsearch.stages.saved_networks import PRUNED, STUDENT, save_networks
from kdsearch.stages.subject import subject_of
from kdsearch.store.artifacts import ABOUT, Artifact
from kdsearch.training.built import structure
from kdsearch.training.finished import Finished, load_finished
from kdsearch.training.keys import TRAINING, Where
from kdsearch.training.materials import Materials, placing
from kdsearch.training.opened import open_teachers
from kdsearch.training.request import Request
from kdsearch.training.tools import Tools

NAME = "compress"
NEEDS = ("prepare", "distill")
READS = (
    *TRAINING,
    "constraints",
    "compress",
    Where(may_train, "export.exporter"),
    Where(may_train, "export.formats"),
    Where(may_train, "export.max_drop"),
)
BEFORE = ("params_before", "macs_before")


def further(materials: Materials) -> dict[str, Any]:
    """The machine, where a step goes by how fast it is."""
    return machine_of(materials, len(materials.study.config.compress.chain))


def make(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools, work: Path, out: Path) -> dict[str, Any]:
    section, distilled = materials.study.config.compress, inputs["distill"]
    run = distilled.facts["runs"][distilled.facts["winner"]]
    teachers = open_teachers(materials, inputs["prepare"])
    training = wanted(materials) if may_train(materials) else {}
    tools.progress.begin(NAME, 1 + len(section.chain) + len(section.quantize) + len(training))
    final = dict(run["request"])
    found = load_finished(materials, Request(**final), distilled.path / distilled.facts["winner"], teachers)
    facts: dict[str, Any] = {"request": final, "folder": "", "pruned": None, "recoveries": [], "quantize": {}}
    facts["as_quantised"] = {}
    facts["costs"] = costs_of_shipped(materials, found, final["specs"])
    facts["students"] = save_networks(materials, found, final, out, STUDENT)
    winner, steps = Finish(materials, found, final, run["scales"], inputs, teachers), list[dict[str, Any]]()
    for nth in range(len(section.chain)):
        made = recovered(winner, nth, tools)
        facts |= {"request": made.facts["request"], "folder": RECOVER}
        facts["recoveries"].append(made.key)
        steps.append(made.facts["step"])
        found = load_finished(materials, started(facts["request"], made.path), made.path / RECOVER, teachers)
        winner = Finish(materials, found, facts["request"], run["scales"], inputs, teachers)
        if nth == len(section.chain) - 1:
            shutil.copytree(made.path, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(ABOUT))
            facts["pruned"] = _whole(steps)
        tools.progress.at(1 + nth, f"{steps[-1]['use']}: {steps[-1]['params']:,} params")
    if section.chain:
        facts["saved"] = save_networks(materials, found, facts["request"], out, PRUNED)
    parts = shipped(materials, found.setup, found.procedure)
    for i, use in enumerate(section.quantize):
        tools.heed_stop()
        quantizer: Compressor[Any] = materials.make("quantizer", use, f"compress.quantize[{i}]")
        subjects = {each.role: subject_of(materials, found, next(iter(each.models)), teachers) for each in parts}
        with placing(materials.study, f"compress.quantize[{i}]"), materials.host.naming("quantizer", use.use):
            facts["quantize"][use.use] = {role: asdict(planned(quantizer, each)) for role, each in subjects.items()}
        tools.progress.at(tools.progress.done + 1, use.use)
    for i, form in training.items():
        tools.heed_stop()
        at, name = tools.progress.done + 1, section.quantize[i].use
        outcome, artifact = trained_as(winner, i, form, facts["quantize"], tools, work / f"as-{i}")
        if artifact is not None:
            facts["recoveries"].append(artifact.key)
        if artifact is not None and outcome["folder"]:
            shutil.copytree(artifact.path, out / f"as-{i}", ignore=shutil.ignore_patterns(ABOUT))
            outcome["base"] = f"as-{i}"
        facts["as_quantised"][name] = outcome
        tools.progress.at(at, f"{form} as quantised" if artifact is not None else form)
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


def _whole(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """All steps as one: costs before the first and after the last one."""
    first, last = steps[0], steps[-1]
    roles = {
        role: {**each, **{name: first["roles"][role][name] for name in BEFORE}} for role, each in last["roles"].items()
    }
    many = len(steps) > 1
    return {
        "params": last["params"],
        "macs": last["macs"],
        **{name: first[name] for name in BEFORE},
        "roles": roles,
        "log": [f"{each['use']}: {line}" if many else line for each in steps for line in each["log"]],
        "steps": steps,
    }
