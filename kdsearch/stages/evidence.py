"""What the page's figures draw, from every stage's facts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdsearch.report.summary import controls
from kdsearch.report.words import part
from kdsearch.stages.export import FIGURES
from kdsearch.stages.quality import file_label, measure, told
from kdsearch.stages.trial_facts import architecture, short_of
from kdsearch.stages.weightings import WEIGHTINGS
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import read_json, read_lines
from kdsearch.study.names import score_name
from kdsearch.training.materials import Materials
from kdsearch.training.teachers import asked

ALL = "every label there is"


def evidence_of(materials: Materials, inputs: Mapping[str, Artifact], result: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's figures draw."""
    distilled = inputs["distill"].facts
    trials = read_json(inputs["refine"].path / "trials.json")
    candidates = _candidates(materials, inputs, trials)
    weightings = inputs["refine"].path / WEIGHTINGS
    names = {
        distilled["winner"]: "student",
        "baseline": "without a teacher",
        "all_labels": "with every label",
        "no_search": "no search",
    }
    curves = {names.get(name, name): run["history"] for name, run in distilled["runs"].items() if run["history"]}
    trained = {run["request"]["name"] for run in distilled["runs"].values()}
    for row in distilled.get("rung", []):  # a folder of before has none
        if row["name"] not in trained:
            curves[f"finalist (trial {row['trial']})"] = row["history"]
    pruned = inputs["compress"].facts["pruned"]
    steps = pruned["steps"] if pruned else []
    for nth, step in enumerate(steps, 1):
        if step["history"]:
            curves[f"recovery {nth}: {step['use']}" if len(steps) > 1 else "recovery"] = step["history"]
    for each in inputs["compress"].facts["as_quantised"].values():
        if each["history"]:
            curves[f"as {each['format']}"] = each["history"]
    taught = inputs["prepare"].facts["teachers"]
    trained_here = [name for name, facts in taught.items() if facts.get("history")]
    teacher_curves = {
        f"teacher {name}" if len(taught) > 1 else "teacher": taught[name]["history"] for name in trained_here
    }
    return {
        "candidates": candidates,
        "trials": trials,
        "first": inputs["refine"].facts["first"],
        "weightings": len(read_json(weightings)) if weightings.exists() else 0,
        "objectives": [list(each) for each in materials.objectives.items()],  # in this order: a file sorts its keys
        "measures": {name: measure(metric) for name, metric in materials.metrics.items()},
        "scored": {"metric": materials.objective, **measure(materials.metrics[materials.objective])},
        "curves": {**curves, **teacher_curves},
        "judged_on": _judged_on(materials, result, curves, dict(zip(teacher_curves, trained_here, strict=True))),
        "ladder": _ladder(result),
        "finals": _finals(materials, trials, candidates),
        "proxy": score_name(materials.study),
        "figures": _figures(inputs, result),
    }


