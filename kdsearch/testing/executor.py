"""What every executor keeps. A test class inherits `ExecutorContract` and says how to make one; the functions are its jobs."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from kdsearch.errors import StudyError
from kdsearch.kinds import Done, Executor, Job, work_begins
from kdsearch.testing.contract import require

LIMIT_S = 120.0  # how long a test waits at most, on a crowded machine
HERE = "kdsearch.testing.executor"


def echo(**given: Any) -> dict[str, Any]:
    return given


def fail(kind: str) -> None:
    if kind == "user":
        raise StudyError("the study is wrong", path="recipe")
    raise RuntimeError("it broke")


def threads() -> int:
    import torch

    return torch.get_num_threads()


def die(how: str) -> None:
    """Ends the process without a word to Python: "exit", or a signal's name."""
    if how == "exit":
        print("last words", flush=True)
        os._exit(7)
    os.kill(os.getpid(), getattr(signal, how))


def hang(started: str) -> None:
    """Writes its process id to the file `started` and never ends of itself."""
    partial = Path(started + ".part")
    partial.write_text(str(os.getpid()))
    partial.rename(started)
    while True:
        threading.Event().wait(1.0)


def open_and_hang(folder: str) -> None:
    """Opens until there is a file `open`; then its work begins, and never ends of itself."""
    Path(folder, "opening").touch()
    while not Path(folder, "open").exists():
        threading.Event().wait(0.02)
    Path(folder, "began").touch()
    work_begins()
    threading.Event().wait()


