"""A cluster that the executor starts itself: closed to other machines, and gone when it is no longer needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray")

from kdsearch.testing.executor import HERE, LIMIT_S

# a program of its own, in which nothing of Ray was imported or set before
PROGRAM = """
import json, os, signal, sys
import psutil
from kdsearch.kinds import Job
from kdsearch_plugins.ray_executor.executor import RayExecutor
from kdsearch_plugins.ray_executor.options import RayOptions

def mine(number, frame): pass
signal.signal(signal.SIGTERM, mine)
before = dict(os.environ)
executor = RayExecutor(RayOptions())
executor.submit(Job("j", sys.argv[1], json.loads(sys.argv[2])))
done = []
while not done and len(sys.argv) < 4:
    done = executor.wait(1.0)
family = [psutil.Process(), *psutil.Process().children(recursive=True)]
facts = {
    "value": done and done[0].value,
    "ips": sorted({each.laddr.ip for one in family for each in one.net_connections("inet") if each.status == "LISTEN"}),
    "handler": signal.getsignal(signal.SIGTERM) is mine,
    "pids": [each.pid for each in family[1:]],
}
print(json.dumps(facts), flush=True)
while len(sys.argv) == 4:
    executor.wait(1.0)
executor.close()
print(json.dumps({"handler": signal.getsignal(signal.SIGTERM) is mine, "environment": dict(os.environ) == before}))
"""


def start(tmp_path: Path, function: str, *arguments: str) -> subprocess.Popen[str]:
    """With a home and a temporary folder of its own. Temporary folders' paths have to be short: sockets lie there."""
    for each in ("home", "tmp"):
        (tmp_path / each).mkdir()
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    given = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, function, *arguments]
    return subprocess.Popen(command, env={**kept, **given}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def short(tmp_path_factory) -> Path:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp", prefix="r") as folder:
        yield Path(folder)


def test_it_listens_on_this_machine_alone_and_leaves_nothing(short):
    program = start(short, f"{HERE}:echo", '{"a": 1}')
    out, err = program.communicate(timeout=2 * LIMIT_S)
    assert program.returncode == 0, err
    facts, after = map(json.loads, out.splitlines())
    assert facts["value"] == {"a": 1}
    assert {ip.removeprefix("::ffff:") for ip in facts["ips"]} == {"127.0.0.1"}
    assert facts["handler"], "SIGTERM asks the study for a checkpoint"
    assert after == {"handler": True, "environment": True}
    assert err == ""
    gone_by = time.monotonic() + LIMIT_S
    while any(map(psutil.pid_exists, facts["pids"])) and time.monotonic() < gone_by:
        threading.Event().wait(0.05)
    assert not any(map(psutil.pid_exists, facts["pids"]))
    assert not list((short / "tmp").iterdir())
    assert not list((short / "home").iterdir()), "no token lies about, no usage statistics"


def test_everything_ends_with_a_killed_program(short):
    """SIGKILL leaves no time to clean up: Ray, the seat and the job have to notice. Two agents of Ray take a minute for it."""
    program = start(short, f"{HERE}:hang", json.dumps({"started": str(short / "pid")}), "waits")
    assert program.stdout is not None
    pids = json.loads(program.stdout.readline())["pids"]
    gone_by = time.monotonic() + LIMIT_S
    while not (short / "pid").exists() and time.monotonic() < gone_by:
        threading.Event().wait(0.05)
    family = [
        each for each in psutil.Process(program.pid).children(recursive=True) if not each.name().endswith("Agent")
    ]
    assert int((short / "pid").read_text()) in {each.pid for each in family}
    assert len({each.pid for each in family} & set(pids)) >= 3
    os.kill(program.pid, signal.SIGKILL)
    program.communicate()
    assert not psutil.wait_procs(family, timeout=LIMIT_S)[1]
