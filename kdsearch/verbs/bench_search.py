"""Judging search strategies on a table: the best accuracy after so many looked-up trainings, beside the trivial choice.

The row `kdsearch` does what a study does that searches by `auto`: it scores as many candidates, hands all of them on to the same
controller, and asks for a trial with as few others known as a study that keeps several workers busy. The number of candidates, the
controller, `first` and `generation` are the given study's, or the defaults; limits and `keep` of a study say nothing here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from kdsearch.errors import DataError, KdsearchError, StudyError, UserError, nearest, one_of
from kdsearch.host import Host
from kdsearch.kinds import Ask, Dim, Job, Range, SearchSpace
from kdsearch.ops.threads import cpu_threads
from kdsearch.search.schedule import Schedule
from kdsearch.search.scoring import Scored, Scorer
from kdsearch.search.simulate import curve_in_order, curve_of, patience_of
from kdsearch.search.table import class_means, contradictions, read_table
from kdsearch.stages.refine import next_ask
from kdsearch.stages.search import MOST
from kdsearch.stages.starts import Start, early
from kdsearch.stages.trial_facts import facts_of
from kdsearch.store.hashing import derive, stream
from kdsearch.study.schema import Refine, Use
from kdsearch.training.materials import make
from kdsearch.training.tools import Progress
from kdsearch.verbs.score import scored
from kdsearch.verbs.scorers import Setting, cost_or_error, open_scorer, processes, scoring, sections_of, terms_of

OWN = "kdsearch"
TRIVIAL = "params_top_k"
OTHERS: Mapping[str, Use] = {
    "random": Use(use="random", options={}),
    "evolution": Use(use="evolution", options={}),
    "tpe": Use(use="optuna", options={"sampler": "tpe"}),
    "nsga2": Use(use="optuna", options={"sampler": "nsga2"}),
}
STRATEGIES = (OWN, *OTHERS, TRIVIAL)


@dataclass(frozen=True)
class Lookup:
    """What all strategies search. values: canonical key -> mean of its class, higher is better; params: of the architecture.

    notes: what there is to say of the table.
    """

    space: SearchSpace[Any]
    specs: Mapping[str, Any]
    values: Mapping[str, float]
    params: Mapping[str, int]
    notes: Sequence[str]


@dataclass(frozen=True)
class Judged:
    """What strategies are judged by: a table's column, and of its architectures those of `max_params` of the largest one's."""

    setting: Setting
    table: Path
    column: str
    max_params: float


@dataclass(frozen=True)
class Search:
    """One search by a strategy. rows: for `kdsearch` what is scored, in random order."""

    name: str
    seed: int
    budget: int
    rows: Sequence[Scored] = ()


def bench_search(
    setting: Setting,
    table: Path,
    column: str,
    budgets: Sequence[int],
    repeats: int,
    strategies: Sequence[str],
    candidates: int | None,
    max_params: float,
    workers: int,
    progress: bool,
) -> dict[str, Any]:
    """Mean and spread over repeats of the best accuracy after each budget.

    Args:
        candidates: how many architectures `kdsearch` scores before it trains any, drawn anew in each repeat;
            None = as many as a study does by default.
        max_params: share of the largest architecture's parameters that all strategies keep to.
    """
    names, candidates = _names(strategies), candidates or sections_of(setting)[0].candidates
    judged = Judged(replace(setting, proxies=terms_of(["auto", "params", "macs"])), table, column, max_params)
    scorer = open_scorer(judged.setting)
    lookup = _lookup(judged, scorer)
    budgets, notes = _budgets(budgets, len(lookup.specs))
    bar = Progress(progress)
    own: dict[str, Scored] = {}
    seeds = [derive(setting.seed, "bench", repeat) % 2**31 for repeat in range(repeats)]
    drawn = {seed: _shuffled(lookup, seed, lambda key: 0)[:candidates] for seed in seeds if OWN in names}
    if drawn:
        keys = dict.fromkeys(key for each in drawn.values() for key in each)
        asked = [lookup.specs[key].model_dump(mode="json") for key in keys]
        with scoring(judged.setting, scorer, workers) as score:
            found = scored(["auto", *scorer.proxies], scorer.space, asked, score, setting.reference_seed, bar)
        own = {row.key: row for row in found}
    searches = [
        Search(name, seed, max(budgets), [own[key] for key in drawn[seed]] if name == OWN else ())
        for seed in seeds
        for name in names
    ]
    curves: dict[str, list[list[float]]] = {name: [] for name in names}
    bar.begin("search", len(searches))
    for search, curve in zip(searches, _curves(judged, lookup, searches, workers), strict=True):
        curves[search.name].append(curve)
        bar.at(sum(map(len, curves.values())), note=search.name)
    bar.end()
    optimum = max(lookup.values.values())
    rows = [
        {"strategy": name, "budget": budget, **_after(curves[name], budget, optimum, setting.sign)}
        for name in names
        for budget in budgets
    ]
    result = {
        "space": setting.space,
        "study": setting.study,
        "table": str(table),
        "column": column,
        "classes": len(lookup.specs),
        "candidates": min(candidates, len(lookup.specs)),
        "max_params": max_params,
        "repeats": repeats,
        "seed": setting.seed,
        "optimum": setting.sign * optimum,
        "notes": [*lookup.notes, *notes],
        "rows": rows,
    }
    return {**result, "text": _text(result)}


def _names(asked: Sequence[str]) -> tuple[str, ...]:
    for name in asked:
        if name not in STRATEGIES:
            raise StudyError(
                f"unknown strategy '{name}'",
                path="--strategies",
                nearest=nearest(name, STRATEGIES),
                expected=one_of(STRATEGIES),
            )
    return tuple(dict.fromkeys(asked)) or STRATEGIES


def _budgets(asked: Sequence[int], n: int) -> tuple[list[int], list[str]]:
    """In their order, those beyond the table's n networks as n; and what there is to say of that."""
    beyond = [str(each) for each in sorted(set(asked)) if each > n]
    kept = sorted({min(each, n) for each in asked})
    return kept, [f"The table has {n:,} networks: {n:,} trainings in place of {', '.join(beyond)}."] if beyond else []


