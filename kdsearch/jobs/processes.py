"""Local processes: a supervisor that keeps some warm for job after job, and keeps time-outs and memory limits.

Starting one costs the import of torch (about 1.5 s of CPU on a quiet machine), so a process runs one job after another; one
whose job failed is replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from kdsearch.errors import StorageError
from kdsearch.kinds import Done, Job
from kdsearch.store.scratch import Scratch

TICK_S = 0.25  # how often memory is looked at
START_S = 180.0  # a process that has not taken its job by then is given up
STARTS = 3  # processes that a job is given to before it fails of having been cut off in each (see `_Child.is_cut_off`)
OPEN_S = 3600.0  # a job that says when its work begins, and has not by then, is given up
TAIL = 2000  # characters of a dead process' stderr in its error


class JobProcesses:
    """Spawned processes, each with one job at a time; whatever happens to it, `wait` reports the job once, as executors do.

    Children end when this process ends, even by SIGKILL. POSIX only.

    Args:
        slots: jobs at once; may be changed.
        grace_s: between asking a job to stop and killing it.
        reuse: let a process run one job after another; a failed one's process is never used again.
    """

    def __init__(self, slots: int = 1, grace_s: float = 5.0, reuse: bool = True) -> None:
        self.slots, self.grace_s, self.reuse = slots, grace_s, reuse
        self._queue: deque[Job] = deque()
        self._running: dict[str, _Child] = {}
        self._idle: list[_Child] = []
        self._done: list[Done] = []
        self._lost: dict[str, int] = {}  # job -> processes in which it was cut off
        self._scratch: Scratch | None = None
        self._count = 0

    @property
    def busy(self) -> int:
        """Jobs that run or wait."""
        return len(self._running) + len(self._queue)

    def submit(self, job: Job) -> None:
        self._queue.append(job)
        self._fill()

    def wait(self, timeout_s: float) -> list[Done]:
        until = time.monotonic() + timeout_s
        self._fill()
        while True:
            for child in list(self._running.values()):
                self._look_at(child)
            self._fill()  # with what no process took, too
            left = until - time.monotonic()
            if self._done or not self._running or left <= 0:
                done, self._done = self._done, []
                return done
            ready = [end for child in self._running.values() for end in child.ends]
            select.select(ready, [], [], min(left, self._tick()))

    def stop(self, id: str) -> None:
        """SIGTERM now, SIGKILL after `grace_s`; `wait` then reports it as "stopped" unless it ended well."""
        for job in [job for job in self._queue if job.id == id]:
            self._queue.remove(job)
            self._done.append(Done(job.id, error="stopped"))
        if id in self._running:
            self._running[id].ask_to_end("stopped", self.grace_s)

    def close(self) -> None:
        self._queue.clear()
        for id in list(self._running):
            self.stop(id)
        until = time.monotonic() + self.grace_s
        while self._running and time.monotonic() < until:
            with contextlib.suppress(StorageError):
                self.wait(max(until - time.monotonic(), 0.0))
        for child in [*self._running.values(), *self._idle]:
            child.end()
        self._running, self._idle, self._done = {}, [], []
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    def _tick(self) -> float:
        is_watched = any(child.job and (child.job.memory_bytes or child.ends_by) for child in self._running.values())
        return TICK_S if is_watched or not hasattr(os, "pidfd_open") else 60.0

    def _fill(self) -> None:
        # Lack of memory ends idle processes, too.
        for dead in [each for each in self._idle if not each.is_alive()]:
            self._idle.remove(dead)
            dead.end()
        while self._queue and len(self._running) < self.slots:
            job = self._queue.popleft()
            child = next((each for each in self._idle if each.threads == job.threads and not job.alone), None)
            if child is not None:
                self._idle.remove(child)
            elif self._idle and len(self._running) + len(self._idle) >= self.slots:
                self._idle.pop().end()
            self._count += 1
            if self._scratch is None:
                self._scratch = Scratch.make("jobs")
            child = child or _Child.spawn(self._scratch.path, job.threads)
            self._running[job.id] = child
            child.give(job, self._scratch.path / f"{self._count}.json")

    def _look_at(self, child: _Child) -> None:
        job = child.job
        assert job is not None
        try:
            done = child.look(self.grace_s)
        except StorageError:
            self._running = {id: each for id, each in self._running.items() if each is not child}
            child.end()
            raise
        if done is None:
            return
        alone = self._running.pop(done.id).is_alone
        lost = self._lost.pop(done.id, 0) + 1
        if child.is_cut_off(done) and lost < STARTS:
            self._lost[done.id] = lost
            self._queue.appendleft(job)
            child.end()
            return
        self._done.append(done)
        if self.reuse and not alone and not done.error and child.is_alive():
            self._idle.append(child)
        else:
            child.end()


@dataclass
class _Child:
    """One process: its pipes, its present job and why it is being ended."""

    process: subprocess.Popen[bytes]
    status: int  # read end: `t` a job was taken, `s` its work began, `d` its result is there, `f` it cannot be written
    pidfd: int | None
    log: Path
    threads: int
    job: Job | None = None
    result: Path = field(default_factory=Path)
    begun: float | None = None
    ends_by: float | None = None
    kill_at: float | None = None
    why: str = ""
    is_alone: bool = False
    is_taken: bool = False

    @classmethod
    def spawn(cls, folder: Path, threads: int) -> _Child:
        handle, log = tempfile.mkstemp(suffix=".log", dir=folder)
        read, write = os.pipe()
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        # -P: a file in the working directory never stands in for a module
        command = [
            sys.executable,
            "-P",
            "-X",
            "faulthandler",
            "-m",
            "kdsearch.jobs.child",
            str(write),
            str(folder),
        ]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=handle,
                stderr=handle,
                env=environment,
                pass_fds=(write,),
                start_new_session=True,  # Ctrl-C reaches the supervisor alone
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
            os.close(handle)
        pidfd = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else None
        return cls(process, read, pidfd, Path(log), threads)

    @property
    def ends(self) -> list[int]:
        """What becomes readable when there is news."""
        return [self.status] if self.pidfd is None else [self.status, self.pidfd]

    def give(self, job: Job, result: Path) -> None:
        self.job, self.result, self.begun, self.is_alone = job, result, None, job.alone
        self.is_taken = False
        self.ends_by, self.kill_at, self.why = time.monotonic() + START_S, None, ""
        self.over = ""
        order = json.dumps({"job": vars(job), "result": str(result)}) + "\n"
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: `look` says so
            self.process.stdin.write(order.encode())
            self.process.stdin.flush()

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def is_cut_off(self, done: Done) -> bool:
        """Whether its job ended by no fault of its own: the process ended before it took it, or had a SIGTERM that is not this
        program's, such as a batch system sends to all processes. What the job has written it goes on with.
        """
        return (not self.is_taken and self.why != "stopped") or (done.error == "stopped" and not self.why)

    def look(self, grace_s: float) -> Done | None:
        """The job's end, if it has ended; keeps its limits otherwise. Raise StorageError where its result cannot be written."""
        assert self.job is not None
        is_alive = self.is_alive()  # before its news: of one that is dead nothing is missed then
        news, now = self._news(), time.monotonic()
        self.is_taken |= "t" in news
        if self.kill_at is None:
            if "t" in news:
                self.ends_by = now + OPEN_S
            if "s" in news:
                self.begun = now
                self.ends_by = now + self.job.timeout_s if self.job.timeout_s else None
        if "f" in news:
            fix = "Make room (TMPDIR says where such folders are) and run again; it goes on."
            raise StorageError("the result of a job cannot be written", file=self.result, fix=fix)
        if "d" in news or not is_alive:
            return self._ended(now)
        if self.kill_at is not None:
            if now >= self.kill_at:
                self._signal(signal.SIGKILL)
        elif self.ends_by is not None and now >= self.ends_by:
            self.over = "timeout_s" if self.begun else ""
            after = f"after {self.job.timeout_s:g} s" if self.job.timeout_s and self.begun else "before its work began"
            self.ask_to_end(f"timed out {after}", grace_s)
        elif self.job.memory_bytes and (used := self._memory()) > self.job.memory_bytes:
            self.over = "memory_bytes"
            self.ask_to_end(f"used {used / 1e6:,.0f} MB of {self.job.memory_bytes / 1e6:,.0f} MB allowed", 0.0)
            self._signal(signal.SIGKILL)
        return None

    def ask_to_end(self, why: str, grace_s: float) -> None:
        if self.kill_at is None:
            self.why, self.kill_at = why, time.monotonic() + grace_s
            self.ends_by = self.kill_at
            self._signal(signal.SIGTERM)

    def end(self) -> None:
        """Kill it with all it started, and let go of its pipes."""
        self._signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        for handle in self.ends:
            os.close(handle)
        self.log.unlink(missing_ok=True)

    def _ended(self, now: float) -> Done:
        assert self.job is not None
        job, self.job = self.job, None
        seconds = now - self.begun if self.begun else 0.0
        try:
            done = Done(**json.loads(self.result.read_text()))
        except FileNotFoundError:
            return Done(job.id, error=self.why or self._death(), seconds=seconds, over=self.over)
        self.result.unlink()
        if self.why and done.error:
            return Done(job.id, error=self.why, seconds=seconds, over=self.over)
        return done

    def _death(self) -> str:
        code = self.process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        tail = self.log.read_text(errors="replace")[-TAIL:].strip()
        return f"its process was {how}" + (f":\n{tail}" if tail else "") if code < 0 else f"its process {how}:\n{tail}"

    def _news(self) -> str:
        if not select.select([self.status], [], [], 0)[0]:
            return ""
        return os.read(self.status, 64).decode()

    def _memory(self) -> int:
        try:
            process = psutil.Process(self.process.pid)
            family: list[Any] = [process, *process.children(recursive=True)]
            return sum(each.memory_info().rss for each in family)
        except psutil.Error:
            return 0

    def _signal(self, number: signal.Signals) -> None:
        """To the whole session that the process leads on SIGKILL; a request to end goes to the process alone."""
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                os.kill(self.process.pid, number)
