"""What the loggers of `run.log` are told: trials, full-length trainings, and what the study came to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdsearch.kinds import Run
from kdsearch.report.words import architecture as words_of
from kdsearch.search.schedule import epochs_at
from kdsearch.stages.trial_facts import architecture, curve_of
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import read_json
from kdsearch.training.materials import Materials
from kdsearch.training.tools import Tools

KEY = 12  # characters of an artifact's key


def run_of_trial(
    materials: Materials, row: Mapping[str, Any], key: str, epochs: int, history: Sequence[Mapping[str, Any]] = ()
) -> Run:
    """A trial by its row in the report.

    Args:
        key: of its trials. history: epoch by epoch; where it is not at hand, the curve has the rungs alone.
    """
    sign = -1 if materials.objectives.get(materials.objective) == "max" else 1
    looks = curve_of(materials, row, materials.objective)
    rungs = [(epochs_at(share, epochs), sign * loss) for share, loss in looks if math.isfinite(loss)]
    costs = {
        name: row[name] for name in ("params", "macs", "bytes", "latency_ms", "peak_bytes") if row[name] is not None
    }
    texts = {"architecture": words_of(row["architecture"]), "error": row["error"]}
    return Run(
        f"{key.replace(' ', '-')}/trial-{row['number']}",
        f"trial {row['number']}",
        row["state"],
        _params(materials, row["values"]),
        curves_of(history, materials.objective) or {materials.objective: rungs},
        _finite({**costs, **row["objectives"]}),
        {name: text for name, text in texts.items() if text},
    )


def curves_of(history: Sequence[Mapping[str, Any]], objective: str) -> dict[str, list[tuple[int, float]]]:
    """Loss, each term of it and the validation score, by epoch."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in history:
        told = {"loss": row.get("loss"), objective: row.get("score")}
        told |= {f"terms/{name}": value for name, value in row.get("terms", {}).items()}
        for name, value in _finite(told).items():
            found.setdefault(name, []).append((row["epoch"], value))
    return found


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are finite numbers."""
    return {name: float(each) for name, each in values.items() if isinstance(each, int | float) and math.isfinite(each)}


def _params(materials: Materials, values: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    labels = materials.recipe.labels
    return {
        labels.get(path, path): value if isinstance(value, bool | int | float | str) else str(value)
        for path, value in values.items()
    }


def mirror(stage: str, materials: Materials, artifact: Artifact, tools: Tools) -> None:
    """Tell of a stage's trainings what its artifact has, to loggers that do not know them."""
    if not tools.logs:
        return
    if stage == "refine":
        epochs = materials.study.config.refine.epochs
        for row in read_json(artifact.path / "trials.json"):
            tools.logs.put(run_of_trial(materials, row, artifact.facts["log"], epochs), is_new=False)
    elif stage == "distill":
        for name, facts in artifact.facts["runs"].items():
            tools.logs.put(
                _run_of_training(materials, f"distill-{artifact.key[:KEY]}/{name}", name, facts), is_new=False
            )


def _run_of_training(materials: Materials, id: str, name: str, facts: Mapping[str, Any]) -> Run:
    request = facts["request"]
    texts = {"architecture": words_of(architecture(materials, request["specs"])), "error": facts["error"]}
    return Run(
        id,
        name,
        "failed" if facts["error"] else "complete",
        {"epochs": request["epochs"], **_params(materials, request["values"])},
        curves_of(facts["history"], materials.objective),
        _finite({materials.objective: facts["score"]}),
        {name: text for name, text in texts.items() if text},
    )


def mirror_result(result: Mapping[str, Any], key: str, folder: Path, tools: Tools) -> None:
    """Tell what the study came to on the test split, and where its files are."""
    if not tools.logs:
        return
    values: dict[str, Any] = {}
    files = {"report": folder / "report" / "index.html", "result": folder / "result.json"}
    for row in result["exports"]:
        form, quality = row["format"], row["quality"]
        values |= {f"{form}/{quality['metric']}": quality["value"], f"{form}/bytes": row["bytes"]}
        values[f"{form}/latency_ms"] = (row["latency_ms"] or {}).get("median")
        files |= {Path(path).name: folder / path for path in row["paths"]}
    texts = {"notes": "\n".join(result["notes"])} if result["notes"] else {}
    name = f"result {key[:KEY]}"
    tools.logs.put(Run(f"result-{key[:KEY]}", name, "complete", {}, {}, _finite(values), texts, files), is_new=False)
