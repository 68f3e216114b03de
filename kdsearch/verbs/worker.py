"""A worker: this machine does jobs of a run whose folder it shares, until the run is over. See `kdsearch.jobs.letters`."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from kdsearch.errors import ArtifactError, InterruptedRun, UserError
from kdsearch.host import Host
from kdsearch.jobs.letters import (
    BEAT_S,
    LEASE_S,
    Orders,
    environment,
    head_for,
    orders_for,
    other_versions,
    tidied,
)
from kdsearch.jobs.processes import JobProcesses
from kdsearch.kinds import Done, Executor, Job
from kdsearch.stages.search import SCORE
from kdsearch.store.files import read_json, storing, write_json
from kdsearch.store.folder import HOLDER, MARK, ORIGIN, SAID, STUDY, WORKERS, Origin, holder_of
from kdsearch.store.inputs import lies
from kdsearch.study.reading import load_study
from kdsearch.training.attempt import from_json
from kdsearch.training.trainings import TRAIN
from kdsearch.verbs.finished import opened
from kdsearch.verbs.run import stoppable

LOOK_S = 0.5
JOBS = (TRAIN, SCORE)  # whoever writes orders has these done alone


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
    here = Worker(folder, base_of(folder, allow_code), slots, allow_code, told)
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


def base_of(folder: Path, allow_code: tuple[str, ...]) -> Path:
    """Where the study's paths start. Raise UserError unless it can be opened here, and its executor takes workers."""
    if not (lies(folder / ORIGIN, error=ArtifactError) and lies(folder / STUDY, error=ArtifactError)):
        fix = "Begin it with `kdsearch run`, then join it."
        raise ArtifactError("no study has run here", file=folder, expected="a study's folder", fix=fix)
    host = Host.load()
    origin: Origin = read_json(folder / ORIGIN, Origin)
    base = (folder / origin["base"]).resolve()
    study = load_study(folder / STUDY, host, allow_code, base=base)
    use = study.executor
    executor: type[Executor[Any]] = study.host(host).load_class("executor", use.use)
    if not executor.joinable:
        problem = f"the study's trials run by executor '{use.use}', which takes no workers"
        raise UserError(problem, file=folder / STUDY, path="run.executor", expected="such as 'processes'")
    return base