class ExecutorContract:
    """Set `executor`."""

    def executor(self, workers: int = 1) -> Executor[Any]:
        raise NotImplementedError

    def run(self, *jobs: Job, workers: int = 1) -> dict[str, Done]:
        """Submit, wait for all, close; every job is reported exactly once."""
        executor = self.executor(workers)
        try:
            for job in jobs:
                executor.submit(job)
            done = wait_for(executor, len(jobs))
            late = executor.wait(0.0)
            require(late == [], f"after every job has ended, wait gives {late}")
        finally:
            executor.close()
        ids = sorted(each.id for each in done)
        require(ids == sorted(job.id for job in jobs), f"ended: {ids}; expected each job once")
        return {each.id: each for each in done}

    def test_values_come_back(self) -> None:
        given = {"a": 1, "b": [0.1, None, "ü\n"], "c": {"d": True}}
        done = self.run(*(Job(f"j{i}", f"{HERE}:echo", {**given, "i": i}) for i in range(3)), workers=2)
        for i in range(3):
            ended = done[f"j{i}"]
            require(ended.value == {**given, "i": i}, f"job {i} returned {ended.value}, expected what it was given")
            is_well = ended.error == "" and ended.seconds >= 0 and not ended.fatal
            require(is_well, f"job {i} went well: got error '{ended.error}', {ended.seconds} s, fatal {ended.fatal}")

    def test_what_raises_is_an_error_of_that_job_alone(self) -> None:
        done = self.run(
            Job("bad", f"{HERE}:fail", {"kind": "plain"}),
            Job("none", f"{HERE}:missing", {}),
            Job("study", f"{HERE}:fail", {"kind": "user"}),
            Job("good", f"{HERE}:echo", {}),
        )
        for id, said in (("bad", "RuntimeError: it broke"), ("none", "missing")):
            require(said in done[id].error, f"job '{id}': got '{done[id].error}', expected an error that says '{said}'")
        said = "recipe: the study is wrong"
        require(done["study"].error == said, f"a UserError: got '{done['study'].error}', expected '{said}'")
        for id, ended in done.items():
            require(ended.fatal == (id == "study"), f"job '{id}': fatal is {ended.fatal}; a UserError is, nothing else")
        require(done["good"].value == {}, f"a job beside those that raise returned {done['good'].value}, expected {{}}")

    def test_a_job_has_its_threads_and_this_process_keeps_its_own(self) -> None:
        before = threads()
        done = self.run(Job("two", f"{HERE}:threads", {}, threads=2), Job("one", f"{HERE}:threads", {}, threads=1))
        for id, n in (("one", 1), ("two", 2)):
            require(done[id].value == n, f"a job that asks for {n} threads has {done[id].value}")
        require(threads() == before, f"this process had {before} threads, afterwards {threads()}")

    def test_a_job_that_has_not_begun_can_be_stopped(self) -> None:
        executor = self.executor()
        try:
            for i in range(executor.slots + 1):
                executor.submit(Job(f"j{i}", f"{HERE}:echo", {}))
            executor.stop(f"j{executor.slots}")
            done = {each.id: each.error for each in wait_for(executor, executor.slots + 1)}
        finally:
            executor.close()
        for i in range(executor.slots):
            require(done.get(f"j{i}") == "", f"job j{i}, which was not stopped, ended with '{done.get(f'j{i}')}'")
        last = done.get(f"j{executor.slots}")
        require(last == "stopped", f"a job that was stopped before it began ended with '{last}', expected 'stopped'")

    def test_no_jobs_no_waiting(self) -> None:
        executor = self.executor()
        found = executor.wait(1e6)
        require(found == [], f"without a job, wait gives {found}")
        executor.close()
        executor.close()

    def test_a_dead_process_is_an_error_that_says_how(self) -> None:
        if not self.executor().remote:
            return
        done = self.run(
            Job("exit", f"{HERE}:die", {"how": "exit"}),
            Job("killed", f"{HERE}:die", {"how": "SIGKILL"}),
            Job("after", f"{HERE}:echo", {}),
        )
        for id, said in (("exit", "exit code 7"), ("killed", "SIGKILL")):
            require(said in done[id].error, f"a process that died: got '{done[id].error}', expected '{said}' in it")
        require(done["after"].value == {}, f"the job after them returned {done['after'].value}, expected {{}}")

    def test_an_endless_job_is_ended_at_its_limit(self) -> None:
        if not self.executor().remote:
            return
        with tempfile.TemporaryDirectory() as folder:
            job = Job("endless", f"{HERE}:hang", {"started": f"{folder}/pid"}, timeout_s=0.2)
            done = self.run(job)["endless"]
            require(
                "timed out after 0.2 s" in done.error, f"got '{done.error}', expected 'timed out after 0.2 s' in it"
            )
            require(done.over == "timeout_s", f"ended by its limit: over is '{done.over}', expected 'timeout_s'")

    def test_the_time_of_a_job_that_opens_begins_when_it_says_so(self) -> None:
        executor = self.executor()
        if not executor.remote:
            return
        try:
            with tempfile.TemporaryDirectory() as folder:
                job = Job("opens", f"{HERE}:open_and_hang", {"folder": folder}, timeout_s=0.05, opens=True)
                executor.submit(job)
                until = time.monotonic() + LIMIT_S
                while not Path(folder, "opening").exists() and time.monotonic() < until:
                    require(executor.wait(0.05) == [], "it ended before it said that it opens what it works on")
                require(executor.wait(1.0) == [], "it was ended while it opened what it works on")
                Path(folder, "open").touch()
                [done] = wait_for(executor, 1)
                require(Path(folder, "began").exists(), f"it never began its work, and ended with '{done.error}'")
                require(done.over == "timeout_s", f"ended by its limit: over is '{done.over}', expected 'timeout_s'")
        finally:
            executor.close()


def wait_for(executor: Executor[Any], n: int) -> list[Done]:
    """n ends of jobs, within LIMIT_S."""
    done: list[Done] = []
    until = time.monotonic() + LIMIT_S
    while len(done) < n and time.monotonic() < until:
        done += executor.wait(1.0)
    require(len(done) == n, f"{len(done)} of {n} jobs ended within {LIMIT_S:g} s: {done}")
    return done
