"""Workers that joined a run from elsewhere (`kdsearch worker DIR`), as the run's executor sees them."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

from kdsearch.errors import StorageError
from kdsearch.jobs.letters import BEAT_S, LOST_S, ORDERS, Said, environment, said_by, tidied, versions
from kdsearch.kinds import Done, Job
from kdsearch.store.files import write_json
from kdsearch.store.folder import SAID, places_of_workers

LOOK_S = 0.5  # how often workers are listened to
RETRIES = 3  # how often a job is done again whose worker was lost


@dataclass(frozen=True)
class _Order:
    """A job; `lost`: the machines that were lost under it; `since`: the beat of the first orders that have it."""

    job: Job
    lost: tuple[str, ...]
    since: int


@dataclass(eq=False)
class _Worker:
    """A worker's folder: what was given, what it said last, and when that was heard."""

    place: Path
    heard: float
    said: Said | None = None
    orders: dict[str, _Order] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    beat: int = 0
    told: dict[str, Any] = field(default_factory=dict)
    told_at: float = 0.0
    is_shut: bool = False  # nothing can be written there

    @property
    def slots(self) -> int:
        return self.said["slots"] if self.said is not None else 0


class Joined:
    """`slots` jobs at once on other machines; `look` is to be called often, and does nothing where nobody has joined.

    A job comes back where its worker has left, or was lost: `back`. One whose workers were lost `RETRIES` + 1 times has failed.
    A thread of its own lets workers know that the run lives, whatever that does meanwhile.
    """

    def __init__(self, grace_s: float, reuse: bool = True) -> None:
        self.grace_s, self.reuse = grace_s, reuse
        self.back: list[Job] = []
        self._lost: dict[str, tuple[str, ...]] = {}  # id of a job that came back -> the machines lost under it
        self._folder: Path | None = None
        self._run = uuid4().hex
        self._workers: dict[Path, _Worker] = {}
        self._tickets = count()
        self._done: list[Done] = []
        self._looked = 0.0
        self._lock = threading.RLock()
        self._over = threading.Event()

    @property
    def slots(self) -> int:
        return sum(each.slots for each in self._ours)

    @property
    def running(self) -> int:
        return sum(len(each.orders) for each in self._workers.values())

    @property
    def is_free(self) -> bool:
        return any(len(each.orders) < each.slots for each in self._ours)

    @property
    def is_settling(self) -> bool:
        """Whether a worker may still do what it was asked for by a run that was killed: nothing is to begin before."""
        others = [each for each in self._workers.values() if each not in self._ours]
        return any(each.said is not None and each.said["running"] for each in others)

    def open(self, folder: Path) -> None:
        """Welcome workers of a study's folder."""
        if self._folder is None:
            self._folder = folder
            with self._lock:
                self._look()
            self._over.clear()
            threading.Thread(target=self._beat, args=(self._run,), daemon=True).start()

    def give(self, job: Job) -> None:
        """To the worker with the most free slots."""
        with self._lock:
            free = max(self._ours, key=lambda each: each.slots - len(each.orders))
            lost = self._lost.pop(job.id, ())
            free.orders[f"{self._run}-{next(self._tickets)}"] = _Order(job, lost, free.beat + 1)
            self._tell(free)

    def forget(self, id: str) -> None:
        """It begins on this machine, from where it comes back no more: another job of its name has lost nothing."""
        self._lost.pop(id, None)

    def stop(self, id: str) -> None:
        with self._lock:
            for each in [*self._workers.values()]:
                if found := {ticket for ticket, order in each.orders.items() if order.job.id == id}:
                    each.stopped |= found
                    self._tell(each)

    def look(self) -> list[Done]:
        """Jobs that ended since the last call."""
        with self._lock:
            if self._folder is not None and time.monotonic() - self._looked >= LOOK_S:
                self._look()
            done, self._done = self._done, []
            return done

    def ask_to_end(self) -> None:
        """Every job is to checkpoint and end; `close` waits for it."""
        for id in {order.job.id for each in self._workers.values() for order in each.orders.values()}:
            self.stop(id)

    def close(self) -> None:
        """Stop every job."""
        self.ask_to_end()
        until = time.monotonic() + self.grace_s + BEAT_S
        while self.running and time.monotonic() < until:
            time.sleep(LOOK_S)
            with self._lock:
                self._look()
        self._over.set()
        with self._lock:
            self.back, self._done, self._workers, self._folder = [], [], {}, None
            self._lost = {}
            self._run = uuid4().hex

    @property
    def _ours(self) -> list[_Worker]:
        """Workers that follow this run."""
        return [each for each in self._workers.values() if each.said is not None and each.said["run"] == self._run]

    def _beat(self, run: str) -> None:
        while not self._over.wait(BEAT_S):
            with self._lock:
                if self._run != run:
                    return
                for each in [*self._workers.values()]:
                    self._tell(each)

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
        has_left = said is None and worker.said is not None and not (worker.place / SAID).exists()
        if said is not None and (worker.said is None or said["beat"] > worker.said["beat"]):
            worker.said, worker.heard = said, now
            if said["run"] == self._run:
                self._hear(worker, said)
        self._tell(worker)
        if has_left or worker.is_shut or now - worker.heard > LOST_S + self.grace_s:
            self._part(worker, has_left or worker.is_shut)
            tidied(worker.place)  # one that is still there takes it for the end of its orders

    def _hear(self, worker: _Worker, said: Said) -> None:
        for ticket, order in [*worker.orders.items()]:
            if ticket in said["done"]:
                self._done.append(replace(_done(said["done"][ticket]), id=order.job.id))
            elif ticket in said["running"] or said["heard"] < order.since:
                continue
            else:  # it gave the job up
                self._come_back(order, ticket in worker.stopped)
            del worker.orders[ticket]
            worker.stopped.discard(ticket)

    def _part(self, worker: _Worker, is_no_loss: bool) -> None:
        """Without this worker from here on."""
        self._workers.pop(worker.place, None)
        host = worker.said["host"] if worker.said else "?"
        for ticket, order in worker.orders.items():
            lost = order.lost if is_no_loss else (*order.lost, host)
            self._come_back(replace(order, lost=lost), ticket in worker.stopped)
        worker.orders = {}

    def _come_back(self, order: _Order, is_stopped: bool) -> None:
        if is_stopped:
            self._done.append(Done(order.job.id, error="stopped"))
        elif len(order.lost) > RETRIES:
            text = f"the worker that it ran on was lost {len(order.lost)} times ({', '.join(order.lost)})"
            self._done.append(Done(order.job.id, error=text))
        else:
            self._lost[order.job.id] = order.lost
            self.back.append(order.job)

    def _tell(self, worker: _Worker) -> None:
        """Write its orders, where they have changed or a beat is due."""
        told = {
            "jobs": {ticket: vars(order.job) for ticket, order in worker.orders.items()},
            "stopped": sorted(worker.stopped),
        }
        if told == worker.told and time.monotonic() - worker.told_at < BEAT_S:
            return
        worker.beat += 1
        worker.told, worker.told_at = told, time.monotonic()
        about = {"run": self._run, "beat": worker.beat, "dir": str(self._folder)}
        about |= {"versions": versions(), "environment": environment(), "grace_s": self.grace_s, "reuse": self.reuse}
        try:
            write_json(worker.place / ORDERS, {**about, **told})
        except FileNotFoundError:  # it has left: the next look finds out
            return
        except (OSError, StorageError):  # such as another user's folder: the run goes on without that worker
            worker.is_shut = True


def _done(text: str) -> Done:
    try:
        return Done(**json.loads(text))
    except (TypeError, ValueError) as error:
        return Done("", error=f"what its worker told of it cannot be read: {error}")
