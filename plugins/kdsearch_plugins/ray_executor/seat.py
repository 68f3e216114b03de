"""What runs on a machine of the cluster: a seat has one job at a time, in a process of its own that it watches.

A job that kills its process, or goes beyond its limits, is therefore told as such by its seat. What Ray tells, the seat's own end,
is a machine that was lost, or a process of Ray.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from kdsearch.kinds import Job
from kdsearch.kit.jobs import JobProcesses, versions

LOOK_S = 0.25  # how often a seat looks whether its job is to stop


class Seat:
    """`run` and `stop` are called in different threads.

    grace_s: between asking a job to stop and killing it.
    """

    def __init__(self, grace_s: float) -> None:
        self._processes = JobProcesses(1, grace_s)
        self._stopped: set[int] = set()

    def facts(self) -> dict[str, Any]:
        return {"host": socket.gethostname(), "versions": versions()}

    def run(self, ticket: int, job: Mapping[str, Any], mark: str) -> dict[str, Any]:
        """`done`: the job's end. Or `problem`: the job was not begun, as this machine does not have its folder.

        mark: a file that whoever asks has just made in that folder, "" = it is known to be there. It is removed.
        """
        if mark and (problem := _unseen(mark)):
            return {"problem": problem}
        self._processes.submit(Job(**job))
        is_asked = False
        while not (done := self._processes.wait(LOOK_S)):
            if ticket in self._stopped and not is_asked:
                self._processes.stop(job["id"])
                is_asked = True
        self._stopped.discard(ticket)
        return {"done": vars(done[0])}

    def stop(self, ticket: int) -> None:
        """End the job of the ticket, should it not have ended."""
        self._stopped.add(ticket)

    def end(self) -> None:
        self._processes.close()


def _unseen(mark: str) -> str:
    """Why a file that was made on another machine is not seen and removed here; "" where it is."""
    try:
        os.unlink(mark)
    except FileNotFoundError:
        return "does not have it, or has another one of that name"
    except OSError as error:
        return f"cannot write to it ({error.strerror})"
    return ""
