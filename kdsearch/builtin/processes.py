"""Local processes, the default place of trials."""

from __future__ import annotations

from pydantic import Field

from kdsearch.kinds import Done, Executor, Job, Options
from kdsearch.kit.jobs import JobProcesses
from kdsearch.limits import WORKERS


class ProcessesOptions(Options):
    workers: int = Field(1, ge=1, le=WORKERS, description="jobs at once")
    grace_s: float = Field(5.0, ge=0, description="seconds between asking a job to stop and killing it")
    reuse: bool = Field(
        True, description="let a process run one job after another; a failed one's process is never used again"
    )


class Processes(Executor[ProcessesOptions]):
    """Processes of this machine, kept warm from job to job: see `JobProcesses`."""

    def __init__(self, options: ProcessesOptions) -> None:
        super().__init__(options)
        self.slots = options.workers
        self._processes = JobProcesses(options.workers, options.grace_s, options.reuse)

    def submit(self, job: Job) -> None:
        self._processes.slots = self.slots
        self._processes.submit(job)

    def wait(self, timeout_s: float) -> list[Done]:
        self._processes.slots = self.slots
        return self._processes.wait(timeout_s)

    def stop(self, id: str) -> None:
        """SIGTERM now, SIGKILL after `grace_s`; `wait` then reports it as "stopped" unless it ended well."""
        self._processes.stop(id)

    def close(self) -> None:
        self._processes.close()
