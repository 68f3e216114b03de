"""A study's trials, candidates and files as flat rows, for a notebook's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.errors import UserError
from kdsearch.report.quality import quality_of
from kdsearch.report.summary import is_recommended
from kdsearch.report.trials import IN_ROW, goals, reached
from kdsearch.report.values import flat, mapping, rows
from kdsearch.report.words import architecture

Row = Mapping[str, Any]


def trial_rows(evidence: Row) -> list[dict[str, Any]]:
    """One row a trial: number, state, objectives by name (of a stopped one what it had reached) and,
    of several, the hypervolume after it, costs, architecture, values."""
    trials = rows(evidence.get("trials"))
    wanted = goals(evidence, trials)
    named = [IN_ROW.get(goal.metric, goal.metric) for goal in wanted]
    costs = [name for name in ("params", "macs", "bytes", "latency_ms", "peak_bytes") if name not in named]
    return [
        {
            "number": trial.get("number"),
            "state": trial.get("state"),
            **{goal.metric: reached(trial, goal.metric, goal.up) for goal in wanted},
            **({"hypervolume": trial.get("hypervolume")} if len(wanted) > 1 else {}),
            "feasible": trial.get("feasible"),
            **{name: trial.get(name) for name in costs},
            "architecture": architecture(trial.get("architecture")),
            **dict(flat(trial.get("values"))),
            "error": trial.get("error") or None,
        }
        for trial in trials
    ]


def candidate_rows(evidence: Row) -> list[dict[str, Any]]:
    """One row a candidate that was scored without training, the best first; of several students each with its role."""
    found = [
        {
            **({"role": each["role"]} if each.get("role") else {}),
            "architecture": architecture(each.get("architecture") or each.get("key")),
            **{name: each.get(name) for name in ("params", "macs", "score", "kept", "feasible")},
            **{f"score.{name}": value for name, value in mapping(each.get("scores")).items()},
        }
        for each in rows(evidence.get("candidates"))
    ]
    return sorted(found, key=lambda row: -(row["score"] if row["score"] is not None else float("-inf")))


def export_rows(result: Row) -> list[dict[str, Any]]:
    """One row a file: the objective with its interval, bytes, latency, parity."""
    found = []
    for each in rows(result.get("exports")):
        quality = quality_of(each)
        low, high = quality.interval or (None, None)
        latency, tuned = mapping(each.get("latency_ms")), mapping(each.get("latency_tuned_ms"))
        found.append(
            {
                **({"role": each["role"]} if each.get("role") else {}),
                "format": each.get("format"),
                quality.metric: quality.value,
                f"{quality.metric} low": low,
                f"{quality.metric} high": high,
                "bytes": each.get("bytes"),
                "peak_bytes": each.get("peak_bytes"),
                "latency_ms": latency.get("median"),
                "latency_tuned_ms": tuned.get("median"),
                "top1_agreement": each.get("top1_agreement"),
                "parity_max_abs": each.get("parity_max_abs"),
                "slower_than_fp32": each.get("slower_than_fp32"),
                "recommended": is_recommended(result, each),
                "path": each.get("path"),
            }
        )
    return found


def frame(found: Sequence[Row]) -> Any:
    """A pandas DataFrame. Raise UserError where pandas is not installed."""
    try:
        import pandas
    except ImportError as error:
        fix = "Run: pip install 'kdsearch[notebook]'. The plain rows are in `result.evidence` and `result['exports']`."
        raise UserError("pandas is not installed", fix=fix) from error
    return pandas.DataFrame(list(found))
