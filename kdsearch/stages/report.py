"""Stage `report`: the final JSON from every stage's facts, the page, and a card beside each exported file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdsearch.deploy.latency import SLOWER, is_slower
from kdsearch.host.host import Section
from kdsearch.report.page import render
from kdsearch.report.summary import file_costs, shipped_with
from kdsearch.report.values import milliseconds
from kdsearch.stages.cards import write_cards, write_predict
from kdsearch.stages.costs import cost_of_model, costs_at, violations
from kdsearch.stages.evidence import evidence_of
from kdsearch.stages.notes import control_of, notes_of, warnings_of
from kdsearch.stages.quality import file_label, goodness, measure, shown, told, tolerance
from kdsearch.stages.samples import read_samples
from kdsearch.stages.trial_facts import architecture
from kdsearch.stages.versions import versions
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import read_json, write_bytes, write_json
from kdsearch.training.keys import TRAINING
from kdsearch.training.materials import Materials
from kdsearch.training.normalize import is_classification
from kdsearch.training.tools import Tools
from kdsearch.version import VERSION

NAME = "report"
CARDS = "cards"  # folder in the artifact
COUNTS = ("params", "macs", "params_before", "macs_before")
SCORES = {"before": "score_before", "cut": "score_cut", "recovered": "score"}  # of a step of compression
NEEDS = ("prepare", "search", "refine", "distill", "compress", "export")
READS = (
    *(*TRAINING, "name", "constraints", "metrics"),
    *("search.proxy", "distill.controls", "distill.pick", "export.min_agreement"),
)


def make(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools, work: Path, out: Path) -> dict[str, Any]:
    tools.progress.begin(NAME, 1)
    result = result_of(materials, inputs)
    evidence = evidence_of(materials, inputs, result)
    sections = [(each.title, each.html) for each in sections_of(materials, inputs, result)]
    result["notes"] = [*result["notes"], *materials.host.told()]
    last = tools.folder / "last.json"
    spent = read_json(last) if last.exists() else {}
    seconds = {name: each["seconds"] for name, each in spent.items() if name in inputs}
    write_bytes(
        out / "index.html",
        render({**result, "dir": tools.folder.name, "seconds": seconds}, evidence, sections).encode(),
    )
    write_json(out / "evidence.json", evidence)
    write_cards(materials, inputs, result, out / CARDS)
    write_predict(materials, result, out / CARDS)
    return {"result": result}


def sections_of(materials: Materials, inputs: Mapping[str, Artifact], result: Mapping[str, Any]) -> list[Section]:
    """Of plugins, from the result and from what student and teachers answer to some samples."""
    return materials.host.report_sections(result, lambda: read_samples(materials, inputs["export"].path))


def result_of(materials: Materials, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """The final JSON, but for the seconds and the folder, which are the run's."""
    study, exported, distilled = materials.study, inputs["export"].facts, inputs["distill"].facts
    winner = distilled["runs"][distilled["winner"]]
    request = winner["request"]
    recipe = materials.recipe.at(request["values"])
    costs = inputs["compress"].facts["costs"]
    exports = [{**row, "over": _over(materials, row, exported["exports"])} for row in exported["exports"]]
    return {
        "study": study.config.name,
        "seed": study.config.seed,
        "teacher": _teacher(materials, inputs, exported),
        "student": {
            "architecture": architecture(materials, request["specs"]),
            **{name: sum(each[name] for each in costs.values()) for name in ("params", "macs")},
            **told(exported["qualities"]["runs"][distilled["winner"]]),
            "recipe": recipe.as_json(),
            "paths": _folders(inputs, "students"),
            **({"classes": exported["classes"]} if exported["classes"] else {}),
            **_roles(materials, inputs, request["specs"]),
        },
        "baseline": control_of(exported, "baseline"),
        "all_labels": _all_labels(materials, exported),
        "no_search": _no_search(materials, inputs),
        "exports": exports,
        "recommended": _recommended(exports),
        "refused": exported["refused"],
        "metrics": {role: each["metrics"] for role, each in exported["shipped_roles"].items()} or exported["shipped"],
        "measures": {name: measure(metric) for name, metric in materials.reported.items()},
        "costs_at": costs_at(materials),
        "report": "report/index.html",
        "warnings": warnings_of(materials, inputs),
        "notes": notes_of(materials, inputs, exports),
        "data": _data(materials, inputs),
        "compare": _compare(materials, inputs),
        "pruned": _pruned(materials, inputs),
        "as_quantised": _as_quantised(inputs),
        "constraints": study.config.constraints.model_dump(mode="json", exclude_none=True),
        "provenance": provenance(materials),
    }


