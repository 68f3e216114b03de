"""What the page's figures draw, from every stage's facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdsearch.stages.export import FIGURES
from kdsearch.stages.quality import file_label, measure, told
from kdsearch.stages.trial_facts import architecture, short_of
from kdsearch.stages.weightings import WEIGHTINGS
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import read_json, read_lines
from kdsearch.training.materials import Materials


def evidence_of(materials: Materials, inputs: Mapping[str, Artifact], result: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's figures draw."""
    search, distilled = inputs["search"], inputs["distill"].facts
    trials = read_json(inputs["refine"].path / "trials.json")
    tried = {key for trial in trials for key in trial["keys"]}
    reads_facts = inputs["refine"].facts.get("reads_facts", False)  # a folder of before does not say
    candidates, scores = [], {}
    for role, facts in search.facts["roles"].items():
        kept = tried | {each["key"] for each in short_of(facts["kept"], reads_facts)}
        for row in read_lines(search.path / f"candidates-{role}.jsonl"):
            scores[row["key"]] = row["scores"]
            candidates.append(
                {
                    "key": row["key"],
                    "architecture": architecture(materials, {role: row["spec"]}),
                    "params": row["params"],
                    "macs": row["macs"],
                    "scores": row["scores"],
                    "score": row["score"],
                    "kept": row["key"] in kept,
                    "feasible": True,
                }
            )
    weightings = inputs["refine"].path / WEIGHTINGS
    finals = [
        {
            "architecture": trial["architecture"],
            "scores": scores.get(" + ".join(trial["keys"]), {}),
            "params": trial["params"],
            "quality": {
                "metric": materials.objective,
                "value": trial["objectives"].get(materials.objective),
                "direction": materials.metrics[materials.objective].direction,
                "unit": materials.metrics[materials.objective].unit,
                "title": materials.metrics[materials.objective].title,
            },
        }
        for trial in trials
        if trial["state"] == "complete"
    ]
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
    teacher_curves = {
        f"teacher {name}" if len(taught) > 1 else "teacher": facts["history"]
        for name, facts in taught.items()
        if facts.get("history")
    }
    return {
        "candidates": candidates,
        "trials": trials,
        "first": inputs["refine"].facts["first"],
        "weightings": len(read_json(weightings)) if weightings.exists() else 0,
        "objectives": [
            [name, way] for name, way in materials.objectives.items()
        ],  # in this order: a file sorts its keys
        "measures": {name: measure(metric) for name, metric in materials.metrics.items()},
        "scored": {"metric": materials.objective, **measure(materials.metrics[materials.objective])},
        "curves": {**curves, **teacher_curves},
        "ladder": _ladder(result),
        "finals": finals,
        "figures": _figures(inputs, result),
    }


def _figures(inputs: Mapping[str, Artifact], result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The task's figures of the recommended file."""
    best = result["recommended"] and next(
        file_label(row) for row in result["exports"] if row["path"] == result["recommended"]["path"]
    )
    found: list[dict[str, Any]] = read_json(inputs["export"].path / FIGURES).get(best, [])
    return found


def _ladder(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    def rung(name: str, row: Mapping[str, Any], **rest: Any) -> dict[str, Any]:
        known = {"name": name, **told(row["quality"])}
        return {**known, **dict.fromkeys(("bytes", "params", "macs", "latency_ms")), **rest}

    rows = []
    teacher = result["teacher"] or {}
    taught = {f"teacher {name}": each for name, each in teacher.get("all", {}).items()} or {"teacher": teacher}
    for name, row in taught.items() if teacher else ():
        params, taken = row["params"], (row["latency_ms"] or {}).get("median")
        rows.append(rung(name, row, params=params, macs=row["macs"], bytes=params and 4 * params, latency_ms=taken))
    for name in ("student", "pruned"):
        if whole := result[name]:
            each = {f"{role} {name}": row for role, row in whole.get("roles", {}).items()} or {name: whole}
            rows += [
                rung(title, row, params=row["params"], macs=row["macs"], bytes=4 * row["params"])
                for title, row in each.items()
            ]
    student = result["student"]
    for key, name in (("baseline", "without a teacher"), ("all_labels", "with every label")):
        if result[key]:
            rows.append(rung(name, result[key], params=student["params"], macs=student["macs"], control=True))
    if other := result["no_search"]:
        rows.append(rung("no search", other, params=other["params"], macs=other["macs"], control=True))
    for row in result["exports"]:
        rows.append(rung(file_label(row), row, bytes=row["bytes"], latency_ms=row["latency_ms"]["median"]))
    return rows
