"""Local processes, the default place of trials."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

from pydantic import Field

from kdsearch.kinds import Done, Executor, Job, Options
from kdsearch.kit.jobs import JobProcesses, Joined

LOOK_S = 0.5  # how often machines that joined are listened to, while they have jobs


class ProcessesOptions(Options):
    grace_s: float = Field(5.0, ge=0, description="seconds between asking a job to stop and killing it")
    reuse: bool = Field(
        True, description="let a process run one job after another; a failed one's process is never used again"
    )


class Processes(Executor[ProcessesOptions]):
    """Processes of this machine, kept warm from job to job (see `JobProcesses`), and of machines that join (see `Joined`)."""

    joinable = True

    def __init__(self, options: ProcessesOptions) -> None:
        super().__init__(options)
        self._processes = JobProcesses(1, options.grace_s, options.reuse)
        self._joined = Joined(options.grace_s, options.reuse)
        self._waiting: deque[Job] = deque()
        self._stopped: list[Done] = []

    @property
    def slots(self) -> int:
        """Of this machine, which a study sets, and of those that joined."""
        return self._processes.slots + self._joined.slots

    @slots.setter
    def slots(self, slots: int) -> None:
        self._processes.slots = slots

    def submit(self, job: Job) -> None:
        if job.folder:
            self._joined.open(Path(job.folder))
        self._waiting.append(job)
        self._deal()

    def wait(self, timeout_s: float) -> list[Done]:
        until = time.monotonic() + timeout_s
        while True:
            done, self._stopped = [*self._stopped, *self._joined.look()], []
            self._deal()
            left = 0.0 if done else max(until - time.monotonic(), 0.0)
            is_here = self._processes.busy > 0
            done += self._processes.wait(min(left, LOOK_S) if self._joined.running else left)
            if done or left <= 0 or not (self._processes.busy or self._joined.running or self._waiting):
                self._deal()
                return done
            if not is_here:
                time.sleep(min(left, LOOK_S))

    def stop(self, id: str) -> None:
        """SIGTERM now, SIGKILL after `grace_s`; `wait` then reports it as "stopped" unless it ended well."""
        self._stopped += [Done(id, error="stopped") for job in self._waiting if job.id == id]
        self._waiting = deque(job for job in self._waiting if job.id != id)
        self._processes.stop(id)
        self._joined.stop(id)

    def close(self) -> None:
        self._waiting.clear()
        try:
            self._joined.ask_to_end()
        finally:
            self._processes.close()
            self._joined.close()

    def _deal(self) -> None:
        """Jobs to whoever is free, this machine first; those that came back from elsewhere are the next."""
        self._waiting.extendleft(self._joined.back[::-1])
        self._joined.back.clear()
        while self._waiting and not self._joined.is_settling:
            is_elsewhere = self._processes.busy >= self._processes.slots
            if is_elsewhere and not (self._joined.is_free and self._waiting[0].folder):
                return
            job = self._waiting.popleft()
            if is_elsewhere:
                self._joined.give(job)
            else:
                self._joined.forget(job.id)
                self._processes.submit(job)
