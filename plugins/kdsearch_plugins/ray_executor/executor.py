"""Jobs on a Ray cluster: a seat a worker, on whatever machine has room, kept from job to job."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from kdsearch.errors import KdsearchError, PluginError, UnreachableError, UserError, told
from kdsearch.kinds import Done, Executor, Job
from kdsearch.kit.jobs import versions
from kdsearch_plugins.ray_executor.actor import actor_class
from kdsearch_plugins.ray_executor.cluster import PATH, Cluster, mark_in
from kdsearch_plugins.ray_executor.options import RayOptions

TICK_S = 1.0  # how often limits of time are looked at
LATE_S = 10.0  # how long a seat may take, beyond the grace, to say that its job was stopped
END_S = 5.0  # how long seats may take to end their processes
SAID = 300  # characters of what Ray says of a loss


@dataclass
class _Order:
    """A job, and the machines that were lost under it."""

    job: Job
    ticket: int
    lost: list[str] = field(default_factory=list)
    is_stopped: bool = False


@dataclass(eq=False)
class _Seat:
    """An actor. `answer`: what it was asked last and has not said yet."""

    actor: Any
    threads: int
    answer: Any
    is_open: bool = False
    host: str = ""
    node: str = ""
    order: _Order | None = None
    mark: Path | None = None
    seen: set[str] = field(default_factory=set)  # folders that its machine has
    ends_by: float | None = None

    @property
    def is_idle(self) -> bool:
        return self.is_open and self.order is None


class RayExecutor(Executor[RayOptions]):
    """A job whose machine, or whose process of Ray, is lost goes to another seat, `retries` times, and has failed then.

    Joins or starts its cluster with the first job. Within a program that has called `ray.init` it uses that connection.
    """

    def __init__(self, options: RayOptions) -> None:
        """Raise PluginError where Ray is not installed; it is imported with the first job."""
        super().__init__(options)
        if find_spec("ray") is None:
            fix = 'Run: pip install "kdsearch[ray]"'
            raise PluginError("executor 'ray' needs the package 'ray'", path="run.executor.use", fix=fix)
        self._cluster: Cluster | None = None
        self._actor: Any = None
        self._queue: deque[_Order] = deque()
        self._seats: list[_Seat] = []
        self._done: list[Done] = []
        self._tickets = count()
        self._unopened = 0  # seats lost one after another before they were open
        self._starving: float | None = None  # since when jobs wait and no seat is open

    def submit(self, job: Job) -> None:
        """Raise UserError where the cluster cannot be joined."""
        self._queue.append(_Order(job, next(self._tickets)))
        self._fill()

    def wait(self, timeout_s: float) -> list[Done]:
        """Raise UserError where a machine lacks what it needs, UnreachableError where the cluster has no place for a job."""
        until = time.monotonic() + timeout_s
        while self._queue or self._busy:
            self._fill()
            self._look_at_clock()
            left = until - time.monotonic()
            self._listen(0.0 if self._done else min(max(left, 0.0), TICK_S))
            if self._done or left <= 0:
                break
        self._fill()
        done, self._done = self._done, []
        return done

    def stop(self, id: str) -> None:
        """SIGTERM now, SIGKILL after `grace_s`; `wait` then reports it as "stopped" unless it ended well."""
        for order in [each for each in self._queue if each.job.id == id]:
            self._queue.remove(order)
            self._done.append(Done(id, error="stopped"))
        for seat in self._busy:
            if seat.order is not None and seat.order.job.id == id and not seat.order.is_stopped:
                seat.order.is_stopped = True
                seat.ends_by = time.monotonic() + self.options.grace_s + LATE_S
                seat.actor.stop.remote(seat.order.ticket)

    def close(self) -> None:
        self._queue.clear()
        if self._cluster is None:
            return
        ray = self._cluster.ray
        try:
            with contextlib.suppress(KdsearchError, ray.exceptions.RayError):
                for seat in self._busy:
                    assert seat.order is not None
                    self.stop(seat.order.job.id)
                while self._busy:
                    self._look_at_clock()
                    self._listen(TICK_S)
                if ending := [seat.actor.end.remote() for seat in self._seats if seat.is_idle]:
                    ray.wait(ending, num_returns=len(ending), timeout=END_S)
            for seat in list(self._seats):
                self._drop(seat)
        finally:
            self._cluster.close()
            self._cluster, self._actor, self._seats, self._done = None, None, [], []
            self._unopened, self._starving = 0, None

    @property
    def _busy(self) -> list[_Seat]:
        return [each for each in self._seats if each.order is not None]

    def _fill(self) -> None:
        """Give waiting jobs to idle seats, and open as many seats as there are jobs for, `slots` at most."""
        while self._queue and len(self._busy) < self.slots:
            threads = self._queue[0].job.threads
            idle = [each for each in self._seats if each.is_idle]
            fitting = next((each for each in idle if each.threads == threads), None)
            if fitting is not None:
                self._give(fitting, self._queue.popleft())
            elif len(self._seats) - len(idle) >= min(self.slots, len(self._busy) + len(self._queue)):
                return  # enough are being opened
            elif len(self._seats) < self.slots:
                self._open(threads)
            else:
                self._end(idle[0])

    def _open(self, threads: int) -> None:
        if self._cluster is None:
            self._cluster = Cluster.open(self.options.address)
            self._actor = self._cluster.ray.remote(max_restarts=0, max_concurrency=2)(actor_class())
        asked: dict[str, Any] = {"num_cpus": 0 if self._cluster.is_local else threads}
        if self.options.gpus:
            asked["num_gpus"] = self.options.gpus
        if not self._cluster.is_local:
            asked["scheduling_strategy"] = "SPREAD"
        actor = self._actor.options(**asked).remote()
        paths = [os.path.abspath(path) for path in sys.path]
        environment = {name: value for name, value in os.environ.items() if name.startswith("KDSEARCH_")}
        self._seats.append(_Seat(actor, threads, actor.open.remote(paths, environment, self.options.grace_s)))

    def _give(self, seat: _Seat, order: _Order) -> None:
        assert self._cluster is not None
        folder = order.job.folder
        if folder and folder not in seat.seen and not self._cluster.is_local:
            seat.mark = mark_in(Path(folder))
        seat.order, seat.ends_by = order, None
        seat.answer = seat.actor.run.remote(order.ticket, vars(order.job), str(seat.mark or ""))

    def _listen(self, timeout_s: float) -> None:
        """Hear what seats say, waiting for the first."""
        assert self._cluster is not None
        ray = self._cluster.ray
        asked = {each.answer: each for each in self._seats if each.answer is not None}
        ready, _ = ray.wait([*asked], num_returns=1, timeout=timeout_s)
        for ref in ready:
            seat = asked[ref]
            try:
                answer = ray.get(ref)
            except ray.exceptions.RayTaskError as error:  # a fault of the seat's own code, or its disk's
                cause = error.cause if isinstance(error.cause, KdsearchError) else None
                raise cause or KdsearchError(f"machine {seat.host}: {told(error.cause)}") from error
            except ray.exceptions.RayError as error:
                self._lost(seat, error)
            else:
                seat.answer = None
                self._ended(seat, answer) if seat.is_open else self._opened(seat, answer)

    def _opened(self, seat: _Seat, facts: dict[str, Any]) -> None:
        seat.is_open, seat.host, self._unopened, self._starving = True, facts["host"], 0, None
        fix = "Install the same on every machine of the cluster, with kdsearch's extra 'ray'."
        if problem := facts.get("problem"):
            raise PluginError(f"machine {seat.host} cannot import kdsearch: {problem}", path=PATH, fix=fix)
        seat.node, ours = facts["node"], versions()
        there = facts["versions"]
        if other := [name for name in sorted({*ours, *there}) if ours.get(name) != there.get(name)]:
            theirs, here = (
                ", ".join(f"{name} {each.get(name, 'missing')}" for name in other) for each in (there, ours)
            )
            raise UserError(f"machine {seat.host} has {theirs}", path=PATH, expected=f"{here}, as here", fix=fix)

    def _ended(self, seat: _Seat, answer: dict[str, Any]) -> None:
        assert seat.order is not None
        order, seat.order = seat.order, None
        self._unmark(seat)
        if problem := answer.get("problem"):
            raise UserError(
                f"machine {seat.host} {problem}",
                file=order.job.folder,
                expected="a folder that every machine of the cluster reads and writes under this path",
                fix="Put it on a file system that they share (`kdsearch run --dir`).",
            )
        if order.job.folder:
            seat.seen.add(order.job.folder)
        self._done.append(Done(**answer["done"]))

    def _lost(self, seat: _Seat, error: Any) -> None:
        """Run its job again elsewhere, unless it was to stop, or has been tried often enough."""
        self._drop(seat)
        order, why = seat.order, _reason(error)
        if order is None:
            self._unopened += not seat.is_open
            if self._unopened > self.options.retries:
                raise UnreachableError(f"no machine of the cluster keeps a seat for trials: {why}", path=PATH)
            return
        if not self._is_there(seat.node):
            for each in [each for each in self._seats if each.is_idle and each.node == seat.node]:
                self._drop(each)  # lost, too, and a job that found out would count it
        order.lost.append(seat.host)
        if order.is_stopped:
            self._done.append(Done(order.job.id, error="stopped"))
        elif len(order.lost) > self.options.retries:
            places = ", ".join(order.lost)
            text = f"the machine that it ran on was lost {len(order.lost)} times ({places}), the last time: {why}"
            self._done.append(Done(order.job.id, error=text))
        else:
            self._queue.appendleft(_Order(order.job, next(self._tickets), order.lost))

    def _is_there(self, node: str) -> bool:
        assert self._cluster is not None
        return any(each["NodeID"] == node and each["Alive"] for each in self._cluster.ray.nodes())

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        for seat in [each for each in self._busy if each.ends_by is not None and now >= each.ends_by]:
            assert seat.order is not None
            self._drop(seat)
            self._done.append(Done(seat.order.job.id, error="stopped"))
        if not self._queue or any(each.is_open for each in self._seats):
            self._starving = None
        elif self._starving is None:
            self._starving = now
        elif now - self._starving >= self.options.start_s:
            job = self._queue[0].job
            gpus = f" and {self.options.gpus:g} GPUs" if self.options.gpus else ""
            raise UnreachableError(
                f"the cluster had no place for a trial ({job.threads} CPUs{gpus}) within {self.options.start_s:g} s",
                path=PATH,
                expected="a machine with as many that are free",
                fix="`ray status` says what the cluster has, and what is taken.",
            )

    def _end(self, seat: _Seat) -> None:
        """Let go of an idle seat once its processes have ended."""
        assert self._cluster is not None
        self._cluster.ray.wait([seat.actor.end.remote()], timeout=END_S)
        self._drop(seat)

    def _drop(self, seat: _Seat) -> None:
        """Let go of a seat: its actor ends at once, and the job's process with it."""
        assert self._cluster is not None
        self._seats.remove(seat)
        self._unmark(seat)
        with contextlib.suppress(self._cluster.ray.exceptions.RayError):
            self._cluster.ray.kill(seat.actor)

    def _unmark(self, seat: _Seat) -> None:
        if seat.mark is not None:
            with contextlib.suppress(OSError):
                seat.mark.unlink(missing_ok=True)
            seat.mark = None


def _reason(error: Any) -> str:
    """What Ray says of a loss, without what it says of its own objects."""
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "because" in line), lines[0] if lines else type(error).__name__)
    return said[:SAID]
