"""Where an executor's jobs run on a machine: in processes that are watched and kept within limits, or in this one."""

from kdsearch.jobs.perform import perform
from kdsearch.jobs.processes import JobProcesses

__all__ = ["JobProcesses", "perform"]
