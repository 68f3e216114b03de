"""How slow a file is beside another one: a few calls of each in turns, so that a busy machine slows both and their ratio stays."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kdsearch.deploy.files import open_session
from kdsearch.deploy.latency import FORMAT, alone, entry_of, latency_key, one_sample
from kdsearch.errors import ArtifactError
from kdsearch.store.files import read_json, write_json

SESSIONS = 3  # of each file, so that what one happens to get does not decide
# of one file before it is the other's turn, after a call that finds the other's data in the caches
TURN_S, LEAST_CALLS = 0.004, 3
LEAST_TURNS, MOST_S = 8, 6.0  # of each session, a turn twice each file
ENOUGH = 0.005  # uncertainty of the ratio below which no more turns are taken
WARM_UP = 3  # calls


@dataclass(frozen=True)
class Beside:
    """Latency of a file over that of another one: median over `turns`; error: two standard errors of it, as a share."""

    ratio: float
    error: float
    turns: int


def measure_beside(
    file: Path,
    other: Path,
    example_inputs: Sequence[Any],
    threads: int = 1,
    clock: Callable[[], float] | None = None,
) -> Beside:
    """The stored ratio of these graphs on this machine, or a fresh one, taken while nothing else is being measured.

    Args:
        example_inputs: tensors or arrays (B, ...) in the order of both graphs' inputs; the first sample is used.
        clock: seconds; None = this thread's time on a processor, where it does all the work: waiting for one counts nothing.

    Raises:
        ArtifactError: a file is no ONNX model that onnxruntime takes. StorageError: the cache folder is not writable.
    """
    clock = clock or (time.thread_time if threads == 1 else time.perf_counter)
    keys = [latency_key(each, example_inputs, threads) for each in (file, other)]
    entry = entry_of(hashlib.sha256(json.dumps(["beside", FORMAT, *keys]).encode()).hexdigest())
    with alone():
        found = _stored(entry)
        if found is None:
            found = _taken(file, other, example_inputs, threads, clock)
            write_json(entry, {"format": FORMAT, **asdict(found)})
    return found


def _stored(entry: Path) -> Beside | None:
    try:
        kept = read_json(entry)
        found = Beside(float(kept["ratio"]), float(kept["error"]), int(kept["turns"]))
    except (ArtifactError, OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return found if kept.get("format") == FORMAT and 0 < found.ratio < math.inf else None


def _taken(file: Path, other: Path, example_inputs: Sequence[Any], threads: int, clock: Callable[[], float]) -> Beside:
    logs: list[float] = []
    for _ in range(SESSIONS):
        calls = [_call(each, example_inputs, threads) for each in (file, other)]
        for call in calls:
            for _ in range(WARM_UP):
                call()
        begun, turns = clock(), 0
        while turns < LEAST_TURNS or (clock() - begun < MOST_S and _error(logs) > ENOUGH):
            taken = [0.0, 0.0]
            for at in (0, 1, 1, 0):  # a load that grows or falls meanwhile favours neither
                taken[at] += _turn(calls[at], clock)
            logs.append(math.log(taken[0] / taken[1]))
            turns += 1
    return Beside(math.exp(statistics.median(logs)), _error(logs), len(logs))


def _call(file: Path, example_inputs: Sequence[Any], threads: int) -> Callable[[], Any]:
    session = open_session(file, threads)
    names = [each.name for each in session.get_inputs()]
    return partial(session.run, None, dict(zip(names, map(one_sample, example_inputs), strict=True)))


def _turn(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Seconds of a call, the least over one turn: what else the machine does only adds."""
    call()
    taken: list[float] = []
    begun = clock()
    while len(taken) < LEAST_CALLS or clock() - begun < TURN_S:
        start = clock()
        call()
        taken.append(clock() - start)
    return min(taken)


def _error(logs: Sequence[float]) -> float:
    """Two standard errors of a median, by the quartiles: of a normal distribution they lie 1.35 deviations apart."""
    if len(logs) < 4:
        return math.inf
    low, _, high = statistics.quantiles(logs, n=4)
    return 2 * 1.2533 * (high - low) / 1.349 / math.sqrt(len(logs))
