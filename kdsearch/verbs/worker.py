"""A worker: this machine does jobs of a run whose folder it shares, until the run is over. See `kdsearch.jobs.letters`."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from kdsearch.errors import InterruptedRun, UserError
from kdsearch.host import Host
from kdsearch.jobs.letters import BEAT_S, LEASE_S, Orders, orders_for, versions
from kdsearch.jobs.processes import JobProcesses
from kdsearch.kinds import Done, Executor, Job
from kdsearch.store.files import read_json, storing, write_json
from kdsearch.store.folder import ORIGIN, SAID, STUDY, WORKERS, Origin
from kdsearch.study.reading import load_study
from kdsearch.training.attempt import from_json
from kdsearch.verbs.finished import opened
from kdsearch.verbs.run import stoppable

LOOK_S = 0.5
JOBS = (
    "kdsearch.training.job:train_job",
    "kdsearch.stages.search:score_job",
)  # whoever writes orders has these done alone


def worker(
    *,
    dir: Path,
    slots: int = 1,
    allow_code: tuple[str, ...] = (),
    stay: bool = False,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Do jobs of the runs of a study's folder until one is over, or, with `stay`, until it is interrupted.

    Args:
        slots: jobs at once.
        allow_code: code that the study names and that may run here.
        told: called with what happens, in words.

    Raises:
        UserError: this machine is not as the run's: another version of a package, another place of the folder, data that is not
            there. What it had begun goes on elsewhere.
        InterruptedRun: by a signal; jobs have written their checkpoints.
    """
    folder = opened(dir).resolve()
    _check_joinable(folder, allow_code)
    here = Worker(folder, slots, allow_code, told)
    with stoppable() as stop:
        try:
            here.enter()
            while here.serve(stay):
                if stop():
                    raise InterruptedRun("interrupted; what ran here goes on elsewhere")
        except KeyboardInterrupt:
            raise InterruptedRun("interrupted; what ran here goes on elsewhere") from None
        finally:
            here.leave()
    done = f"{here.n_done} job{'' if here.n_done == 1 else 's'} done"
    return {"dir": str(dir), "jobs": here.n_done, "text": f"the run is over; {done} here"}


def _check_joinable(folder: Path, allow_code: tuple[str, ...]) -> None:
    """The study can be opened here, and its executor takes workers. Raise UserError."""
    host = Host.load()
    origin: Origin = read_json(folder / ORIGIN, Origin)
    study = load_study(folder / STUDY, host, allow_code, base=folder / origin["base"])
    use = study.executor
    executor: type[Executor[Any]] = study.host(host).load_class("executor", use.use)
    if not executor.joinable:
        problem = f"the study's trials run by executor '{use.use}', which takes no workers"
        raise UserError(problem, file=folder / STUDY, path="run.executor", expected="such as 'processes'")