@dataclass
class Worker:
    """One worker: its place in the study's folder, the run that it follows, and what it does for it.

    base: where the study's paths start here.
    """

    folder: Path
    base: Path
    slots: int
    allow_code: tuple[str, ...]
    told: Callable[[str], None]
    n_done: int = 0
    _place: Path = field(init=False)
    _run: str = ""
    _was_held: bool = False  # the folder, by a run, since this one is here
    _processes: JobProcesses | None = None
    _running: dict[str, str] = field(default_factory=dict)  # ticket -> the job's name
    _done: dict[str, Done] = field(default_factory=dict)
    _stopped: set[str] = field(default_factory=set)  # tickets that the run has stopped
    _given_up: set[str] = field(default_factory=set)  # tickets that are somebody else's from here on
    _heard: tuple[int, float] = (0, 0.0)  # the run's last beat, and when it was heard
    _beat: int = 0
    _said: Mapping[str, Any] = field(default_factory=dict)
    _said_at: float = 0.0

    def enter(self) -> None:
        workers = self.folder / WORKERS
        self._place = workers / uuid4().hex[:12]
        with storing(self._place):
            workers.mkdir(exist_ok=True)
            self._place.mkdir()
            for each in (workers, self._place):  # where a group shares the folder it shares these
                with suppress(OSError):
                    each.chmod(self.folder.stat().st_mode)
        self._say()
        plural = "" if self.slots == 1 else "s"
        self.told(f"joined {self.folder} with {self.slots} slot{plural}; waiting for a run to give it work")

    def serve(self, stay: bool) -> bool:
        """One look at orders and jobs; False once a run is over. Raise ArtifactError where the study's folder is gone."""
        if not (self.folder / MARK).exists():
            raise ArtifactError("the study's folder is gone", file=self.folder)
        if not self._place.is_dir():  # it was taken for lost
            self._drop()
            self.told("the run had heard nothing of this worker, and took its work back")
            self.enter()
        orders = self._orders()
        if orders is not None and orders["run"] != self._run:
            self._drop()
            self._follow(orders)
        self._mind_lease(orders)
        if orders is not None:
            self._heed(orders)
        self._work()
        self._say()
        return stay or not self._is_over()

    def leave(self) -> None:
        """End every job after its checkpoint; the folder goes, and whoever follows it knows."""
        self._drop()
        if hasattr(self, "_place"):
            tidied(self._place)
            with suppress(OSError):  # others are there
                self._place.parent.rmdir()

    def _orders(self) -> Orders | None:
        """Those of the run; None = none, or an older copy of them."""
        orders = orders_for(self._place)
        if orders is None:
            head = head_for(self._place)
            self._check_versions(head["versions"] if head is not None else None)
            return None
        return None if orders["run"] == self._run and orders["beat"] < self._heard[0] else orders

    def _check_versions(self, theirs: dict[str, str] | None) -> None:
        here, there = other_versions(theirs) if theirs is not None else ("", "")
        if here:
            raise UserError(f"this machine has {here}", file=self.folder, expected=f"{there}, as the run has")

    def _is_over(self) -> bool:
        """Whether a run held the folder, and no longer does; one that was killed leaves the sign of it there."""
        who = holder_of(self.folder)
        if who is not None and who.get("briefly"):
            return False
        is_held = (self.folder / HOLDER).exists()
        was_held, self._was_held = self._was_held, is_held
        return was_held and not is_held

    def _follow(self, orders: Orders) -> None:
        """Begin to work for a run, where this machine is like its own."""
        there = Path(orders["dir"])
        if not there.exists() or not os.path.samefile(there, self.folder):
            problem = f"the run knows its folder as {there}"
            expected = "the folder under the same path on every machine"
            raise UserError(problem, file=self.folder, expected=expected, fix="Mount it there.")
        self._check_versions(orders["versions"])
        for name in environment():
            del os.environ[name]
        os.environ.update({name: each for name, each in orders["environment"].items() if name.startswith("KDSEARCH_")})
        self._run = orders["run"]
        self._processes = JobProcesses(self.slots, orders["grace_s"], orders["reuse"])
        self._heard = (orders["beat"], time.monotonic())
        self.told("a run is there")

    def _mind_lease(self, orders: Orders | None) -> None:
        """Stop what runs here where the run has not been heard of for long: by then it may begin it elsewhere."""
        now = time.monotonic()
        if orders is not None and orders["beat"] != self._heard[0]:
            self._heard = (orders["beat"], now)
        elif self._running and now - self._heard[1] > LEASE_S:
            self.told("nothing was heard of the run for half a minute: what ran here is stopped")
            self._given_up |= {*self._running}
            self._drop_jobs()

    def _heed(self, orders: Orders) -> None:
        """Begin, stop and forget jobs as the run has it."""
        assert self._processes is not None
        self._done = {ticket: each for ticket, each in self._done.items() if ticket in orders["jobs"]}
        for ticket in [each for each in self._running if each not in orders["jobs"]]:  # somebody else's by now
            self._given_up.add(ticket)
            self._processes.stop(ticket)
        if time.monotonic() - self._heard[1] > LEASE_S:
            return
        self._stopped = {*orders["stopped"]}
        for ticket, job in orders["jobs"].items():
            if ticket in self._running:
                if ticket in self._stopped:
                    self._processes.stop(ticket)
            elif ticket in self._stopped:
                self._done.setdefault(ticket, Done(ticket, error="stopped"))
            elif ticket not in self._done and ticket not in self._given_up:
                self._check(job)
                self._running[ticket] = job.id
                self._processes.submit(replace(job, id=ticket))
                self.told(f"{job.id}: begun")

    def _check(self, job: Job) -> None:
        """Raise UserError for anything but a training or scores of this very study."""
        address = job.arguments.get("address")
        given = address if isinstance(address, Mapping) else {}
        places = {"dir": (given.get("dir"), self.folder), "base": (given.get("base"), self.base)}
        wrong = [f"{name} {found}" for name, (found, ours) in places.items() if not _is_place(found, ours)]
        work = job.arguments.get("work", str(self.folder))
        if not (isinstance(work, str) and Path(work).resolve().is_relative_to(self.folder)):
            wrong.append(f"work {work}")
        if job.function not in JOBS or wrong:
            asked = ", ".join([job.function, *wrong])
            raise UserError(
                f"the run asks for {asked}", file=self._place, expected=f"{' or '.join(JOBS)} of this study"
            )
        if other := [each for each in given.get("allow_code", ()) if each not in self.allow_code]:
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
            if (
                each.error == "stopped" and each.id not in self._stopped
            ):  # by a signal to all processes of this machine's job
                self._given_up.add(each.id)
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
        done = {ticket: json.dumps(vars(each)) for ticket, each in self._done.items()}
        said = {"running": sorted(self._running), "done": done, "run": self._run}
        if said == self._said and time.monotonic() - self._said_at < BEAT_S:
            return
        self._beat += 1
        self._said, self._said_at = said, time.monotonic()
        who = {"host": socket.gethostname(), "pid": os.getpid(), "slots": self.slots}
        with suppress(FileNotFoundError):  # it was taken for lost: the next look finds out
            write_json(self._place / SAID, {**who, **said, "beat": self._beat, "heard": self._heard[0]})

    def _drop_jobs(self) -> None:
        if self._processes is not None:
            self._processes.close()
        self._running = {}

    def _drop(self) -> None:
        """Stop what runs, and follow nobody."""
        self._drop_jobs()
        self._run, self._processes, self._done, self._given_up = "", None, {}, set()


def _is_place(found: Any, ours: Path) -> bool:
    return isinstance(found, str) and Path(found).resolve() == ours
