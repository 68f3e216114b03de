"""Where trials run: in this process, or in local processes of their own."""

from __future__ import annotations

import importlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from kdsearch.errors import FOREIGN, InterruptedRun, UserError, told
from kdsearch.kinds import Done, Executor, Job, NoOptions, listening


class InProcess(Executor[NoOptions]):
    """Runs one job at a time inside `wait`. Live objects are at hand; time-out and memory limits are not kept."""

    remote = False

    def __init__(self, options: NoOptions) -> None:
        super().__init__(options)
        self._queue: deque[Job] = deque()
        self._stopped: list[Done] = []

    def submit(self, job: Job) -> None:
        self._queue.append(job)

    def wait(self, timeout_s: float) -> list[Done]:
        if self._stopped:
            stopped, self._stopped = self._stopped, []
            return stopped
        return [perform(self._queue.popleft())] if self._queue else []

    def stop(self, id: str) -> None:
        """Drop a job that has not begun."""
        dropped = [job for job in self._queue if job.id == id]
        self._queue = deque(job for job in self._queue if job.id != id)
        self._stopped += [Done(job.id, error="stopped") for job in dropped]

    def close(self) -> None:
        self._queue.clear()


def perform(job: Job, begins: Callable[[], object] = lambda: None) -> Done:
    """Run a job here, with its number of torch threads; what it raises becomes the error; an interrupt goes through.

    begins: called once, when the job's work begins.
    """
    from kdsearch.ops.threads import cpu_threads

    begun: list[float] = []

    def begin() -> None:
        if not begun:
            begun.append(time.monotonic())
            begins()

    def seconds() -> float:
        return time.monotonic() - begun[0] if begun else 0.0

    try:
        with cpu_threads(job.threads), listening(begin):
            if not job.opens:
                begin()
            value = resolve(job.function)(**job.arguments)
        return Done(job.id, value, seconds=seconds())
    except InterruptedRun:
        raise
    except FOREIGN as error:
        is_fatal = isinstance(error, UserError)
        return Done(job.id, error=told(error), seconds=seconds(), fatal=is_fatal)


def resolve(function: str) -> Any:
    """The callable at "module:function"."""
    module, _, name = function.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found
