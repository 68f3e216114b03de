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
            assert executor.wait(0.0) == []
        finally:
            executor.close()
        assert len({each.id for each in done}) == len(jobs) == len(done)
        return {each.id: each for each in done}

    def test_values_come_back(self) -> None:
        given = {"a": 1, "b": [0.1, None, "ü\n"], "c": {"d": True}}
        done = self.run(*(Job(f"j{i}", f"{HERE}:echo", {**given, "i": i}) for i in range(3)), workers=2)
        assert {id: each.value for id, each in done.items()} == {f"j{i}": {**given, "i": i} for i in range(3)}
        assert all(each.error == "" and each.seconds >= 0 and not each.fatal for each in done.values())

    def test_what_raises_is_an_error_of_that_job_alone(self) -> None:
        done = self.run(
            Job("bad", f"{HERE}:fail", {"kind": "plain"}),
            Job("none", f"{HERE}:missing", {}),
            Job("study", f"{HERE}:fail", {"kind": "user"}),
            Job("good", f"{HERE}:echo", {}),
        )
        assert "RuntimeError: it broke" in done["bad"].error
        assert "missing" in done["none"].error
        assert done["study"].error == "recipe: the study is wrong"
        assert {id: each.fatal for id, each in done.items()} == {
            "bad": False,
            "none": False,
            "study": True,
            "good": False,
        }
        assert done["good"].value == {}

    def test_a_job_has_its_threads_and_this_process_keeps_its_own(self) -> None:
        before = threads()
        done = self.run(Job("two", f"{HERE}:threads", {}, threads=2), Job("one", f"{HERE}:threads", {}, threads=1))
        assert (done["one"].value, done["two"].value) == (1, 2)
        assert threads() == before

    def test_a_job_that_has_not_begun_can_be_stopped(self) -> None:
        executor = self.executor()
        try:
            for i in range(executor.slots + 1):
                executor.submit(Job(f"j{i}", f"{HERE}:echo", {}))
            executor.stop(f"j{executor.slots}")
            done = {each.id: each.error for each in wait_for(executor, executor.slots + 1)}
        finally:
            executor.close()
        assert done == {**{f"j{i}": "" for i in range(executor.slots)}, f"j{executor.slots}": "stopped"}

    def test_no_jobs_no_waiting(self) -> None:
        executor = self.executor()
        assert executor.wait(1e6) == []
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
        assert "exit code 7" in done["exit"].error
        assert "SIGKILL" in done["killed"].error
        assert done["after"].value == {}

    def test_an_endless_job_is_ended_at_its_limit(self) -> None:
        if not self.executor().remote:
            return
        with tempfile.TemporaryDirectory() as folder:
            job = Job("endless", f"{HERE}:hang", {"started": f"{folder}/pid"}, timeout_s=0.2)
            done = self.run(job)["endless"]
            assert "timed out after 0.2 s" in done.error
            assert done.over == "timeout_s"

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
                    assert executor.wait(0.05) == []
                assert executor.wait(1.0) == [], "it was ended while it opened what it works on"
                Path(folder, "open").touch()
                [done] = wait_for(executor, 1)
                assert Path(folder, "began").exists()
                assert done.over == "timeout_s"
        finally:
            executor.close()


def wait_for(executor: Executor[Any], n: int) -> list[Done]:
    """n ends of jobs, within LIMIT_S."""
    done: list[Done] = []
    until = time.monotonic() + LIMIT_S
    while len(done) < n and time.monotonic() < until:
        done += executor.wait(1.0)
    assert len(done) == n, f"{len(done)} of {n} jobs ended: {done}"
    return done
