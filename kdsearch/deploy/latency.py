"""Latency of an ONNX file: taken once per graph and machine, alone, stored, and from then on only read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch.deploy.canonical import graph_key
from kdsearch.deploy.files import open_session
from kdsearch.errors import ArtifactError, StorageError
from kdsearch.store.cache import cache_folder
from kdsearch.store.files import read_json, storing, write_json

FORMAT = 2
REPEATS = 3  # sessions a measurement
WARM_UP_S, LEAST_RUNS, LEAST_S, MOST_S = 0.05, 20, 0.1, 2.0  # of each
SLOWER = 1.05  # ratio of medians below which two files are equally fast, however little the repeats differed


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call on one sample, over `runs` calls in several sessions, each after a warm-up.

    spread_ms: from the least to the largest of the sessions' medians.
    """

    min_ms: float
    median_ms: float
    spread_ms: float
    runs: int


def is_slower(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether `one` is slower than `other`, each {median, spread} in ms: by over 5 % and by more than both spreads together."""
    gap = one["median"] - other["median"]
    return one["median"] > SLOWER * other["median"] and gap > one["spread"] + other["spread"]


def check_cache() -> None:
    """Raise StorageError where measured latencies cannot be kept, which is better known before a study than after it."""
    folder = cache_folder() / "latency"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(
            f"measured latencies cannot be kept here: {error.strerror}",
            file=error.filename or folder,
            fix="Set KDSEARCH_CACHE to a folder that can be written.",
        ) from error


def machine() -> dict[str, Any]:
    """What a latency is bound to: CPU model, number of cores, onnxruntime's version."""
    import onnxruntime

    return {"cpu": _cpu(), "cores": os.cpu_count(), "onnxruntime": onnxruntime.__version__}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def latency_key(
    file: Path, example_inputs: Sequence[Any], threads: int = 1, entries: Mapping[str, str] | None = None
) -> str:
    """Key of the stored measurement: graph, shapes and types of one sample, machine, threads, session options."""
    samples = [[list(each.shape), str(each.dtype)] for each in map(one_sample, example_inputs)]
    parts = [FORMAT, graph_key(file), samples, machine(), threads, dict(entries or {})]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def stored(key: str) -> Latency | None:
    """The measurement stored under `key`; None where there is none or its entry is damaged."""
    try:
        entry = read_json(entry_of(key))
        least, median, spread = (float(entry[name]) for name in ("min_ms", "median_ms", "spread_ms"))
        found = Latency(least, median, spread, int(entry["runs"]))
    except (ArtifactError, OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    sound = entry.get("format") == FORMAT and math.isfinite(found.median_ms + found.spread_ms) and found.runs > 0
    return found if sound and 0 < found.min_ms <= found.median_ms else None


def entry_of(key: str) -> Path:
    """Where what is measured under a key is kept."""
    return cache_folder() / "latency" / f"{key}.json"


def measure(
    file: Path,
    example_inputs: Sequence[Any],
    threads: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    entries: Mapping[str, str] | None = None,
) -> Latency:
    """The stored latency of the file's graph on this machine, or a fresh one, taken while no other is being taken.

    In a session as anybody opens it, with onnxruntime's defaults, unless `entries` changes them.

    Args:
        example_inputs: tensors or arrays (B, ...) in the order of the graph's inputs; the first sample is used.
        entries: session options by name.
        clock: seconds.

    Raises:
        ArtifactError: the file is no ONNX model that onnxruntime takes.
        StorageError: the cache folder is not writable.
    """
    key = latency_key(file, example_inputs, threads, entries)
    found = stored(key)
    if found:
        return found
    with alone():
        found = stored(key)  # another process may have taken it while this one waited
        if not found:
            found = _take(file, example_inputs, threads, clock, entries)
            about = {"threads": threads, "session_options": dict(entries or {}), **machine()}
            write_json(entry_of(key), {"format": FORMAT, **asdict(found), **about})
    return found


@contextmanager
def alone() -> Iterator[None]:
    """While this holds no other process measures. Raise StorageError where the cache folder is not writable."""
    from filelock import FileLock

    folder = cache_folder()
    with storing(folder):
        (folder / "latency").mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder / "latency.lock")):
        yield


def measure_call(
    opened: Callable[[], Callable[[], Any]], repeats: int = REPEATS, clock: Callable[[], float] = time.perf_counter
) -> Latency:
    """The latency of what is no ONNX file, taken while no other is being taken; not stored, since nothing names its graph.

    opened: called `repeats` times; gives what is timed.
    """
    with alone():
        return _over([_times(opened(), clock) for _ in range(repeats)])


def one_sample(value: Any) -> np.ndarray[Any, Any]:
    """(1, ...)"""
    array = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
    return np.ascontiguousarray(array[:1])


def _take(
    file: Path,
    example_inputs: Sequence[Any],
    threads: int,
    clock: Callable[[], float],
    entries: Mapping[str, str] | None,
) -> Latency:
    """Several sessions one after another, so that what one session happens to get does not decide."""
    repeats = []
    for _ in range(REPEATS):
        session = open_session(file, threads, entries=entries)
        names = [each.name for each in session.get_inputs()]
        feeds = dict(zip(names, map(one_sample, example_inputs), strict=True))
        repeats.append(_times(partial(session.run, None, feeds), clock))
    return _over(repeats)


def _over(repeats: Sequence[Sequence[float]]) -> Latency:
    """Of the milliseconds that calls took, session by session."""
    medians = [statistics.median(taken) for taken in repeats]
    every = [each for taken in repeats for each in taken]
    return Latency(min(every), statistics.median(every), max(medians) - min(medians), len(every))


def _times(call: Callable[[], Any], clock: Callable[[], float]) -> list[float]:
    """Milliseconds of each call after the warm-up."""
    begun = clock()
    while True:
        call()
        if clock() - begun >= WARM_UP_S:
            break
    taken: list[float] = []
    begun = clock()
    while True:
        start = clock()
        call()
        end = clock()
        taken.append((end - start) * 1e3)
        spent = end - begun
        if (len(taken) >= LEAST_RUNS and spent >= LEAST_S) or (spent >= MOST_S and len(taken) >= 3):
            break
    return taken
