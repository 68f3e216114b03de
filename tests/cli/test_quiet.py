"""Nobody is told anything: a whole study asks no name server, opens no connection, and writes below its folder and cache alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.tiny import LESS, TEXT, write_study

INTERNET = re.compile(r"sa_family=AF_INET6?, .*")


def everything(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))


def at_home(home: Path, *command: str) -> None:
    """Run a command for a user who has nothing yet and has set nothing."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")}
    path = os.pathsep.join(each for each in sys.path if each)
    environment = {**kept, "HOME": str(home), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_whole_study_makes_no_look_up_and_writes_nothing_elsewhere(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    file = write_study(tmp_path / "place", TEXT)
    sets = [word for each in LESS for word in ("--set", each)]
    run = [sys.executable, "-m", "kdsearch", "run", str(file), "--json", *sets]
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    at_home(home, "strace", "-f", "-qq", "--seccomp-bpf", "-e", calls, "-o", str(trace), *run)
    asked = [line for line in trace.read_text(errors="replace").splitlines() if INTERNET.search(line)]
    assert not asked, asked[:5]
    assert {each.partition("/")[0] for each in everything(home)} <= {".cache"}
    assert {each.split("/")[1] for each in everything(home) if "/" in each} <= {"kdsearch"}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["home", "place", "trace"]


@pytest.mark.parametrize("first", ["import kdsearch", "import onnxruntime, kdsearch"])
def test_onnxruntime_is_told_not_to_report(first: str, tmp_path: Path) -> None:
    check = "import os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    watched = (
        "import sys, types; fake = types.ModuleType('onnxruntime'); told = []; "
        "fake.disable_telemetry_events = lambda: told.append(1); sys.modules['onnxruntime'] = fake; "
        "import kdsearch; assert told == [1]"
    )
    code = f"{first}; {check}" if first == "import kdsearch" else f"{watched}; {check}"
    at_home(tmp_path, sys.executable, "-c", code)
    assert everything(tmp_path) == []


def test_a_users_own_word_on_telemetry_stands() -> None:
    name = "os.environ['ORT_DISABLE_TELEMETRY']"
    code = f"import os; {name} = '0'; import kdsearch; assert {name} == '0'"
    subprocess.run([sys.executable, "-c", code], check=True)