def _lookup(judged: Judged, scorer: Scorer) -> Lookup:
    max_params = judged.max_params
    entries = read_table(scorer.space, judged.table, judged.column)
    means = class_means(entries)
    specs = {each.key: scorer.space.canonical(each.spec) for each in entries}
    params = {key: cost_or_error(scorer, spec).params for key, spec in specs.items()}
    most = max_params * max(params.values())
    kept = [key for key in specs if params[key] <= most]
    if len(specs) < 2:
        raise DataError("all rows are one network", file=judged.table, expected="at least two that are not isomorphic")
    if max_params > 1 or len(kept) < 2:
        least = sorted(params.values())[1] / max(params.values())
        raise StudyError(f"got {max_params:g}", path="--max-params", expected=f"a share from {least:.3g} to 1")
    return Lookup(
        scorer.space,
        {k: specs[k] for k in kept},
        {k: judged.setting.sign * means[k] for k in kept},
        {k: params[k] for k in kept},
        contradictions(entries),
    )


def _curves(judged: Judged, lookup: Lookup, searches: Sequence[Search], workers: int) -> Iterator[list[float]]:
    """The curve of each search, in their order: here with one worker, else in so many local processes of one thread each."""
    if workers == 1:
        refined = sections_of(judged.setting)[1]
        with cpu_threads(1):
            yield from (_curve(lookup, refined, each) for each in searches)
        return
    said = {**asdict(judged), "table": str(judged.table.resolve())}
    with processes(workers) as executor:
        for i, each in enumerate(searches):
            executor.submit(Job(str(i), f"{__name__}:curve_job", {"judged": said, "search": asdict(each)}))
        ended: dict[int, list[float]] = {}
        for i in range(len(searches)):
            while i not in ended:
                for done in executor.wait(1.0):
                    if done.error:
                        error = UserError if done.fatal else KdsearchError
                        raise error(f"{searches[int(done.id)].name}: {done.error}", path="--strategies")
                    ended[int(done.id)] = done.value
            yield ended.pop(i)


def curve_job(judged: Mapping[str, Any], search: Mapping[str, Any]) -> list[float]:
    """A search in a process, which reads the table once."""
    lookup, refined = _opened(
        Judged(**{**judged, "setting": Setting.of(judged["setting"]), "table": Path(judged["table"])})
    )
    return _curve(lookup, refined, Search(**{**search, "rows": [Scored(**row) for row in search["rows"]]}))


@lru_cache(maxsize=1)
def _opened(judged: Judged) -> tuple[Lookup, Refine]:
    return _lookup(judged, open_scorer(judged.setting)), sections_of(judged.setting)[1]


