"""Studies of outside packages: run by the command line in a process, killed there, and run again."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest

from kdsearch.cli import main
from kdsearch.store.files import read_lines

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
Run = Callable[..., subprocess.Popen[str]]


def start(study: Path, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """`kdsearch run STUDY --dir FOLDER --json`, with the packages of this folder installed."""
    path = os.pathsep.join([str(HERE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "kdsearch", "run", str(study), "--dir", str(folder), "--json"]
    given = {**os.environ, "PYTHONPATH": path, "KDSEARCH_CACHE": str(folder.parent / "cache"), **environment}
    return subprocess.Popen(command, cwd=ROOT, env=given, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def killed_in(study: Path, folder: Path, stage: str, begin: Run = start) -> None:
    """SIGKILL as soon as the stage has begun."""
    process, log = begin(study, folder), folder / "events.jsonl"
    while process.poll() is None:
        begun = read_lines(log) if log.exists() else []
        if any(each["event"] == "stage" and each["stage"] == stage for each in begun):
            process.kill()
            break
        with suppress(subprocess.TimeoutExpired):  # without, reading takes a core from what it waits for
            process.wait(0.1)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err


def ended(study: Path, folder: Path, begin: Run = start, **environment: str) -> dict[str, Any]:
    out, err = begin(study, folder, **environment).communicate()
    assert "Traceback" not in err, err
    found: dict[str, Any] = json.loads(out)
    return found


def ended_here(study: Path, folder: Path) -> dict[str, Any]:
    """What `ended` gives, by the command line in this process, which has imported torch already."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.syspath_prepend(str(HERE))
        patch.setenv("KDSEARCH_CACHE", str(folder.parent / "cache"))
        assert main(["run", str(study), "--dir", str(folder), "--json"]) == 0
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packages of this folder can be imported here too."""
    monkeypatch.syspath_prepend(str(HERE))
    return HERE
