"""In-process and process executors: the contract, and what only a supervisor has to keep."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from kdsearch.builtin.executors import InProcess, perform
from kdsearch.builtin.processes import Processes, ProcessesOptions
from kdsearch.errors import InterruptedRun, StorageError
from kdsearch.jobs.processes import STARTS, JobProcesses, _Child
from kdsearch.kinds import Executor, Job, NoOptions, work_begins
from kdsearch.store.files import write_json
from kdsearch.store.scratch import Scratch
from kdsearch.testing.executor import HERE, LIMIT_S, ExecutorContract, wait_for


class TestInProcess(ExecutorContract):
    def executor(self, workers: int = 1) -> Executor:
        return InProcess(NoOptions())


class TestProcesses(ExecutorContract):
    def executor(self, workers: int = 1) -> Executor:
        made = Processes(ProcessesOptions(grace_s=1.0))
        made.slots = workers
        return made


@pytest.mark.slow
class TestProcessesUsedOnce(ExecutorContract):
    def executor(self, workers: int = 1) -> Executor:
        made = Processes(ProcessesOptions(grace_s=1.0, reuse=False))
        made.slots = workers
        return made


def whoami() -> int:
    return os.getpid()


def checkpoint(folder: str, ends: bool) -> str:
    """Hangs until it is asked to stop; then saves and ends, or (`ends` false) goes on for ever."""
    Path(folder, "started").touch()
    while True:
        try:
            while True:
                threading.Event().wait(1.0)
        except InterruptedRun:
            Path(folder, "saved").touch()
            if ends:
                return "saved"
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def swallow(n_bytes: int) -> int:
    held = bytearray(n_bytes)
    held[::4096] = b"x" * len(held[::4096])
    threading.Event().wait()
    return len(held)


def removing(folder: str) -> int:
    shutil.rmtree(folder)
    return 1


def counted_and_killed(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    os.kill(os.getpid(), signal.SIGKILL)


def unwritable() -> object:
    return {1, 2}


def interrupted() -> None:
    raise InterruptedRun("stopped")


def until_exists(executor: Executor, path: Path) -> None:
    limit = time.monotonic() + LIMIT_S
    while not path.exists():
        assert executor.wait(0.02) == []
        assert time.monotonic() < limit


@pytest.mark.parametrize("ends", [True, False])
def test_stop_asks_for_a_checkpoint_and_then_kills(tmp_path: Path, ends: bool) -> None:
    executor = Processes(ProcessesOptions(grace_s=LIMIT_S if ends else 0.3))
    executor.submit(Job("j", f"{__name__}:checkpoint", {"folder": str(tmp_path), "ends": ends}))
    until_exists(executor, tmp_path / "started")
    executor.stop("j")
    (done,) = wait_for(executor, 1)
    executor.close()
    assert not ends or (tmp_path / "saved").exists()
    assert (done.value, done.error) == (("saved", "") if ends else (None, "stopped"))


def test_memory_above_the_limit_ends_the_job() -> None:
    executor = Processes(ProcessesOptions())
    executor.submit(Job("j", f"{__name__}:swallow", {"n_bytes": 900_000_000}, memory_bytes=800_000_000))
    (done,) = wait_for(executor, 1)
    executor.close()
    assert "of 800 MB allowed" in done.error


@pytest.mark.parametrize("timeout_s", [None, 100.0])
def test_a_job_whose_work_does_not_begin_is_given_up(
    timeout_s: float | None, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    """With a limit of its own, which counts from its beginning, and without."""
    monkeypatch.setattr("kdsearch.jobs.processes.OPEN_S", 0.0)
    executor = Processes(ProcessesOptions(grace_s=0.3))
    arguments = {"folder": str(tmp_path), "ends": False}
    executor.submit(Job("j", f"{__name__}:checkpoint", arguments, timeout_s=timeout_s, opens=True))
    (done,) = wait_for(executor, 1)
    executor.close()
    assert (done.value, done.error) == (None, "timed out before its work began")


def test_a_value_that_is_no_json_is_an_error() -> None:
    executor = Processes(ProcessesOptions())
    executor.submit(Job("j", f"{__name__}:unwritable", {}))
    (done,) = wait_for(executor, 1)
    executor.close()
    assert "no JSON" in done.error


def test_the_tail_of_a_dead_process_output_is_told() -> None:
    executor = Processes(ProcessesOptions())
    executor.slots = 2
    executor.submit(Job("exit", f"{HERE}:die", {"how": "exit"}))
    executor.submit(Job("crash", f"{HERE}:die", {"how": "SIGSEGV"}))
    done = {each.id: each.error for each in wait_for(executor, 2)}
    executor.close()
    assert "last words" in done["exit"]
    assert "SIGSEGV" in done["crash"]
    assert "in die" in done["crash"]  # the faulting line, from faulthandler


@pytest.mark.parametrize("reuse", [True, False])
def test_a_process_is_used_again_unless_refused_and_only_after_success(reuse: bool) -> None:
    executor = Processes(ProcessesOptions(reuse=reuse))
    found = []
    for i, job in enumerate(["whoami", "whoami", "interrupted", "whoami"]):
        executor.submit(Job(str(i), f"{__name__}:{job}", {}))
        found += wait_for(executor, 1)
    executor.close()
    first, second, failed, after = found
    assert (first.value == second.value) is reuse
    assert failed.error == "stopped"
    assert after.value not in (first.value, second.value)


def test_processes_that_die_idle_cost_no_job() -> None:
    """Where memory lacks the system ends what holds most, as warm processes do: here all, more than a job is tried in."""
    executor = JobProcesses(slots=STARTS)
    for i in range(STARTS):
        executor.submit(Job(str(i), f"{__name__}:whoami", {}))
    dead = set()
    while len(dead) < STARTS:
        dead |= {each.value for each in executor.wait(LIMIT_S)}
    for process in dead:
        os.kill(process, signal.SIGKILL)
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    executor.submit(Job("after", f"{__name__}:whoami", {}))
    (done,) = executor.wait(LIMIT_S)
    executor.close()
    assert not done.error
    assert done.value not in dead


@pytest.mark.parametrize("n_lost", [STARTS - 1, STARTS])
def test_a_job_that_no_process_took_is_given_to_another(n_lost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spawn, made = _Child.spawn, []

    def spawned(folder: Path, threads: int) -> _Child:
        child = spawn(folder, threads)
        made.append(child)
        if len(made) <= n_lost:
            child.process.kill()
        return child

    monkeypatch.setattr(_Child, "spawn", spawned)
    executor = JobProcesses()
    executor.submit(Job("a", f"{__name__}:whoami", {}))
    (done,) = executor.wait(LIMIT_S)
    executor.close()
    assert done.error == ("its process was killed by SIGKILL" if n_lost == STARTS else "")
    assert len(made) == min(n_lost + 1, STARTS)


def test_a_job_that_was_taken_is_tried_once(tmp_path: Path) -> None:
    executor = JobProcesses()
    executor.submit(Job("a", f"{__name__}:counted_and_killed", {"folder": str(tmp_path)}))
    (done,) = executor.wait(LIMIT_S)
    executor.close()
    assert "SIGKILL" in done.error
    assert len(list(tmp_path.iterdir())) == 1


def counted_and_stopped(folder: str, n: int) -> int:
    """Has a SIGTERM the first n times, as from a batch system that ends all processes; else how often it was begun before."""
    begun = len(os.listdir(folder))
    Path(folder, str(begun)).touch()
    if begun < n:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LIMIT_S)
    return begun


@pytest.mark.parametrize("n", [1, STARTS])
def test_a_job_that_somebody_else_stopped_is_begun_again(n: int, tmp_path: Path) -> None:
    executor = JobProcesses()
    executor.submit(Job("a", f"{__name__}:counted_and_stopped", {"folder": str(tmp_path), "n": n}))
    (done,) = executor.wait(LIMIT_S)
    executor.close()
    assert (done.value, done.error) == ((None, "stopped") if n == STARTS else (1, ""))
    assert len(list(tmp_path.iterdir())) == min(n + 1, STARTS)


def test_a_job_that_wants_to_be_alone_gets_a_new_process_that_nobody_gets_after_it() -> None:
    executor = Processes(ProcessesOptions())
    found = []
    for i, alone in enumerate([False, True, False]):
        executor.submit(Job(str(i), f"{__name__}:whoami", {}, alone=alone))
        found += wait_for(executor, 1)
    executor.close()
    assert len({each.value for each in found}) == 3


def test_close_ends_every_process(tmp_path: Path) -> None:
    executor = Processes(ProcessesOptions(grace_s=0.2))
    executor.submit(Job("j", f"{HERE}:hang", {"started": str(tmp_path / "pid")}))
    until_exists(executor, tmp_path / "pid")
    child = int((tmp_path / "pid").read_text())
    executor.close()
    assert not psutil.pid_exists(child)


def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    """SIGKILL leaves no time to clean up: the children have to notice."""
    code = (
        "from kdsearch.builtin.processes import *\n"
        "p = Processes(ProcessesOptions())\n"
        f"p.submit(Job('j', '{HERE}:hang', {{'started': {str(tmp_path / 'pid')!r}}}))\n"
        "while True: p.wait(60)\n"
    )
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(temporary)}
    supervisor = subprocess.Popen([sys.executable, "-c", code], env=environment)
    limit = time.monotonic() + LIMIT_S
    while not (tmp_path / "pid").exists():
        assert supervisor.poll() is None
        assert time.monotonic() < limit
        threading.Event().wait(0.05)
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    assert list(temporary.glob("kdsearch-jobs-*"))
    supervisor.kill()
    supervisor.wait()
    _, alive = psutil.wait_procs([child], timeout=LIMIT_S)
    assert not alive
    assert not list(temporary.iterdir()), "they clear what it left"


def test_perform_puts_threads_back_and_lets_an_interrupt_through() -> None:
    before = torch.get_num_threads()
    with pytest.raises(InterruptedRun):
        perform(Job("j", f"{__name__}:interrupted", {}, threads=before + 1))
    assert torch.get_num_threads() == before


def opens(says: bool) -> None:
    if says:
        work_begins()
        work_begins()


@pytest.mark.parametrize(
    ("opening", "says", "n"), [(False, False, 1), (False, True, 1), (True, True, 1), (True, False, 0)]
)
def test_work_begins_once_and_for_jobs_that_open_when_they_say_so(opening: bool, says: bool, n: int) -> None:
    began: list[bool] = []
    done = perform(Job("j", f"{__name__}:opens", {"says": says}, opens=opening), lambda: began.append(True))
    assert not done.error
    assert len(began) == n
    work_begins()  # nobody listens any more
    assert len(began) == n


def test_nothing_begins_while_a_worker_of_a_run_that_was_killed_is_at_it(tmp_path):
    """It may be the same job."""
    said = tmp_path / "workers" / "0123456789ab" / "said.json"
    said.parent.mkdir(parents=True)
    told = {"host": "a", "pid": 1, "slots": 1, "run": "before", "beat": 1, "heard": 1, "running": ["t"], "done": {}}
    write_json(said, told)
    executor = Processes(ProcessesOptions(grace_s=1.0))
    try:
        executor.submit(Job("j", f"{HERE}:echo", {"i": 1}, folder=str(tmp_path)))
        assert executor.wait(1.5) == []
        write_json(said, {**told, "beat": 2, "running": []})
        assert [each.value for each in executor.wait(LIMIT_S)] == [{"i": 1}]
    finally:
        executor.close()


def test_a_result_that_cannot_be_written_is_the_disks_fault_and_no_jobs() -> None:
    """As where the temporary folder is on a full disk; here it is gone."""
    processes = JobProcesses()
    processes._scratch = Scratch.make("jobs")
    try:
        processes.submit(Job("a", f"{__name__}:removing", {"folder": str(processes._scratch.path)}))
        with pytest.raises(StorageError, match=r"the result of a job cannot be written.*TMPDIR"):
            processes.wait(LIMIT_S)
        assert processes.busy == 0
    finally:
        processes.close()
