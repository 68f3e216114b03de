"""How fast files are beside one another: in turns, so that what the machine does meanwhile hits all of them alike."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch.deploy.files import external_files, open_session, read_onnx
from kdsearch.deploy.latency import alone
from kdsearch.errors import StudyError, one_of

OPEN = 16  # what a size that a file leaves open is, where nobody says
WARM_UP = 3  # calls of each file before its first round
ROUND_S, LEAST_CALLS = 0.05, 3  # of one file in one round
ELEMENTS = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int8)": "int8", "tensor(uint8)": "uint8",
}  # fmt: skip
# the peak of a process that does nothing but answer; onnxruntime itself, and the interpreter, are taken off
PEAK = """
import json, os, resource, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np, onnxruntime as ort

def peak():  # bytes; what getrusage says begins at the peak of the process that started this one
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

asked = json.loads(sys.argv[1])
options = ort.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = asked["threads"], 1, 3
feeds = {n: np.zeros(shape, dtype) for n, (shape, dtype) in asked["feeds"].items()}
before = peak()
session = ort.InferenceSession(asked["file"], options, providers=["CPUExecutionProvider"])
for _ in range(2): session.run(None, feeds)
print(peak() - before)
"""


@dataclass(frozen=True)
class Timed:
    """One file's calls of `batch` samples.

    Args:
        spread_ms: from the least to the largest of the rounds' medians.
        samples_per_s: by the median. memory_bytes: what a process needs more to load it and answer; None = not known here.
    """

    file: str
    bytes: int
    min_ms: float
    median_ms: float
    p95_ms: float
    spread_ms: float
    samples_per_s: float
    memory_bytes: int | None
    calls: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def feeds_of(session: Any, batch: int, sizes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs for a file: noise, ones for integers. `sizes`: input -> its shape without the batch, for those that are open.

    Raises:
        StudyError: a size of an input that the file does not have, or of another number of axes.
    """
    rng = np.random.RandomState(0)
    names = [each.name for each in session.get_inputs()]
    for name in sizes:
        if name not in names:
            raise StudyError(f"no input '{name}'", path="--size", expected=one_of(names))
    found = {}
    for each in session.get_inputs():
        rest = [size if isinstance(size, int) else OPEN for size in each.shape[1:]]
        asked = sizes.get(each.name)
        if asked is not None:
            fits = len(asked) == len(rest) and all(
                not isinstance(size, int) or size == want for size, want in zip(each.shape[1:], asked, strict=True)
            )
            if not fits:
                raise StudyError(f"{list(asked)} for '{each.name}'", path="--size", expected=f"{each.shape[1:]}")
            rest = list(asked)
        first = each.shape[0] if each.shape and isinstance(each.shape[0], int) else batch
        shape, dtype = ([first, *rest] if each.shape else []), np.dtype(ELEMENTS.get(each.type, "float32"))
        values = rng.standard_normal(shape) if dtype.kind == "f" else np.ones(shape)
        found[each.name] = np.ascontiguousarray(values.astype(dtype))
    return found


def bench(
    files: Sequence[Path],
    batch: int = 1,
    threads: int = 1,
    rounds: int = 15,
    sizes: Mapping[str, Sequence[int]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    said: Callable[[float, str], None] = lambda share, what: None,
) -> list[Timed]:
    """Every file in every round, each round in another order; no other measurement of kdsearch runs meanwhile.

    Args:
        threads: inside an operator; the process is held on so many of its processors where the system allows it.
        said: is told the share that is done.

    Raises:
        ArtifactError: a file that onnxruntime does not take. StudyError: see `feeds_of`, or a file fails at these inputs.
    """
    with alone(), pinned(threads):
        calls = {}
        for file in files:
            session = open_session(file, threads, read_onnx(file, beside=True))
            calls[file] = (session, feeds_of(session, batch, sizes or {}))
            for _ in range(WARM_UP):
                _answer(file, *calls[file])
        taken: dict[Path, list[list[float]]] = {file: [] for file in calls}
        for at in range(rounds):
            order = list(calls)
            order = order[at % len(order) :] + order[: at % len(order)]
            for file in order:
                taken[file].append(_round(*calls[file], clock))
            said((at + 1) / rounds, f"round {at + 1} of {rounds}")
        return [
            _timed(file, taken[file], _samples(feeds, batch), _memory(file, feeds, threads))
            for file, (_, feeds) in calls.items()
        ]


def _samples(feeds: Mapping[str, Any], batch: int) -> int:
    """How many a call answers: a file may have a batch of its own."""
    return next((len(each) for each in feeds.values() if each.ndim), batch)


def _answer(file: Path, session: Any, feeds: Mapping[str, Any]) -> None:
    try:
        session.run(None, dict(feeds))
    except Exception as error:  # whatever onnxruntime raises at a shape
        shapes = "; ".join(f"{name} {list(each.shape)}" for name, each in feeds.items())
        raise StudyError(
            f"fails at {shapes}: {str(error).splitlines()[0][:200]}",
            file=file,
            fix="Say the sizes that it takes: --size NAME=3,224,224.",
        ) from error


def _round(session: Any, feeds: Mapping[str, Any], clock: Callable[[], float]) -> list[float]:
    """Milliseconds of each call."""
    taken: list[float] = []
    begun = clock()
    while len(taken) < LEAST_CALLS or clock() - begun < ROUND_S:
        start = clock()
        session.run(None, feeds)
        taken.append((clock() - start) * 1e3)
    return taken


def _timed(file: Path, rounds: Sequence[Sequence[float]], batch: int, memory: int | None) -> Timed:
    every = sorted(each for taken in rounds for each in taken)
    medians = [statistics.median(taken) for taken in rounds]
    median = statistics.median(every)
    return Timed(
        file=str(file),
        bytes=sum(each.stat().st_size for each in (file, *external_files(file))),
        min_ms=every[0],
        median_ms=median,
        p95_ms=every[min(len(every) - 1, int(0.95 * len(every)))],
        spread_ms=max(medians) - min(medians),
        samples_per_s=1e3 * batch / median,
        memory_bytes=memory,
        calls=len(every),
    )


def _memory(file: Path, feeds: Mapping[str, Any], threads: int) -> int | None:
    asked = {
        "file": str(file.resolve()),
        "threads": threads,
        "feeds": {name: [list(each.shape), str(each.dtype)] for name, each in feeds.items()},
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", PEAK, json.dumps(asked)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return None
    return int(done.stdout.strip())


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """This process on `threads` of the processors that it may use, where the system knows such a thing."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[-threads:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
