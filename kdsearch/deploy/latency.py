"""Latency of an ONNX file: taken once per graph and machine, alone, stored, and from then on only read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch.deploy.canonical import graph_key
from kdsearch.deploy.files import open_session
from kdsearch.store.files import storing, write_json

FORMAT = 1
WARM_UP_S, LEAST_RUNS, LEAST_S, MOST_S = 0.05, 50, 0.3, 5.0


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call on one sample, over `runs` calls after the warm-up."""

    min_ms: float
    median_ms: float
    runs: int


def cache_folder() -> Path:
    """`KDSEARCH_CACHE`, or the user's cache folder for kdsearch."""
    named = os.environ.get("KDSEARCH_CACHE")
    if named:
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "kdsearch" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "kdsearch"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdsearch"


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


def latency_key(file: Path, example_inputs: Sequence[Any], threads: int = 1) -> str:
    """Key of the stored measurement: graph, shapes and types of one sample, machine, threads."""
    samples = [[list(each.shape), str(each.dtype)] for each in map(_one, example_inputs)]
    parts = [FORMAT, graph_key(file), samples, machine(), threads]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def stored(key: str) -> Latency | None:
    """The measurement stored under `key`; None where there is none or its entry is damaged."""
    try:
        entry = json.loads(_entry(key).read_text(encoding="utf-8"))
        found = Latency(float(entry["min_ms"]), float(entry["median_ms"]), int(entry["runs"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    sound = entry.get("format") == FORMAT and math.isfinite(found.median_ms) and found.runs > 0
    return found if sound and 0 < found.min_ms <= found.median_ms else None


def _entry(key: str) -> Path:
    return cache_folder() / "latency" / f"{key}.json"


def measure(
    file: Path, example_inputs: Sequence[Any], threads: int = 1, clock: Callable[[], float] = time.perf_counter
) -> Latency:
    """The stored latency of the file's graph on this machine, or a fresh one, taken while no other is being taken.

    Args:
        example_inputs: tensors or arrays (B, ...) in the order of the graph's inputs; the first sample is used.
        clock: seconds.

    Raises:
        ArtifactError: the file is no ONNX model that onnxruntime takes.
        StorageError: the cache folder is not writable.
    """
    from filelock import FileLock

    key = latency_key(file, example_inputs, threads)
    found = stored(key)
    if found:
        return found
    entry = _entry(key)
    with storing(entry):
        entry.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(cache_folder() / "latency.lock")):
        found = stored(key)  # another process may have taken it while this one waited
        if not found:
            found = _take(file, example_inputs, threads, clock)
            write_json(entry, {"format": FORMAT, **asdict(found), "threads": threads, **machine()})
    return found


def _one(value: Any) -> np.ndarray[Any, Any]:
    """(1, ...)"""
    array = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
    return np.ascontiguousarray(array[:1])


def _take(file: Path, example_inputs: Sequence[Any], threads: int, clock: Callable[[], float]) -> Latency:
    session = open_session(file, threads)
    names = [each.name for each in session.get_inputs()]
    feeds = dict(zip(names, map(_one, example_inputs), strict=True))
    begun = clock()
    while True:
        session.run(None, feeds)
        if clock() - begun >= WARM_UP_S:
            break
    taken: list[float] = []
    begun = clock()
    while True:
        start = clock()
        session.run(None, feeds)
        end = clock()
        taken.append((end - start) * 1e3)
        spent = end - begun
        if (len(taken) >= LEAST_RUNS and spent >= LEAST_S) or (spent >= MOST_S and len(taken) >= 3):
            break
    return Latency(min(taken), statistics.median(taken), len(taken))