def _curve(lookup: Lookup, refined: Refine, search: Search) -> list[float]:
    """The best value after each training."""
    seed, budget = search.seed, search.budget
    if search.name == TRIVIAL:
        return curve_in_order(_shuffled(lookup, seed, lambda key: -lookup.params[key]), lookup.values, budget)
    if search.name == OWN:
        return _as_in_a_study(lookup, search.rows, budget, seed, refined)
    controller = make(Host.load(), "controller", OTHERS[search.name], "--strategies")

    def key_of(ask: Ask) -> str:
        return lookup.space.key(lookup.space.parse(dict(ask.spec or {})))

    spare = [(key, Ask({}, lookup.specs[key].model_dump(mode="json"))) for key in _shuffled(lookup, seed, lambda _: 0)]
    patience = patience_of(len(lookup.specs), lookup.space)
    return curve_of(controller, lookup.space, (), key_of, lookup.values, budget, seed, spare, patience)


def _as_in_a_study(lookup: Lookup, rows: Sequence[Scored], budget: int, seed: int, section: Refine) -> list[float]:
    """The best value after each trial of `refine`, among these architectures."""
    own = {each.key: each for each in rows}
    order = sorted(own, key=lambda key: -_or_worst(own[key].scores["auto"]))
    largest = [max(own, key=lambda key: (cost(own[key]), key)) for cost in (_params, _macs)]
    tops = {lookup.space.family(lookup.specs[key]): key for key in reversed(order)}
    families = [key for key in order[1:] if tops[lookup.space.family(lookup.specs[key])] == key]
    first = order[:1] if "scored" in section.first else []
    others = families[: early(budget)] if "families" in section.first else []
    first += [*others, *(largest if "largest" in section.first else [])]  # of accuracy alone, no cost is an objective
    starts = [Start({"architecture": key}, (), key in others) for key in dict.fromkeys(first)]
    keys = list(dict.fromkeys([*order[:MOST], *(str(each.values["architecture"]) for each in starts)]))
    dim = Dim("architecture", Range(choices=tuple(keys), facts=tuple(facts_of(own[key].scores) for key in keys)))
    host = Host.load()
    controller = make(host, "controller", section.controller, "--strategies")
    schedule = Schedule(
        lambda history: next_ask(controller, [dim], starts, history, seed),
        make(host, "stopper", Use(use="none", options={}), "--strategies"),  # a table has no rungs
        (),
        budget,
        section.generation,
        lambda trial: replace(trial, state="complete", losses=trial.at(1.0) or ()),
    )
    best: list[float] = []
    while (piece := schedule.next()) is not None:
        value = lookup.values[str(piece.values["architecture"])]
        schedule.tell(piece.number, (-value,))
        best.append(max(value, best[-1] if best else value))
    return best


def _params(scored: Scored) -> int:
    return scored.params


def _macs(scored: Scored) -> int:
    return scored.macs


def _or_worst(score: float | None) -> float:
    return -math.inf if score is None else score


def _shuffled(lookup: Lookup, seed: int, order: Callable[[str], float]) -> list[str]:
    """All keys by `order`, those of one order shuffled."""
    keys = list(lookup.specs)
    mixed = [keys[i] for i in torch.randperm(len(keys), generator=stream(seed, "mixed")).tolist()]
    return sorted(mixed, key=order)


def _after(curves: Sequence[Sequence[float]], budget: int, optimum: float, sign: int) -> dict[str, float]:
    """A strategy that had no more to try stays at its best."""
    best = [curve[min(budget, len(curve)) - 1] for curve in curves]
    mean = statistics.fmean(best)
    return {"mean_best": sign * mean, "std_best": statistics.pstdev(best), "regret": optimum - mean}


def _text(result: Mapping[str, Any]) -> str:
    budgets = list(dict.fromkeys(row["budget"] for row in result["rows"]))
    head = f"{result['space']}, {result['column']}: {result['classes']:,} networks, best {result['optimum']:.3f}"
    if result["max_params"] < 1:
        head += f", at most {result['max_params']:.0%} of the largest one's parameters"
    lines = [head, f"{'after':13}" + "".join(f"{budget:>18}" for budget in budgets)]
    for name in dict.fromkeys(row["strategy"] for row in result["rows"]):
        cells = [row for row in result["rows"] if row["strategy"] == name]
        lines.append(f"{name:13}" + "".join(f"{each['mean_best']:>10.3f} +-{each['std_best']:<5.3f}" for each in cells))
    return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])])