def _teacher(
    materials: Materials, inputs: Mapping[str, Artifact], exported: Mapping[str, Any]
) -> dict[str, Any] | None:
    prepared = inputs["prepare"].facts["teachers"]
    found = {
        name: {
            "params": facts["params"],
            "macs": facts["macs"],
            **told(exported["qualities"]["teachers"].get(name)),
            **(exported["teacher_latency"].get(name) or {"latency_ms": None, "latency_in": None}),
            "network": facts.get("network"),
            "architecture": facts.get("architecture"),
            "facts": facts["facts"],
            "normalize": facts.get("normalize"),
        }
        for name, facts in ((name, prepared[name]) for name in materials.study.teachers)
    }
    if not found:
        return None
    main: dict[str, Any] = next(iter(found.values()))
    return main if len(found) == 1 else {**main, "all": found}


def _roles(materials: Materials, inputs: Mapping[str, Artifact], specs: Mapping[str, Any]) -> dict[str, Any]:
    """Of several students that ship by themselves, each."""
    exported = inputs["export"].facts
    found = {
        role: {
            "architecture": architecture(materials, {role: specs[role]}),
            **inputs["compress"].facts["costs"][role],
            **told(quality),
        }
        for role, quality in exported["qualities"]["roles"].items()
    }
    return {"roles": found} if found else {}


def _all_labels(materials: Materials, exported: Mapping[str, Any]) -> dict[str, Any] | None:
    """The control with every label; where it was not trained since the baseline saw every label, that one, which it says."""
    is_asked = "all_labels" in materials.study.config.distill.controls
    if is_asked and "all_labels" not in exported["metrics"]["runs"] and not materials.given.hides_targets:
        twin = control_of(exported, "baseline")
        return twin and {**twin, "same_as": "baseline"}
    return control_of(exported, "all_labels")


def _no_search(materials: Materials, inputs: Mapping[str, Artifact]) -> dict[str, Any] | None:
    """The largest feasible candidate, which has the student's whole budget of epochs and not its search."""
    known = control_of(inputs["export"].facts, "no_search")
    if known is None:
        return None
    request = inputs["distill"].facts["runs"]["no_search"]["request"]
    about = {"architecture": architecture(materials, request["specs"]), **_student_cost(materials, request["specs"])}
    return {**about, **known, "epochs": request["epochs"]}


def _student_cost(materials: Materials, specs: Mapping[str, Any]) -> dict[str, int]:
    """Of the roles that ship, of those in `specs`."""
    total = {"params": 0, "macs": 0}
    for role in materials.ships:
        if role not in specs:
            continue
        cost = cost_of_model(materials.build_student(role, specs[role], 0), materials)
        total = {"params": total["params"] + cost.params, "macs": total["macs"] + cost.macs}
    return total