def _candidates(
    materials: Materials, inputs: Mapping[str, Artifact], trials: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """All that were scored, of every role; of several roles each says its own, and is kept for what it is there."""
    search, found = inputs["search"], []
    reads_facts = inputs["refine"].facts.get("reads_facts", False)  # a folder of before does not say
    roles = search.facts["roles"]
    for role, facts in roles.items():
        named = {"role": role} if len(roles) > 1 else {}
        tried = {part(trial["architecture"], named.get("role")) for trial in trials}
        short = {each["key"] for each in short_of(facts["kept"], reads_facts)}
        for row in read_lines(search.path / f"candidates-{role}.jsonl"):
            text = architecture(materials, {role: row["spec"]})
            known = {name: row[name] for name in ("key", "params", "macs", "scores", "score")}
            kept = row["key"] in short or text in tried
            found.append({**named, **known, "architecture": text, "kept": kept, "feasible": True})
    return found


def _finals(
    materials: Materials, trials: Sequence[Mapping[str, Any]], candidates: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Every short trial that ended, with its network's scores: the one that the search chose by first, then each proxy's.

    Of several students that ship their sums, as the choice has them.
    """
    name, roles = score_name(materials.study), materials.ships if len(materials.spaces) > 1 else (None,)
    known = {(each.get("role"), each["architecture"]): {name: each["score"], **each["scores"]} for each in candidates}
    about = {"metric": materials.objective, **measure(materials.metrics[materials.objective])}
    return [
        {
            "architecture": trial["architecture"],
            "scores": _sums([known.get((role, part(trial["architecture"], role)), {}) for role in roles]),
            "params": trial["params"],
            "macs": trial["macs"],
            "quality": {**about, "value": trial["objectives"].get(materials.objective)},
        }
        for trial in trials
        if trial["state"] == "complete"
    ]


def _sums(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Of each name that the first row has; None where one has no number."""
    known = {name: [each for row in rows if (each := row.get(name)) is not None] for name in rows[0]}
    return {name: math.fsum(each) if len(each) == len(rows) else None for name, each in known.items()}


def _judged_on(
    materials: Materials, result: Mapping[str, Any], curves: Iterable[str], taught: Mapping[str, str]
) -> dict[str, str]:
    """Curve -> what its validation figures are of, where labels are hidden and a teacher's class stands in for them.

    taught: curve -> teacher. Nothing stands in where a network is trained without a teacher.
    """
    if "validation" not in result["data"]:
        return {}
    val = result["data"]["counts"]["val"]
    n = sum(val.values())
    known = f"{n - val['unlabeled']:,} labelled samples"
    found = dict.fromkeys(curves, f"{n:,} samples, the teacher's class where a label is hidden")
    for name, words in (("without a teacher", known), ("with every label", ALL)):
        found |= {name: words} if name in found else {}
    return found | {curve: ALL if asked(materials, name).labels == "all" else known for curve, name in taught.items()}


def _figures(inputs: Mapping[str, Artifact], result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The task's figures of the recommended file."""
    best = result["recommended"] and next(
        file_label(row) for row in result["exports"] if row["path"] == result["recommended"]["path"]
    )
    found: list[dict[str, Any]] = read_json(inputs["export"].path / FIGURES).get(best, [])
    return found


def _ladder(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every rung; `weights`: it has no file, its bytes are of the weights in fp32. `control`: trained to compare with."""

    def rung(name: str, row: Mapping[str, Any], **rest: Any) -> dict[str, Any]:
        known = {"name": name, **told(row["quality"])}
        return {**known, **dict.fromkeys(("bytes", "params", "macs", "latency_ms")), **rest}

    rows = []
    teacher = result["teacher"] or {}
    taught = {f"teacher {name}": each for name, each in teacher.get("all", {}).items()} or {"teacher": teacher}
    for name, row in taught.items() if teacher else ():
        params, taken = row["params"], (row["latency_ms"] or {}).get("median")
        cost = {"params": params, "macs": row["macs"], "bytes": params and 4 * params}
        rows.append(rung(name, row, **cost, weights=True, latency_ms=taken))
    for name in ("student", "pruned"):
        if whole := result[name]:
            each = {f"{role} {name}": row for role, row in whole.get("roles", {}).items()} or {name: whole}
            rows += [
                rung(title, row, params=row["params"], macs=row["macs"], bytes=4 * row["params"], weights=True)
                for title, row in each.items()
            ]
    student, trained = result["student"], controls(result)
    for key, name in (("baseline", "without a teacher"), ("all_labels", "with every label")):
        if row := trained.get(key):
            rows.append(rung(name, row, params=student["params"], macs=student["macs"], control=True))
    if other := trained.get("no_search"):
        rows.append(rung("no search", other, params=other["params"], macs=other["macs"], control=True))
    for row in result["exports"]:
        rows.append(rung(file_label(row), row, bytes=row["bytes"], latency_ms=row["latency_ms"]["median"]))
    return rows
