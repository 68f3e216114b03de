"""Where an executor's jobs run: in processes that are watched and kept within limits, in this one, or on machines that join."""

from kdsearch.jobs.joined import Joined
from kdsearch.jobs.letters import versions
from kdsearch.jobs.perform import perform
from kdsearch.jobs.processes import JobProcesses

__all__ = ["JobProcesses", "Joined", "perform", "versions"]
