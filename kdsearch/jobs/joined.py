"""Workers that joined a run from elsewhere (`kdsearch worker DIR`), as the run's executor sees them."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

from kdsearch.jobs.letters import (
    BEAT_S,
    LOST_S,
    ORDERS,
    Said,
    environment,
    said_by,
    versions,
)
from kdsearch.kinds import Done, Job
from kdsearch.store.files import write_json
from kdsearch.store.folder import SAID, places_of_workers

LOOK_S = 0.5  # how often workers are listened to
RETRIES = 3  # how often a job is done again whose worker was lost


@dataclass(frozen=True)
class _Order:
    job: Job
    lost: tuple[str, ...] = ()  # the machines that were lost under it


@dataclass
class _Worker:
    """A worker's folder: what was given, what it said last, and when that was heard."""

    place: Path
    heard: float
    said: Said | None = None
    orders: dict[str, _Order] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)  # tickets that it was heard to run
    stopped: set[str] = field(default_factory=set)
    beat: int = 0
    told: dict[str, Any] = field(default_factory=dict)
    told_at: float = 0.0


class Joined:
    """`slots` jobs at once on other machines; `look` is to be called often, and does nothing where nobody has joined.

    A job comes back where its worker has left, or was lost: `back`. One whose workers were lost `RETRIES` + 1 times has failed.
    """

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self.back: list[Job] = []
        self._lost: dict[
            str, tuple[str, ...]
        ] = {}  # id of a job that came back -> the machines that were lost under it
        self._folder: Path | None = None
        self._run = uuid4().hex
        self._workers: dict[Path, _Worker] = {}
        self._tickets = count()
        self._done: list[Done] = []
        self._looked = 0.0

    @property
    def slots(self) -> int:
        return sum(each.said["slots"] for each in self._ours)

    @property
    def running(self) -> int:
        return sum(len(each.orders) for each in self._workers.values())

    @property
    def is_free(self) -> bool:
        return any(len(each.orders) < each.said["slots"] for each in self._ours)

    def open(self, folder: Path) -> None:
        """Welcome workers of a study's folder, once none of them does anything any more for a run that was killed."""
        if self._folder is None:
            self._folder = folder
            self._look()
            while any(each.said and each.said["running"] for each in self._workers.values() if each not in self._ours):
                time.sleep(LOOK_S)
                self._look()

    def give(self, job: Job) -> None:
        """To the worker with the most free slots."""
        free = max(self._ours, key=lambda each: each.said["slots"] - len(each.orders))
        free.orders[f"{self._run}-{next(self._tickets)}"] = _Order(job, self._lost.pop(job.id, ()))
        self._tell(free)

    def stop(self, id: str) -> None:
        for each in self._workers.values():
            if found := {ticket for ticket, order in each.orders.items() if order.job.id == id}:
                each.stopped |= found
                self._tell(each)

    def look(self) -> list[Done]:
        """Jobs that ended since the last call."""
        if self._folder is not None and time.monotonic() - self._looked >= LOOK_S:
            self._look()
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Stop every job, and send the workers away once they have."""
        for each in self._workers.values():
            each.stopped |= {*each.orders}
            self._tell(each)
        until = time.monotonic() + self.grace_s + BEAT_S
        while self.running and time.monotonic() < until:
            time.sleep(LOOK_S)
            self._look()
        for each in self._workers.values():
            with contextlib.suppress(Exception):  # a worker that does not hear of it hears no beat
                self._tell(each, is_over=True)
        self.back, self._done, self._workers, self._folder = [], [], {}, None
        self._run = uuid4().hex

    @property
    def _ours(self) -> list[Any]:
        """Workers that follow this run."""
        return [each for each in self._workers.values() if each.said is not None and each.said["run"] == self._run]

    def _look(self) -> None:
        assert self._folder is not None
        for place in places_of_workers(self._folder):
            if place not in self._workers:
                self._workers[place] = _Worker(place, time.monotonic())
        for each in [*self._workers.values()]:
            self._listen(each)
        self._looked = time.monotonic()

    def _listen(self, worker: _Worker) -> None:
        said, now = said_by(worker.place), time.monotonic()
        if said is not None and (worker.said is None or said["beat"] != worker.said["beat"]):
            worker.heard = now
        has_left = said is None and worker.said is not None and not (worker.place / SAID).exists()
        worker.said = said or worker.said
        if has_left or now - worker.heard > LOST_S + self.grace_s:
            self._part(worker, has_left)
            return
        if said is not None and said["run"] == self._run:
            self._hear(worker, said)
        self._tell(worker)

    def _hear(self, worker: _Worker, said: Said) -> None:
        for ticket, order in [*worker.orders.items()]:
            if ticket in said["done"]:
                self._done.append(replace(said["done"][ticket], id=order.job.id))
            elif ticket in said["running"]:
                worker.taken.add(ticket)
                continue
            elif ticket not in worker.taken:  # it has not heard of it yet
                continue
            else:  # it was stopped there, as it did not hear from this run
                self._come_back(order, ticket in worker.stopped)
            del worker.orders[ticket]
            worker.taken.discard(ticket)
            worker.stopped.discard(ticket)

    def _part(self, worker: _Worker, has_left: bool) -> None:
        """A worker that has left, or was lost: its folder goes, which one that is still there takes for the end of its orders."""
        del self._workers[worker.place]
        shutil.rmtree(worker.place, ignore_errors=True)
        host = worker.said["host"] if worker.said else "?"
        for ticket, order in worker.orders.items():
            lost = order.lost if has_left else (*order.lost, host)
            self._come_back(_Order(order.job, lost), ticket in worker.stopped)

    def _come_back(self, order: _Order, is_stopped: bool) -> None:
        if is_stopped:
            self._done.append(Done(order.job.id, error="stopped"))
        elif len(order.lost) > RETRIES:
            text = f"the worker that it ran on was lost {len(order.lost)} times ({', '.join(order.lost)})"
            self._done.append(Done(order.job.id, error=text))
        else:
            self._lost[order.job.id] = order.lost
            self.back.append(order.job)

    def _tell(self, worker: _Worker, is_over: bool = False) -> None:
        """Write its orders, where they have changed or a beat is due."""
        jobs = {ticket: vars(order.job) for ticket, order in worker.orders.items()}
        told = {"jobs": jobs, "stopped": sorted(worker.stopped), "is_over": is_over}
        if told == worker.told and time.monotonic() - worker.told_at < BEAT_S:
            return
        worker.beat += 1
        worker.told, worker.told_at = told, time.monotonic()
        orders = {
            "run": self._run,
            "beat": worker.beat,
            "is_over": is_over,
            "dir": str(self._folder),
            "versions": versions(),
            "environment": environment(),
            "grace_s": self.grace_s,
            "jobs": jobs,
            "stopped": sorted(worker.stopped),
        }
        with contextlib.suppress(FileNotFoundError):  # it has left: the next look finds out
            write_json(worker.place / ORDERS, orders)
