"""Judging training-free scores and search strategies on tables of known accuracies."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdsearch.errors import StudyError, UserError
from kdsearch.host import Host
from kdsearch.ops.threads import cpu_threads
from kdsearch.search.agreement import (
    best_of_top,
    kendall_tau,
    minmax_at,
    pearson,
    precision_at,
    spearman_rho,
    tau_beyond,
    tau_in_bins,
)
from kdsearch.search.scoring import Scored
from kdsearch.search.table import Entry, contradictions, read_table
from kdsearch.store.hashing import stream
from kdsearch.study.names import COMPOSITES
from kdsearch.training.tools import Progress
from kdsearch.verbs.score import scored
from kdsearch.verbs.scorers import Setting, cost_or_error, open_scorer, scoring, space_of, terms_of

USUAL = ("auto", *COMPOSITES["auto"], "diswot", "nwot", "synflow", "params", "macs", "layers")
FEWEST = 4  # networks that an agreement says anything of, with at least three different values among them
BASELINE = "params"  # what is hard to beat
ALL = "all"
TIMED = 12  # architectures that a proxy's rate is measured on, alone
SIZES = {"params": "params", "macs": "macs"}  # proxies that are a cost: every row has its own


def bench_proxies(
    setting: Setting, names: Sequence[str], table: Path, column: str, sample: int | None, workers: int, progress: bool
) -> dict[str, Any]:
    """Rank agreement of each proxy with a column of a table, on all rows or on `sample` of them drawn uniformly.

    Rows of one isomorphism class share a score and keep their own accuracy; params and MACs are the row's own network's.
    """
    entries = _drawn(read_table(space_of(setting), table, column), sample, setting.seed)
    is_asked = bool(names) and ALL not in names
    names = _names(names)
    undefined = {} if is_asked else _undefined(setting, names)
    names = tuple(name for name in names if name not in undefined)
    setting = replace(setting, proxies=terms_of(names))
    scorer = open_scorer(setting)
    specs = {each.key: each.spec for each in entries}
    asked = [spec.model_dump(mode="json") for spec in specs.values()]
    with scoring(setting, scorer, workers) as score:
        rows = {
            row.key: row
            for row in scored(names, scorer.space, asked, score, setting.reference_seed, Progress(progress))
        }
    costs = [cost_or_error(scorer, each.spec) for each in entries]
    own = {"params": [cost.params for cost in costs], "macs": [cost.macs for cost in costs]}
    values = [setting.sign * each.value for each in entries]  # higher is better
    found = []
    for name in names:
        scores = list(own[SIZES[name]]) if name in SIZES else [rows[each.key].scores[name] for each in entries]
        beyond = None if name == BASELINE else tau_beyond(scores, own[BASELINE], values, setting.seed)
        found.append(
            {
                "proxy": name,
                "kendall_tau": kendall_tau(scores, values),
                "tau_beyond_params": beyond and {"difference": beyond[0], "interval": list(beyond[1:])},
                "spearman_rho": spearman_rho(scores, values),
                "tau_in_param_bins": tau_in_bins(scores, values, own["params"]),
                "top10_best": setting.sign * best_of_top(scores, values),
                "pearson": pearson(scores, values),
                "p_at_top10pct": precision_at(scores, values, 0.1),
                "minmax_at_1pct": list(minmax_at(scores, values, 0.01)),
                "archs_per_second": _rate(setting, name, list(specs.values())),
                "nan": sum(score is None for score in scores),
            }
        )
    result = {
        "space": setting.space,
        "study": setting.study,
        "table": str(table),
        "column": column,
        "sample": len(entries),
        "classes": len(specs),
        "seed": setting.seed,
        "notes": [
            *contradictions(entries),
            *_few(entries),
            *scorer.notes.values(),
            *_reasons(names, rows),
            *(f"{each}: {why}" for each, why in undefined.items()),
        ],
        "rows": found,
    }
    return {**result, "text": _text(result)}


def _few(entries: Sequence[Entry]) -> list[str]:
    """That an agreement says nothing: of three networks a chance order is the right one in one of six."""
    n, values = len({each.key for each in entries}), len({each.value for each in entries})
    if n >= FEWEST and values >= FEWEST - 1:
        return []
    return [f"{n:,} networks with {values:,} different values: how scores rank so few is chance."]


def _undefined(setting: Setting, names: Sequence[str]) -> dict[str, str]:
    """Of all there are, those that have no meaning on these networks, and why."""
    found = {}
    for name in names:
        try:
            open_scorer(replace(setting, proxies=terms_of([name]))).check()
        except UserError as error:
            found[name] = error.problem
    return found


def _reasons(names: Sequence[str], rows: Mapping[str, Scored]) -> Iterator[str]:
    """Why networks have no score: the first one's reason of each proxy."""
    for name in names:
        terms = COMPOSITES.get(name, (name,))
        lacking = [row for row in rows.values() if row.scores[name] is None]
        if lacking:
            errors = lacking[0].errors
            why = next((errors[each] for each in (*terms, "build", *errors) if each in errors), "")
            yield f"{name}: {len(lacking):,} networks have no score, the first as: {why}"


def _names(asked: Sequence[str]) -> tuple[str, ...]:
    if not asked:
        return tuple(dict.fromkeys(USUAL))
    if ALL not in asked:
        return tuple(dict.fromkeys(asked))
    return tuple(dict.fromkeys([*USUAL, *Host.load().names("proxy")]))


def _drawn(entries: list[Entry], sample: int | None, seed: int) -> list[Entry]:
    if sample is None or sample >= len(entries):
        return entries
    if sample < 2:
        raise StudyError(f"got {sample}", path="--sample", expected="2 or more")
    chosen = torch.randperm(len(entries), generator=stream(seed, "table"))[:sample].tolist()
    return [entries[i] for i in chosen]


def _rate(setting: Setting, name: str, specs: Sequence[Any]) -> float:
    """Architectures a second that one process with one thread builds and scores with this proxy alone."""
    scorer = open_scorer(replace(setting, proxies=terms_of([name])))
    with cpu_threads(1):
        scorer.score(specs[0])
        timed = specs[: TIMED + 1][1:] or specs[:1]
        began = time.perf_counter()
        for spec in timed:
            scorer.score(spec)
        return len(timed) / (time.perf_counter() - began)


def _text(result: Mapping[str, Any]) -> str:
    head = f"{result['space']}, {result['column']}: {result['sample']:,} rows, {result['classes']:,} different networks"
    titles = f"{'proxy':16} {'tau':>7} {'rho':>7} {'in bins':>8} {'top 10':>8} {'archs/s':>8} {'nan':>5}"
    lines = [head, f"{titles}  tau beyond {BASELINE}, 95 %"]

    def cell(value: float | None, width: int) -> str:
        return f"{'-':>{width}}" if value is None else f"{value:>{width}.3f}"

    for row in result["rows"]:
        cells = [cell(row["kendall_tau"], 7), cell(row["spearman_rho"], 7), cell(row["tau_in_param_bins"], 8)]
        cells += [cell(row["top10_best"], 8), f"{row['archs_per_second']:>8.2f}", f"{row['nan']:>5}"]
        if (beyond := row["tau_beyond_params"]) is not None:
            low, high = beyond["interval"]
            cells.append(f" {beyond['difference']:+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append(" ".join([f"{row['proxy']:16}", *cells]))
    return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])])
