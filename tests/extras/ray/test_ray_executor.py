"""The executor contract on a running cluster, and what only a supervisor has to keep."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

pytest.importorskip("ray")

from kdsearch_plugins.ray_executor import executor as module
from kdsearch_plugins.ray_executor.executor import RayExecutor
from kdsearch_plugins.ray_executor.options import RayOptions
from kdsearch_plugins.ray_executor.seat import Seat

from kdsearch.errors import PluginError, UnreachableError, UserError
from kdsearch.kinds import Job
from kdsearch.testing.executor import HERE, LIMIT_S, ExecutorContract, wait_for
from tests.builtin.test_executors import checkpoint, swallow, until_exists, whoami

JOBS = checkpoint.__module__


@pytest.fixture
def made(address, request):
    """Makes an executor on the running cluster, and closes it."""
    found = []

    def make(workers=1, **options):
        found.append(RayExecutor(RayOptions(address=address, **options)))
        found[-1].slots = workers
        return found[-1]

    yield make
    for each in found:
        each.close()


class TestRay(ExecutorContract):
    @pytest.fixture(autouse=True)
    def _at(self, address):
        self.address = address

    def executor(self, workers: int = 1) -> RayExecutor:
        found = RayExecutor(RayOptions(address=self.address, grace_s=1.0))
        found.slots = workers
        return found


@pytest.mark.parametrize("ends", [True, False])
def test_stop_asks_for_a_checkpoint_and_then_kills(made, tmp_path, ends):
    executor = made(grace_s=LIMIT_S if ends else 0.3)
    executor.submit(Job("j", f"{JOBS}:{checkpoint.__name__}", {"folder": str(tmp_path), "ends": ends}))
    until_exists(executor, tmp_path / "started")
    executor.stop("j")
    (done,) = wait_for(executor, 1)
    assert not ends or (tmp_path / "saved").exists()
    assert (done.value, done.error) == (("saved", "") if ends else (None, "stopped"))


def test_an_id_may_come_again_after_it_was_stopped(made, tmp_path):
    executor = made()
    executor.submit(Job("j", f"{HERE}:hang", {"started": str(tmp_path / "pid")}))
    until_exists(executor, tmp_path / "pid")
    executor.stop("j")
    assert [each.error for each in wait_for(executor, 1)] == ["stopped"]
    executor.submit(Job("j", f"{HERE}:echo", {"a": 1}))
    assert [each.value for each in wait_for(executor, 1)] == [{"a": 1}]


def test_memory_above_the_limit_ends_the_job(made):
    executor = made()
    executor.submit(Job("j", f"{JOBS}:{swallow.__name__}", {"n_bytes": 900_000_000}, memory_bytes=800_000_000))
    (done,) = wait_for(executor, 1)
    assert "of 800 MB allowed" in done.error
    assert done.over == "memory_bytes"


def test_a_crash_is_its_jobs_and_is_not_tried_again(made):
    executor = made(workers=2)
    executor.submit(Job("crash", f"{HERE}:die", {"how": "SIGSEGV"}))
    executor.submit(Job("exit", f"{HERE}:die", {"how": "exit"}))
    done = {each.id: each.error for each in wait_for(executor, 2)}
    assert "SIGSEGV" in done["crash"]
    assert "in die" in done["crash"]  # the faulting line, from faulthandler
    assert "last words" in done["exit"]


def test_a_process_runs_one_job_after_another_but_for_those_that_want_to_be_alone(made):
    executor, found = made(), []
    for i, alone in enumerate([False, False, True, False]):
        executor.submit(Job(str(i), f"{JOBS}:{whoami.__name__}", {}, alone=alone))
        found += [each.value for each in wait_for(executor, 1)]
    assert found[0] == found[1]
    assert len(set(found)) == 3


def loses_its_seat(folder: str, times: int) -> int:
    """Kills the process that watches over it, so many times; then says how often it was begun."""
    file = Path(folder, "begun")
    begun = len(file.read_text()) if file.exists() else 0
    file.write_text("x" * (begun + 1))
    if begun < times:
        os.kill(os.getppid(), signal.SIGKILL)
        threading.Event().wait()
    return begun + 1


def test_a_job_whose_seat_is_lost_is_begun_again_so_many_times(made, tmp_path):
    executor = made(workers=2, retries=2)
    for name, times in (("twice", 2), ("always", 9)):
        (tmp_path / name).mkdir()
        folder = str(tmp_path / name)
        executor.submit(Job(name, f"{__name__}:loses_its_seat", {"folder": folder, "times": times}, folder=folder))
    done = {each.id: each for each in wait_for(executor, 2)}
    assert (done["twice"].value, done["twice"].error) == (3, "")
    assert done["always"].error.startswith("the machine that it ran on was lost 3 times (")
    assert not done["always"].fatal
    assert (tmp_path / "always" / "begun").read_text() == "xxx"
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["always", "begun", "begun", "twice"], "no mark is left"


def test_a_job_that_is_to_stop_is_not_begun_again(made, tmp_path):
    executor = made()
    executor.submit(Job("j", f"{HERE}:hang", {"started": str(tmp_path / "pid")}))
    until_exists(executor, tmp_path / "pid")
    executor.stop("j")
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, signal.SIGSTOP)  # it cannot say so, and its seat is lost
    os.kill(psutil_parent(pid), signal.SIGKILL)
    assert [each.error for each in wait_for(executor, 1)] == ["stopped"]
    os.kill(pid, signal.SIGCONT)  # it finds itself alone, and ends


def psutil_parent(pid: int) -> int:
    import psutil

    return psutil.Process(pid).ppid()


def test_trials_get_the_gpus_that_they_reserve(made, node):
    node(num_cpus=1, num_gpus=2)
    executor = made(gpus=2)
    executor.submit(Job("j", f"{__name__}:visible_gpus", {}))
    assert [each.value for each in wait_for(executor, 1)] == ["0,1"]


def visible_gpus() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_a_cluster_without_a_place_is_said(made):
    executor = made(start_s=0.1)
    executor.submit(Job("j", f"{HERE}:echo", {}, threads=64))
    with pytest.raises(UnreachableError, match=r"no place for a trial \(64 CPUs\)"):
        wait_for(executor, 1)


def test_another_version_is_said_before_a_trial_runs(made, monkeypatch):
    ours = module.versions()
    monkeypatch.setattr(module, "versions", lambda: {**ours, "torch": "1.0"})
    executor = made()
    executor.submit(Job("j", f"{HERE}:echo", {}))
    with pytest.raises(UserError, match=rf"has torch {ours['torch']}.*Expected torch 1.0, as here".replace("+", r"\+")):
        wait_for(executor, 1)


def test_a_folder_that_a_machine_lacks_is_said(tmp_path):
    """As it is where the machine sees no file that was made in it just now."""
    seat = Seat(1.0)
    mark = tmp_path / "mark"
    assert "does not have it" in seat.run(0, vars(Job("j", f"{HERE}:echo", {})), str(mark))["problem"]
    mark.touch()
    assert seat.run(1, vars(Job("j", f"{HERE}:echo", {"a": 1})), str(mark))["done"]["value"] == {"a": 1}
    assert not mark.exists()
    seat.end()


def test_a_folder_that_is_not_shared_ends_the_study(made, monkeypatch, tmp_path):
    """The file is made elsewhere than the machine looks, as in a folder of another file system under the same path."""
    monkeypatch.setattr(module, "mark_in", lambda folder: folder / "made-on-another-file-system")
    executor = made()
    executor.submit(Job("j", f"{HERE}:echo", {}, folder=str(tmp_path)))
    with pytest.raises(UserError, match=f"{tmp_path}: machine .* does not have it.*every machine of the cluster"):
        wait_for(executor, 1)


def test_a_cluster_that_is_not_there_is_the_users_fault(unused):
    executor = RayExecutor(RayOptions(address=f"127.0.0.1:{unused}"))
    with pytest.raises(UserError, match=rf"run.executor.options.address: cannot join .*127.0.0.1:{unused}.*refused"):
        executor.submit(Job("j", f"{HERE}:echo", {}))
    executor.close()


@pytest.fixture
def unused():
    """A port that nobody listens at."""
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        yield found.getsockname()[1]


@pytest.mark.parametrize("text", ["ray://127.0.0.1:10001", "127.0.0.1", "127.0.0.1:0", "a:99999", "none", "a b:1"])
def test_addresses_that_are_none(text):
    with pytest.raises(ValueError, match="HOST:PORT"):
        RayOptions(address=text)


def test_gpus_are_shared_one_at_a_time():
    assert RayOptions(gpus=0.5).gpus == 0.5
    with pytest.raises(ValueError, match="whole number"):
        RayOptions(gpus=1.5)


def test_the_connection_of_the_program_around_is_used_and_kept(address):
    import ray

    ray.init(address=address, log_to_driver=False)
    before = signal.getsignal(signal.SIGTERM)
    try:
        executor = RayExecutor(RayOptions())
        executor.submit(Job("j", f"{HERE}:echo", {"a": 1}))
        assert [each.value for each in wait_for(executor, 1)] == [{"a": 1}]
        executor.close()
        assert ray.is_initialized()
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        ray.shutdown()


def test_close_ends_every_process(made, tmp_path):
    import psutil

    executor = made(grace_s=0.2)
    executor.submit(Job("j", f"{HERE}:hang", {"started": str(tmp_path / "pid")}))
    until_exists(executor, tmp_path / "pid")
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    executor.close()
    assert not psutil.wait_procs([child], timeout=LIMIT_S)[1]


def test_a_missing_ray_is_said_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(PluginError, match=r"run.executor.use: executor 'ray' needs .*pip install \"kdsearch\[ray\]\""):
        RayExecutor(RayOptions())
