"""What does a trial cost beside its training, and what in bare Optuna? JSON: a row a sampler and number of trials.

Trials of six floats whose loss is their distance from a point, one after another, of which the controller sees the last ones as
running, as `refine.generation` says by default. Ours: the schedule asks the controller `optuna`
and each trial is put into the journal when it is asked for, when it is told, and where it stands between, as `refine` does.
Bare: `study.ask`, six suggestions, `study.tell` with the same sampler of Optuna's and a journal of its own. Each has a process
of its own, and they take turns in rounds of as many trials, so that a busy machine slows both; CPU time: waiting counts nothing.

    python benchmarks/controller_overhead.py [--samplers tpe,random] [--trials 1000,10000] [--seeds 0,1,2]

`ratio`: ours over bare, over all trials so far. `memory_mb`: by how much each process has grown since round 1. `read_ms`: reading
all trials back.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from kdsearch.builtin.controllers.optuna import Optuna, OptunaOptions
from kdsearch.builtin.stoppers import Unstopped
from kdsearch.kinds import Dim, NoOptions, Range
from kdsearch.search.schedule import Schedule
from kdsearch.search.trials import Board, TrialLog
from kdsearch.study.schema import Refine

NAMES = [f"x{i}" for i in range(6)]
DIMS = [Dim(name, Range(low=0.0, high=1.0)) for name in NAMES]
ROUND = 100
SPAWN = multiprocessing.get_context("spawn")
SAMPLERS: dict[str, Callable[[int], Any]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def loss(values: Any) -> float:
    return sum((float(values[name]) - 0.3) ** 2 for name in NAMES)


def ours(sampler: str, n: int, seed: int, file: Path) -> Iterator[None]:
    """Yields after each trial."""
    board = Board({"loss": "min"}, "ours", {dim.path: dim for dim in DIMS})
    log = TrialLog(file, "trials", board)
    controller = Optuna(OptunaOptions.model_validate({"sampler": sampler}))
    schedule = Schedule(
        lambda history: next(iter(controller.ask(None, DIMS, history, 1, seed)), None),
        Unstopped(NoOptions()),
        (),
        n,
        Refine().generation,
        lambda trial: replace(trial, state="complete", losses=trial.at(1.0) or ()),
        log.put,
    )
    while (piece := schedule.next()) is not None:
        schedule.tell(piece.number, (loss(piece.values),))
        yield


def bare(sampler: str, n: int, seed: int, file: Path) -> Iterator[None]:
    storage = JournalStorage(JournalFileBackend(str(file)))
    study = optuna.create_study(storage=storage, study_name="bare", sampler=SAMPLERS[sampler](seed))
    for _ in range(n):
        trial = study.ask()
        study.tell(trial, loss({name: trial.suggest_float(name, 0.0, 1.0) for name in NAMES}))
        yield


def served(pipe: Connection, name: str, sampler: str, most: int, seed: int, file: Path) -> None:
    """A process: for each number of trials sent to it, the CPU seconds of as many further ones, and MB that it has grown by."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = {"ours": ours, "bare": bare}[name](sampler, most, seed, file)
    process = psutil.Process()
    while n := pipe.recv():
        before, began = process.memory_info().rss, time.process_time()
        for _ in range(n):
            next(trials)
        pipe.send((time.process_time() - began, (process.memory_info().rss - before) / 1e6))


@contextmanager
def runs(sampler: str, most: int, seed: int, folder: Path) -> Iterator[dict[str, Connection]]:
    """A pipe to each side's process."""
    pipes, processes = {}, []
    for name in ("ours", "bare"):
        pipes[name], theirs = SPAWN.Pipe()
        processes.append(
            SPAWN.Process(target=served, args=(theirs, name, sampler, most, seed, folder / name), daemon=True)
        )
        processes[-1].start()
        theirs.close()  # so that a process that died is an EOFError here
    yield pipes
    for pipe in pipes.values():
        pipe.send(0)
    for process in processes:
        process.join()


def rows(sampler: str, marks: list[int], seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    with runs(sampler, max(marks), seed, folder) as pipes:
        seconds, memory = dict.fromkeys(pipes, 0.0), dict.fromkeys(pipes, 0.0)
        for done in range(ROUND, max(marks) + 1, ROUND):
            for name, pipe in pipes.items():
                pipe.send(ROUND)
                spent, grown = pipe.recv()
                seconds[name] += spent
                memory[name] += grown if done > ROUND else 0.0  # what is imported in the first round stays
            if done in marks:
                began = time.process_time()
                known = len(TrialLog(folder / "ours", "trials", Board({"loss": "min"}, "ours")).read())
                assert known >= done
                yield {
                    "sampler": sampler,
                    "trials": done,
                    "seed": seed,
                    **{f"{name}_ms_a_trial": round(1000 * each / done, 3) for name, each in seconds.items()},
                    "ratio": round(seconds["ours"] / seconds["bare"], 3),
                    "memory_mb": {name: round(each, 1) for name, each in memory.items()},
                    "read_ms": round(1000 * (time.process_time() - began), 1),
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    parser.add_argument("--trials", default="1000,10000")
    parser.add_argument("--seeds", default="0,1,2")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found: list[dict[str, Any]] = []
    for sampler in asked.samplers.split(","):
        for seed in map(int, asked.seeds.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                for row in rows(sampler, [int(each) for each in asked.trials.split(",")], seed, Path(folder)):
                    found.append(row)
                    print(json.dumps(row), file=sys.stderr, flush=True)
    ratios: dict[str, Any] = {}
    for sampler, n in dict.fromkeys((row["sampler"], row["trials"]) for row in found):
        own = [row["ratio"] for row in found if (row["sampler"], row["trials"]) == (sampler, n)]
        ratios[f"{sampler}, {n} trials"] = {"median": statistics.median(own), "of": own}
    print(json.dumps({"rows": found, "ratio": ratios}, indent=1))


if __name__ == "__main__":
    main()