def _over(materials: Materials, row: Mapping[str, Any], exports: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Constraint of the study that a file breaks -> (value - limit) / limit, of its bytes, median latency and memory.

    Of several students with what ships beside it: limits are of all of them together.
    """
    costs = file_costs(shipped_with(exports, row["format"]))
    known = {name: value for name, value in costs.items() if value is not None}
    return {name: value for name, value in violations(materials, known).items() if value > 0}


def _recommended(exports: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Of every file, and where several students ship by themselves, also of each one's: `roles`."""
    found = _best(exports)
    names = dict.fromkeys(row["role"] for row in exports if "role" in row)
    roles = {role: _best([row for row in exports if row["role"] == role]) for role in names}
    return found and {**found, **({"roles": roles} if roles else {})}


def _best(exports: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Of the files that keep the study's limits (else of all): the fastest in a plain session; among those that are not slower
    the best on validation; among equally good ones the smallest. The test split has no say."""
    kept = [row for row in exports if not row["over"]] or exports
    that = " that keeps the study's limits" if len(kept) < len(exports) else ""
    exports = kept
    if not exports:
        return None
    fastest = min((row["latency_ms"] for row in exports), key=lambda each: float(each["median"]))
    fast = [row for row in exports if not is_slower(row["latency_ms"], fastest)]
    top = max((row["validation"] for row in fast), key=goodness)
    good = [row for row in fast if goodness(row["validation"]) >= goodness(top) - tolerance(top)]
    best = min(good, key=lambda row: row["bytes"])
    place = f"the fastest{that}" if len(fast) == 1 else f"no other file{that} is clearly faster"
    why = f"{_about(best)}: {place if len(exports) > 1 else f'the only file{that}'}"
    if best["latency_ms"]["median"] > SLOWER * fastest["median"]:
        why += f" ({milliseconds(fastest['median'])} ms of another one is within what its sessions differ by)"
    if len(good) < len(fast):
        why += ", and the equally fast ones are worse on validation"
    elif len(good) > 1:
        why += ", and it is the smallest of those that are equally fast and equally good on validation"
    smallest = min(exports, key=lambda row: row["bytes"])
    if smallest is not best:
        why += f"; where size decides: {file_label(smallest)}, {_about(smallest)}"
    role = {"role": best["role"]} if "role" in best else {}
    return {"format": best["format"], **role, "path": best["path"], "why": why}


def _about(row: Mapping[str, Any]) -> str:
    return f"{shown(row['quality'], name=True)}, {milliseconds(row['latency_ms']['median'])} ms, {row['bytes']:,} bytes"


def _data(materials: Materials, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    described = inputs["prepare"].facts["data"]
    counts = described["counts"]
    train = counts.get("train", {})
    unlabeled = int(train.get("unlabeled", 0))
    labeled = sum(int(n) for name, n in train.items() if name != "unlabeled")
    facts = described["facts"]
    return {
        "classes": described["classes"],
        "counts": counts,
        "labeled": labeled,
        "unlabeled": unlabeled,
        "source": facts.get("source", materials.study.config.data.use),
        "recipes": inputs["prepare"].facts["recipes"],
        **_selected_by(materials, inputs, counts.get("val", {})),
    }


def _selected_by(materials: Materials, inputs: Mapping[str, Artifact], val: Mapping[str, int]) -> dict[str, str]:
    """What validation figures are of, where a teacher's class stands in for labels that are hidden (`builtin/metrics.py`)."""
    hidden = val.get("unlabeled", 0)
    if not hidden or not inputs["export"].facts["qualities"]["teachers"] or not is_classification(materials):
        return {}
    return {
        "validation": f"{hidden:,} of {sum(val.values()):,} labels are hidden; there the teacher's class counts as right"
    }


def _compare(materials: Materials, inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    runs = inputs["distill"].facts["runs"]
    qualities = inputs["export"].facts["qualities"]["runs"]
    rows = []
    names = [name for name in runs if name.startswith("compare-")]
    for name in sorted(names, key=lambda each: ("winner" not in each, "largest" not in each, len(each), each)):
        if name in qualities:
            specs = runs[name]["request"]["specs"]
            cost = _student_cost(materials, specs)
            rows.append(
                {
                    "name": name.removeprefix("compare-"),
                    "architecture": architecture(materials, specs),
                    **cost,
                    **told(qualities[name]),
                }
            )
    return rows


def _pruned(materials: Materials, inputs: Mapping[str, Artifact]) -> dict[str, Any] | None:
    facts = inputs["compress"].facts["pruned"]
    if facts is None:
        return None
    exported = inputs["export"].facts
    roles = {
        role: {**{name: each[name] for name in COUNTS}, **told(exported["shipped_roles"][role]["quality"])}
        for role, each in facts["roles"].items()
        if role in exported["shipped_roles"]
    }
    return {
        **{name: facts[name] for name in (*COUNTS, "log")},
        "steps": [_pruned_by(materials, step, role) for step in facts["steps"] for role in step["roles"]],
        "paths": _folders(inputs, "saved"),
        **told(exported["shipped_quality"]),
        **({"roles": roles} if roles else {}),
    }


def _folders(inputs: Mapping[str, Artifact], fact: str) -> list[str]:
    """What `load_model` reads of the networks that `compress` saved; none in a folder of before."""
    return [each["path"] for each in inputs["compress"].facts.get(fact, {}).values() if each["path"]]


def _as_quantised(inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Formats that the study lets train: how much worse on validation their files are, without and with it."""
    return [
        {
            **{name: each.get(name) for name in ("format", "epochs", "metric", "unit", "allowed", "before", "after")},
            "used": bool(each["folder"]),
        }
        for each in inputs["compress"].facts["as_quantised"].values()
    ]


def _pruned_by(materials: Materials, step: Mapping[str, Any], role: str) -> dict[str, Any]:
    """One step of compression: costs, and the objective on validation before it, right after it, and recovered."""
    each, sign = step["roles"][role], 1 if materials.metrics[materials.objective].direction == "max" else -1
    return {
        "kind": step["kind"],
        "use": step["use"],
        "role": role,
        **{name: each[name] for name in (*COUNTS, "zeros")},
        "validation": {name: sign * each[key] for name, key in SCORES.items()},
    }


def made_with() -> dict[str, Any]:
    """What makes and runs files: versions, and the machine."""
    from kdsearch.deploy.latency import machine

    return {"kdsearch": VERSION, **versions(), "machine": machine()}


def provenance(materials: Materials) -> dict[str, Any]:
    """Versions, hardware and plugins: what the same result needs again."""
    study = materials.study
    return {
        **made_with(),
        "device": materials.device.accelerator,
        "devices": study.config.run.devices,
        "threads_per_trial": study.config.run.threads_per_trial,
        "plugins": {f"{plugin.distribution}:{plugin.name}": plugin.version for plugin in materials.host.plugins},
        "data": materials.data_key(),
        "allow_code": list(study.allow_code),
    }
