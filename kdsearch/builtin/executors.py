"""Trials that run in the process of the command."""

from __future__ import annotations

from collections import deque

from kdsearch.kinds import Done, Executor, Job, NoOptions
from kdsearch.kit.jobs import perform


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
