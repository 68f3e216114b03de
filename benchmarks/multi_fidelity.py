"""What do rungs save, and what do they lose? Two objectives (validation error, a cost) on a table of learning curves.

TABLE is a CSV of `kdsearch bench table` (a curve a row). JSON, two lists:

`rungs`: every rule sees the same networks in the same order. `saved`: share of their epochs that were not run. `lost`: share of
the hypervolume of all of them that the completed ones lack. `search`, where the table holds every network of its space: what
share of the hypervolume of the whole table a search has after 1/27, 1/16 and 1/8 of its epochs; a trial that goes on at a rung
does so from its checkpoint, and costs what is new. `a study by default` scores the table's networks as the study beside it (the
same name, .yaml) does, keeps as many (`all kept`: all of them), and asks its controller.

    pip install syne-tune neural-pipeline-search
    python benchmarks/multi_fidelity.py TABLE [TABLE ...] [--cost latency_ms] [--seeds 20] [--trials 64]

Rivals: syne-tune's MOASHA as shipped and with its ranks mended (shipped, it takes the order of the sorted points for the points'
ranks), NePS' PriMO without priors, Optuna's default sampler of several objectives (which allows no pruning there), the median
of a sum of both objectives, coins.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import moocore
import numpy as np

from kdsearch.builtin.controllers.optuna import Optuna, OptunaOptions
from kdsearch.builtin.controllers.random import Random
from kdsearch.builtin.controllers.surrogate import Surrogate, SurrogateOptions
from kdsearch.builtin.stoppers import Halving, HalvingOptions, Median, MedianOptions, Unstopped
from kdsearch.kinds import Ask, Dim, NoOptions, Range, Stopper, Trial
from kdsearch.search.candidates import Candidate, select
from kdsearch.search.schedule import Schedule, epochs_at
from kdsearch.search.scoring import Scored
from kdsearch.stages.refine import next_ask
from kdsearch.stages.search import MEASURED, MOST, STANDS_IN
from kdsearch.stages.starts import Start, in_turns
from kdsearch.stages.trial_facts import facts_of
from kdsearch.training.tools import Progress
from kdsearch.verbs.score import scored
from kdsearch.verbs.scorers import open_scorer, scoring, setting_of, terms_of

Losses = tuple[float, ...]
Key = tuple[Any, ...]
SHARES = (1 / 27, 1 / 16, 1 / 8)
CORNER = 1.1
WINDOW = 4  # `refine.generation` by default
AS_MOASHA = HalvingOptions(keep=1 / 3, rungs=[1 / 9, 1 / 3])  # after epochs 1 and 3 of 9, as MOASHA's defaults are


@dataclass(frozen=True)
class Table:
    """dims: what varies, and its values. curves: those values -> (error, cost) after each epoch. cost: its name."""

    path: Path
    dims: Mapping[str, tuple[Any, ...]]
    curves: Mapping[Key, list[Losses]]
    cost: str

    @property
    def name(self) -> str:
        return self.path.stem if self.path.stem != "table" else self.path.parent.name

    @property
    def epochs(self) -> int:
        return len(next(iter(self.curves.values())))

    @property
    def is_whole(self) -> bool:
        return len(self.curves) == math.prod(map(len, self.dims.values()))

    def volume(self, keys: Sequence[Key]) -> float:
        """Hypervolume of these networks' last epochs in the box of the whole table."""
        if not keys:
            return 0.0
        every = np.array([curve[-1] for curve in self.curves.values()])
        points = np.array([self.curves[key][-1] for key in keys])
        unit = (points - every.min(0)) / np.where(np.ptp(every, axis=0) > 0, np.ptp(every, axis=0), 1.0)
        return float(moocore.hypervolume(unit, ref=np.full(unit.shape[1], CORNER)))


@dataclass(frozen=True)
class Spent:
    """A network at the end of a piece of work: how many epochs the piece cost, and whether it is complete now."""

    key: Key
    epochs: int
    complete: bool


Run = Iterator[Spent]