@dataclass
class Worker:
    """One worker: its place in the study's folder, the run that it follows, and what it does for it."""

    folder: Path
    slots: int
    allow_code: tuple[str, ...]
    told: Callable[[str], None]
    n_done: int = 0
    _place: Path = field(init=False)
    _run: str = ""
    _processes: JobProcesses | None = None
    _running: dict[str, str] = field(default_factory=dict)  # ticket -> the job's name
    _done: dict[str, Done] = field(default_factory=dict)
    _given_up: set[str] = field(default_factory=set)  # tickets that are somebody else's from here on
    _over: set[str] = field(default_factory=set)  # runs
    _heard: tuple[int, float] = (0, 0.0)  # the run's last beat, and when it was heard
    _beat: int = 0
    _said: Mapping[str, Any] = field(default_factory=dict)
    _said_at: float = 0.0

    def enter(self) -> None:
        self._place = self.folder / WORKERS / uuid4().hex[:12]
        with storing(self._place):
            self._place.mkdir(parents=True)
        self._say()
        plural = "" if self.slots == 1 else "s"
        self.told(f"joined {self.folder} with {self.slots} slot{plural}; waiting for a run to give it work")

    def serve(self, stay: bool) -> bool:
        """One look at orders and jobs; False once a run is over that this worker followed."""
        orders = orders_for(self._place)
        if not self._place.is_dir():  # it was taken for lost
            self._drop()
            self.told("the run had heard nothing of this worker, and took its work back")
            self.enter()
            orders = None
        if orders is not None and orders["run"] in self._over:
            orders = None
        if orders is not None and orders["run"] != self._run:
            self._drop()
            self._follow(orders)
        if orders is not None:
            self._heed(orders)
            if orders["is_over"]:
                self._over.add(self._run)
                self._drop()
                self.told("the run is over")
                if not stay:
                    return False
        self._work()
        self._say()
        return True

    def leave(self) -> None:
        """End every job after its checkpoint; the folder goes, and whoever follows it knows."""
        self._drop()
        if hasattr(self, "_place"):
            shutil.rmtree(self._place, ignore_errors=True)
            try:
                self._place.parent.rmdir()
            except OSError:  # others are there
                return

    def _follow(self, orders: Orders) -> None:
        """Begin to work for a run, where this machine is like its own."""
        there, ours = Path(orders["dir"]), versions()
        if not there.exists() or not os.path.samefile(there, self.folder):
            problem = f"the run knows its folder as {there}"
            expected = "the folder under the same path on every machine"
            raise UserError(problem, file=self.folder, expected=expected, fix="Mount it there.")
        theirs = orders["versions"]
        if other := [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]:
            here = ", ".join(f"{name} {ours.get(name, 'missing')}" for name in other)
            needed = ", ".join(f"{name} {theirs.get(name, 'missing')}" for name in other)
            raise UserError(f"this machine has {here}", file=self.folder, expected=f"{needed}, as the run has")
        os.environ.update({name: each for name, each in orders["environment"].items() if name.startswith("KDSEARCH_")})
        self._run, self._processes = orders["run"], JobProcesses(self.slots, orders["grace_s"])
        self._heard = (orders["beat"], time.monotonic())
        self.told("a run is there")

    def _heed(self, orders: Orders) -> None:
        """Begin, stop and forget jobs as the run has it."""
        assert self._processes is not None
        now = time.monotonic()
        if orders["beat"] != self._heard[0]:
            self._heard = (orders["beat"], now)
        elif self._running and now - self._heard[1] > LEASE_S:
            self.told("nothing was heard of the run for half a minute: what ran here is stopped")
            self._given_up |= {*self._running}
            self._drop_jobs()
        self._done = {ticket: each for ticket, each in self._done.items() if ticket in orders["jobs"]}
        if now - self._heard[1] > LEASE_S:
            return
        for ticket, job in orders["jobs"].items():
            if ticket in self._running:
                if ticket in orders["stopped"]:
                    self._processes.stop(ticket)
            elif ticket in orders["stopped"]:
                self._done.setdefault(ticket, Done(ticket, error="stopped"))
            elif ticket not in self._done and ticket not in self._given_up:
                self._check(job)
                self._running[ticket] = job.id
                self._processes.submit(replace(job, id=ticket))
                self.told(f"{job.id}: begun")

    def _check(self, job: Job) -> None:
        if job.function not in JOBS:
            raise UserError(f"the run asks for '{job.function}'", file=self._place, expected=" or ".join(JOBS))
        named = job.arguments.get("address", {}).get("allow_code", ())
        if other := [each for each in named if each not in self.allow_code]:
            fix = " ".join(f"--allow-code {each}" for each in other)
            raise UserError(f"the study runs code of its own: {', '.join(other)}", file=self.folder, fix=f"Add {fix}.")

    def _work(self) -> None:
        ended = self._processes.wait(LOOK_S) if self._processes is not None else []
        if not self._running and not ended:
            time.sleep(LOOK_S)
        for each in ended:
            name = self._running.pop(each.id, "")
            if not name:
                continue
            ends = each.value.get("ends") if isinstance(each.value, Mapping) else None
            if ends:
                raise from_json(ends)
            if each.fatal:
                raise UserError(f"{name}: {each.error}", file=self.folder)
            self._done[each.id] = each
            self.n_done += each.error != "stopped"
            self.told(f"{name}: {each.error.splitlines()[0] if each.error else f'done in {each.seconds:.0f} s'}")

    def _say(self) -> None:
        """Write what holds here, where that has changed or a beat is due."""
        said = {"running": sorted(self._running), "done": {ticket: vars(each) for ticket, each in self._done.items()}}
        said |= {"run": self._run}
        if said == self._said and time.monotonic() - self._said_at < BEAT_S:
            return
        self._beat += 1
        self._said, self._said_at = said, time.monotonic()
        who = {"host": socket.gethostname(), "pid": os.getpid(), "slots": self.slots, "beat": self._beat}
        try:
            write_json(self._place / SAID, {**who, **said})
        except FileNotFoundError:  # it was taken for lost: the next look finds out
            return

    def _drop_jobs(self) -> None:
        if self._processes is not None:
            self._processes.close()
        self._running = {}

    def _drop(self) -> None:
        """Stop what runs, and follow nobody."""
        self._drop_jobs()
        self._run, self._processes, self._done, self._given_up = "", None, {}, set()
