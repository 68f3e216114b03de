"""The one door to trainings: requests are handed in and taken as they end, wherever the study's executor runs them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdsearch.engine.cache import Live
from kdsearch.engine.checkpoint import owner_in
from kdsearch.engine.conduct import Report
from kdsearch.errors import InterruptedRun, PluginError
from kdsearch.kinds import Done, Job
from kdsearch.kinds.executor import PLACE, ended
from kdsearch.store.artifacts import Artifact
from kdsearch.training.attempt import from_json
from kdsearch.training.job import Opened, lent
from kdsearch.training.materials import Materials
from kdsearch.training.request import Outcome, Request, owner_of
from kdsearch.training.share import begins, goes_on, seconds_of, share_of, took
from kdsearch.training.tools import UNLIMITED, Address, Limits, Tools, address_of

TRAIN = "kdsearch.training.job:train_job"  # the job that does one
LOOK_S = 0.5  # how long an empty-handed look for ended trainings takes
LEAST_S = 1e-3  # of a limit that earlier pieces have used up


class Trainings:
    """Trainings of one stage. What fails in one is its own; what is the user's fault, the disk's or an interruption ends the study.

    `limits` are of a training, whatever pieces it is done in.

    Where the executor runs jobs in this process, they use this study as it is open here, live objects included; anywhere else a
    process opens it from its folder, once for all jobs that it gets.
    """

    def __init__(
        self,
        materials: Materials,
        work: Path,
        prepared: Artifact,
        teachers: Mapping[str, Live],
        tools: Tools,
        limits: Limits = UNLIMITED,
    ) -> None:
        self._materials, self._work = materials, work
        self._address = {**address_of(materials, tools), "prepared": prepared.key}
        self._tools, self._limits = tools, limits
        self._executor = tools.executor(materials)
        self._here = Opened(materials, tools.store, {prepared.key: teachers}, tools.stop, self._moved)
        self._running: dict[str, tuple[float, float]] = {}  # name -> shares of the length at its begin and end
        self.done = tools.progress.done  # trainings of the stage that are through, for the progress that is shown
        self.busy_s = 0.0  # seconds of all ended jobs
        self.slot_s = 0.0  # seconds that there were slots for jobs, of all slots
        self.most = self.slots
        self._counted = time.monotonic()
        self.over: dict[str, tuple[str, float]] = {}  # name -> the key of `run` whose limit ended it, and that limit

    @property
    def slots(self) -> int:
        """How many run at once."""
        return self._executor.slots

    @property
    def free(self) -> int:
        """How many more would begin at once."""
        return max(self.slots - len(self._running), 0)

    def submit(self, request: Request, since: float = 0.0) -> None:
        """since: the share of its length that it is trained already, for the progress that is shown."""
        tools, limits = self._tools, self._limits
        if limits.timeout_s is not None:
            is_new = not since and not self._has_begun(request)
            (begins if is_new else goes_on)(self._work / request.name)
        order = {
            "address": self._address,
            "request": _anywhere(request).as_json(),
            "work": str(self._work.absolute() / request.name),
            "checkpoint_s": tools.checkpoint_s,
        }
        threads = self._materials.study.config.run.threads_per_trial
        alone = limits.memory_bytes is not None  # what an earlier training left behind is not this one's
        job = Job(
            request.name,
            TRAIN,
            order,
            threads,
            self._left(request.name),
            limits.memory_bytes,
            alone,
            opens=True,
            folder=self._address["dir"],
        )
        self._running[request.name] = (since, request.until)
        tools.progress.had(min(max(share_of(self._work / request.name) - since, 0.0), request.until - since))
        self._executor.submit(job)

    def ended(self) -> dict[str, Outcome | str]:
        """Name -> outcome, or the error's text of one that failed, of those that ended since the last call.

        Waits a moment where none has. Raises what ends the study: an interruption where nothing ended that an undisturbed run would
        have, too.
        """
        if self._executor.remote:
            done = ended(self._executor, LOOK_S)
        else:
            with lent(self._here, Address(**self._address)):
                done = ended(self._executor, LOOK_S)
        self._count()
        found: dict[str, Outcome | str] = {}
        for each in done:
            if each.id not in self._running:
                continue
            if not each.error and "ends" in _value(each):
                raise from_json(each.value["ends"])
            since, until = self._running.pop(each.id)
            self.done += until - since
            self.busy_s += each.seconds
            if self._limits.timeout_s is not None:
                took(self._work / each.id, each.seconds)
            error = each.error
            if each.over:
                self.over[each.id] = (f"trial_{each.over}", getattr(self._limits, each.over))
                if each.over == "timeout_s":  # of the whole training, of which the job may have been the rest
                    error = f"timed out after {self._limits.timeout_s:g} s"
                    begins(self._work / each.id)  # where it is tried again it has all of its time
            found[each.id] = error or Outcome(**each.value["outcome"])
        self._show()
        if self._tools.stop():
            found = {name: each for name, each in found.items() if isinstance(each, Outcome) or name in self.over}
            if not found:
                raise InterruptedRun("stopped; running trials were asked to checkpoint")
        return found

    def close(self) -> None:
        """Ask those that run to checkpoint and end."""
        for name in self._running:
            self._executor.stop(name)

    def _has_begun(self, request: Request) -> bool:
        """Whether a stop or a kill left a checkpoint of it."""
        files = list((self._work / request.name).glob("phase-*.safetensors"))
        return bool(files) and owner_of(self._materials, request) in map(owner_in, files)

    def _left(self, name: str) -> float | None:
        """Seconds that this training may take yet; None = no limit."""
        most = self._limits.timeout_s
        return None if most is None else max(most - seconds_of(self._work / name), LEAST_S)

    def _count(self) -> None:
        """Machines come and go, and slots with them."""
        now, slots = time.monotonic(), self.slots
        self.slot_s += slots * (now - self._counted)
        self.most, self._counted = max(self.most, slots), now

    def _show(self) -> None:
        shares = {name: share_of(self._work / name) for name in self._running}
        under_way = [
            min(max(shares[name] - since, 0.0), until - since) for name, (since, until) in self._running.items()
        ]
        self._tools.progress.at(self.done + sum(under_way), f"{len(self._running)} running" if shares else "")

    def _moved(self, name: str) -> Report:
        """The progress of a training in this process."""
        since, until = self._running.get(name, (0.0, 1.0))
        is_first = True

        def moved(_: str, at: int, of: int, loss: float) -> None:
            nonlocal is_first
            share = min(max(at / of, since), until)
            if is_first:
                self._tools.progress.had(max((at - 1) / of - since, 0.0))
                is_first = False
            self._tools.progress.at(self.done + share - since, f"{name}: loss {loss:.4g}")

        return Report(step=moved)


def _anywhere(request: Request) -> Request:
    """With its files where a process of another working directory finds them."""
    start, uncut = (
        {role: str(Path(file).absolute()) for role, file in files.items()} for files in (request.start, request.uncut)
    )
    return replace(request, start=start, uncut=uncut)


def _value(done: Done) -> Mapping[str, Any]:
    """What a training's job gave. Raise PluginError where the executor has lost it."""
    value = done.value
    if not isinstance(value, Mapping) or not {"ends", "outcome"} & value.keys():
        problem = f"the executor gives {value!r} as the value of job '{done.id}'"
        raise PluginError(problem, path=PLACE, expected="what the job's function returned")
    return value


def run_trainings(
    materials: Materials,
    requests: Sequence[Request],
    work: Path,
    prepared: Artifact,
    teachers: Mapping[str, Live],
    tools: Tools,
    since: Mapping[str, float] | None = None,
) -> dict[str, Outcome | str]:
    """All of them: name -> outcome, or the error's text of one that failed. `since`: see `Trainings.submit`; 0 of what it lacks."""
    trainings = Trainings(materials, work, prepared, teachers, tools)
    found: dict[str, Outcome | str] = {}
    waiting = [*requests]
    try:
        while len(found) < len(requests):
            while waiting and trainings.free:
                request = waiting.pop(0)
                trainings.submit(request, (since or {}).get(request.name, 0.0))
            found |= trainings.ended()
    finally:
        trainings.close()
    return found