def read(path: Path, cost: str, kind: str, seed: int) -> Table:
    """The curves of one of the table's seeds."""
    rows = list(csv.DictReader(path.open(newline="")))
    seeds = sum(name.startswith(f"{kind}_val_s") and "_e" not in name for name in rows[0])
    start = f"{kind}_val_s{seed % seeds}_e"
    epochs = sum(name.startswith(start) for name in rows[0])
    specs = [dict(_leaves(json.loads(row["arch"]))) for row in rows]
    values = {name: tuple(sorted({spec[name] for spec in specs})) for name in specs[0]}
    dims = {name: each for name, each in values.items() if len(each) > 1}
    curves = {
        tuple(spec[name] for name in dims): [
            (1 - float(row[f"{start}{e}"]), float(row[cost])) for e in range(1, epochs + 1)
        ]
        for spec, row in zip(specs, rows, strict=True)
    }
    return Table(path, dims, curves, cost)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _leaves(each, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield from _leaves(each, f"{path}[{i}]")
    else:
        yield path, value


class Coin(Stopper[NoOptions]):
    """Half of the trials end at a third, whatever they are."""

    def __init__(self, seed: int) -> None:
        super().__init__(NoOptions())
        self.heads = np.random.default_rng(seed).random(100_000) < 0.5

    def rungs(self) -> tuple[float, ...]:
        return (0.34,)

    def go_on(self, rung: float, trial: Trial, others: Sequence[Trial]) -> bool:
        return bool(self.heads[trial.number])


def scheduled(
    table: Table, stopper: Stopper[Any], ask: Callable[[Sequence[Trial]], Ask | None], n: int, add: bool
) -> Run:
    """As `refine` runs them. add: the stopper sees the sum of both objectives, each in units of its span."""
    every = np.array([losses for curve in table.curves.values() for losses in curve])
    least, span = every.min(0), np.where(np.ptp(every, axis=0) > 0, np.ptp(every, axis=0), 1.0)

    def seen(losses: Losses) -> Losses:
        return (float(((np.array(losses) - least) / span).sum()),) if add else losses

    def finish(trial: Trial) -> Trial:
        return replace(trial, state="complete", losses=table.curves[_key(table, trial.values)][-1])

    at = {rung: epochs_at(rung, table.epochs) for rung in stopper.rungs()}
    schedule = Schedule(ask, stopper, stopper.rungs(), n, WINDOW, finish)
    while (piece := schedule.next()) is not None:
        key = _key(table, piece.values)
        since, until = at.get(piece.since, 0), at.get(piece.until, table.epochs)
        schedule.tell(piece.number, seen(table.curves[key][until - 1]))
        yield Spent(key, until - since, piece.until == 1.0)


def _key(table: Table, values: Mapping[str, Any]) -> Key:
    return tuple(values[name] for name in table.dims)


def in_order(keys: Sequence[Key], table: Table) -> Callable[[Sequence[Trial]], Ask]:
    return lambda history: Ask(dict(zip(table.dims, keys[len(history)], strict=True)))


@cache
def scores_of(path: Path, seed: int) -> dict[str, Scored]:
    """Text of an architecture in the table -> what the study beside it, with this seed, scores without training."""
    setting = setting_of(
        None, path.with_suffix(".yaml"), terms_of(["auto", "params", "macs"]), None, None, seed, None, ()
    )
    scorer = open_scorer(setting)
    texts = [row["arch"] for row in csv.DictReader(path.open(newline=""))]
    asked = [json.loads(text) for text in texts]
    with scoring(setting, scorer, 1) as score:
        found = scored(["auto", *scorer.proxies], scorer.space, asked, score, setting.reference_seed, Progress(False))
    rows = {each.key: each for each in found}
    keys = [scorer.space.key(scorer.space.canonical(scorer.space.parse(spec))) for spec in asked]
    return {text: rows[key] for text, key in zip(texts, keys, strict=True)}


def by_default(table: Table, seed: int, keep: int | None = None) -> Callable[[Sequence[Trial]], Ask | None]:
    """What a study that says nothing of `refine` asks for: its starts, and its controller over scores and costs.

    keep: `search.keep`; None = the default.
    """
    rows = {_of(table, text): row for text, row in scores_of(table.path, seed).items()}
    costs = {key: curve[-1][1] for key, curve in table.curves.items()}
    known = STANDS_IN.get(table.cost, table.cost)
    best_first = [
        each.scored.key
        for each in select(
            [Candidate(row, row.scores["auto"]) for row in rows.values()],
            keep or (MEASURED if table.cost in STANDS_IN else MOST),
            (known,),
        )
    ]
    at = {row.key: key for key, row in rows.items()}
    kept = [at[each] for each in best_first]
    largest = [max(rows, key=lambda key: (getattr(rows[key], name), rows[key].key)) for name in ("params", "macs")]
    cheapest = [min(rows, key=lambda key: (getattr(rows[key], known), rows[key].key))]
    first = list(dict.fromkeys([kept[0], *in_turns([largest, cheapest])]))
    keys = list(dict.fromkeys([*kept, *first]))
    dim = Dim(
        "network",
        Range(
            choices=tuple(range(len(keys))),
            facts=tuple(facts_of(rows[key].scores) for key in keys),
            costs=tuple((math.nan, costs[key]) for key in keys),
        ),
    )
    place = {key: i for i, key in enumerate(keys)}
    starts = [Start({"network": place[key]}, ()) for key in first]
    controller = Surrogate(SurrogateOptions())

    def ask(history: Sequence[Trial]) -> Ask | None:
        told = [replace(trial, values={"network": place[_key(table, trial.values)]}) for trial in history]
        found = next_ask(controller, [dim], starts, told, seed)
        return found and Ask(dict(zip(table.dims, keys[found.values["network"]], strict=True)))

    return ask


def _of(table: Table, text: str) -> Key:
    spec = dict(_leaves(json.loads(text)))
    return tuple(spec[name] for name in table.dims)


def asked(controller: Any, table: Table, seed: int) -> Callable[[Sequence[Trial]], Ask | None]:
    dims = [Dim(name, Range(choices=values)) for name, values in table.dims.items()]
    return lambda history: next(iter(controller.ask(None, dims, history, 1, seed)), None)


def moasha(table: Table, keys: Sequence[Key], seed: int, mended: bool) -> Run:
    """syne-tune's, with its defaults; one trial after another."""
    from datetime import datetime

    from syne_tune.backend.trial_status import Trial as Theirs
    from syne_tune.optimizer.scheduler import SchedulerDecision
    from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA
    from syne_tune.optimizer.schedulers.multiobjective.multiobjective_priority import NonDominatedPriority

    class Ranks(NonDominatedPriority):
        def priority_unsafe(self, objectives: Any) -> Any:
            return np.argsort(super().priority_unsafe(objectives))

    np.random.seed(seed)
    scheduler = MOASHA(
        {}, ["error", "cost"], max_t=table.epochs, multiobjective_priority=Ranks() if mended else None, random_seed=seed
    )
    for number, key in enumerate(keys):
        trial = Theirs(number, {}, datetime(2000, 1, 1))
        scheduler.on_trial_add(trial)
        for epoch, (error, cost) in enumerate(table.curves[key], 1):
            said = scheduler.on_trial_result(trial, {"error": error, "cost": cost, "training_iteration": epoch})
            yield Spent(key, 1, epoch == table.epochs)
            if said == SchedulerDecision.STOP:
                break


def primo(table: Table, seed: int) -> Run:
    """NePS', without priors."""
    import neps
    import torch
    from neps.space import HPOCategorical, HPOInteger, SearchSpace

    np.random.seed(seed)
    torch.manual_seed(seed)
    space = SearchSpace(
        {
            **{f"x{i}": HPOCategorical(list(range(len(values)))) for i, values in enumerate(table.dims.values())},
            "epochs": HPOInteger(1, table.epochs, is_fidelity=True),
        }
    )
    optimizer = neps.AskAndTell(neps.algorithms.primo(space, prior_centers={}))
    had: dict[str, int] = {}
    while True:
        trial = optimizer.ask()
        key = tuple(values[int(trial.config[f"x{i}"])] for i, values in enumerate(table.dims.values()))
        epochs = int(trial.config["epochs"])
        before = had.get(trial.metadata.previous_trial_id or "", 0)
        had[trial.metadata.id] = epochs
        optimizer.tell(trial.metadata.id, {"objective_to_minimize": list(table.curves[key][epochs - 1])})
        yield Spent(key, epochs - before, epochs == table.epochs)


def bare_optuna(table: Table, seed: int) -> Run:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna_study = optuna.create_study(directions=["minimize", "minimize"])
    optuna_study.sampler = optuna.samplers.TPESampler(seed=seed)
    while True:
        trial = optuna_study.ask()
        key = tuple(values[trial.suggest_int(name, 0, len(values) - 1)] for name, values in table.dims.items())
        optuna_study.tell(trial, list(table.curves[key][-1]))
        yield Spent(key, table.epochs, True)


def rules(table: Table, keys: Sequence[Key], seed: int) -> dict[str, Run]:
    def ours(stopper: Stopper[Any], add: bool = False) -> Run:
        return scheduled(table, stopper, in_order(keys, table), len(keys), add)

    return {
        "none": ours(Unstopped(NoOptions())),
        "halving": ours(Halving(HalvingOptions())),
        "halving at a third": ours(Halving(HalvingOptions(rungs=[1 / 3]))),
        "halving, two rungs": ours(Halving(HalvingOptions(rungs=[2 / 9, 5 / 9]))),
        "halving, two early rungs": ours(Halving(HalvingOptions(rungs=[2 / 9, 4 / 9]))),
        "halving, three rungs": ours(Halving(HalvingOptions(rungs=[1 / 9, 1 / 3, 2 / 3]))),
        "halving, as MOASHA": ours(Halving(AS_MOASHA)),
        "median": ours(Median(MedianOptions())),
        "median of the sum": ours(Median(MedianOptions()), add=True),
        "halving of the sum": ours(Halving(HalvingOptions()), add=True),
        "coin": ours(Coin(seed)),
        "MOASHA as shipped": moasha(table, keys, seed, mended=False),
        "MOASHA, mended": moasha(table, keys, seed, mended=True),
    }


def searches(table: Table, seed: int) -> dict[str, Run]:
    def ours(controller: Any, stopper: Stopper[Any]) -> Run:
        return scheduled(table, stopper, asked(controller, table, seed), len(table.curves), add=False)

    def default(keep: int | None = None) -> Run:
        ask = by_default(table, seed, keep)
        return scheduled(table, Halving(HalvingOptions()), ask, len(table.curves), add=False)

    keys = shuffled(table, seed)
    has_study = table.path.with_suffix(".yaml").exists()
    return {
        **({"a study by default": default(), "the same, all kept": default(MOST)} if has_study else {}),
        "random": ours(Random(NoOptions()), Unstopped(NoOptions())),
        "random, halving": ours(Random(NoOptions()), Halving(HalvingOptions())),
        "random, halving at a third": ours(Random(NoOptions()), Halving(HalvingOptions(rungs=[1 / 3]))),
        "optuna": ours(Optuna(OptunaOptions()), Unstopped(NoOptions())),
        "optuna, halving": ours(Optuna(OptunaOptions()), Halving(HalvingOptions())),
        "optuna, halving at a third": ours(Optuna(OptunaOptions()), Halving(HalvingOptions(rungs=[1 / 3]))),
        "optuna, halving as MOASHA": ours(Optuna(OptunaOptions()), Halving(AS_MOASHA)),
        "bare Optuna": bare_optuna(table, seed),
        "MOASHA as shipped": moasha(table, keys, seed, mended=False),
        "MOASHA, mended": moasha(table, keys, seed, mended=True),
        "NePS' PriMO": primo(table, seed),
    }


def shuffled(table: Table, seed: int) -> list[Key]:
    keys = list(table.curves)
    return [keys[i] for i in np.random.default_rng(seed).permutation(len(keys))]


def stopped(table: Table, keys: Sequence[Key], run: Run) -> dict[str, float]:
    pieces = list(run)
    complete = [each.key for each in pieces if each.complete]
    return {
        "saved": 1 - sum(each.epochs for each in pieces) / (len(keys) * table.epochs),
        "lost": 1 - table.volume(complete) / table.volume(keys),
    }


def after(table: Table, run: Run) -> dict[str, float]:
    """Share of the table's hypervolume after each share of its epochs."""
    whole, total = table.volume(list(table.curves)), len(table.curves) * table.epochs
    found: dict[str, float] = {}
    complete: list[Key] = []
    spent = 0
    for piece in run:
        spent += piece.epochs
        for share in SHARES:
            if spent > share * total and str(share) not in found:
                found[str(share)] = table.volume(complete) / whole
        if len(found) == len(SHARES):
            break
        complete += [piece.key] if piece.complete else []
    return {**{str(share): table.volume(complete) / whole for share in SHARES if str(share) not in found}, **found}


def summed(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean and standard error of each figure over the seeds."""

    def both(values: Sequence[float]) -> list[float]:
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        return [round(statistics.mean(values), 4), round(error, 4)]

    return {name: both([row[name] for row in rows]) for name in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--cost", default="latency_ms")
    parser.add_argument("--kind", default="kd", choices=["kd", "ce"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=64)
    asked_for = parser.parse_args()
    warnings.filterwarnings("ignore", module="(neps|syne_tune|botorch|gpytorch|linear_operator)")
    found = []
    for path in asked_for.tables:
        stops: dict[str, list[dict[str, float]]] = {}
        finds: dict[str, list[dict[str, float]]] = {}
        for seed in range(asked_for.seeds):
            table = read(path, asked_for.cost, asked_for.kind, seed)
            keys = shuffled(table, seed)[: asked_for.trials]
            for name, run in rules(table, keys, seed).items():
                stops.setdefault(name, []).append(stopped(table, keys, run))
            if table.is_whole:
                for name, run in searches(table, seed).items():
                    finds.setdefault(name, []).append(after(table, run))
            print(f"{table.name}: seed {seed} done", file=sys.stderr)
        found.append(
            {
                "table": table.name,
                "networks": len(table.curves),
                "epochs": table.epochs,
                "trials": len(keys),
                "rungs": {name: summed(rows) for name, rows in stops.items()},
                "search": {name: summed(rows) for name, rows in finds.items()},
            }
        )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
