"""Ctrl-C, or SIGTERM, while a command starts: libraries are imported, files looked at. One line, exit 130, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kdsearch import cli
from tests.stages.tiny import LESS, write_study

PROGRAM = """
import signal, sys
from kdsearch.cli import main
number, nth, seen = int(sys.argv[1]), int(sys.argv[2]), 0
if number == signal.SIGTERM:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
def hook(event, arguments):
    global seen
    if event in ("import", "open"):
        seen += 1
        if seen == nth:
            signal.raise_signal(number)
sys.addaudithook(hook)
code = main(sys.argv[3:])
print(seen, file=sys.stderr)
sys.exit(code)
"""


def start(nth: int, *arguments: str, number: int = signal.SIGINT) -> subprocess.CompletedProcess[str]:
    """SIGTERM comes to a command that a shell's `&` has begun in the background: there SIGINT is ignored."""
    path = os.pathsep.join(each for each in sys.path if each)
    words = [sys.executable, "-c", PROGRAM, str(int(number)), str(nth), *arguments]
    return subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "nth"),
    [
        *((signal.SIGINT, nth) for nth in (1, 10, 40, 150, 400, 800, 1200, 1600, 2000, 2400, 2800, 3200)),
        *((signal.SIGTERM, nth) for nth in (1, 1200, 3200)),
    ],
)
def test_an_interrupt_while_a_run_starts(number: int, nth: int, tmp_path: Path) -> None:
    sets = [part for each in LESS for part in ("--set", each)]
    done = start(nth, "run", str(write_study(tmp_path)), "--dir", str(tmp_path / "study"), *sets, number=number)
    *lines, seen = done.stderr.splitlines()
    assert int(seen) >= nth, "the command was through before"
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    told = [line for line in lines if line == "Interrupted." or "to go on: kdsearch run" in line]
    assert len(told) == 1, done.stderr
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_a_light_command_starts(number: int, tmp_path: Path) -> None:
    done = start(30, "status", str(tmp_path), number=number)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[0] == "Interrupted."
    assert done.stdout == ""


def test_an_interrupt_is_told_to_programs(tmp_path: Path) -> None:
    done = start(30, "status", str(tmp_path), "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["exit_code"], found["error"]["type"]) == (130, 130, "InterruptedRun")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_error_of_a_library_that_an_interrupt_tore_is_the_interrupt(number, monkeypatch, capsys) -> None:
    def torn(arguments: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):  # as torch's own import of numpy does
            signal.raise_signal(number)
        raise AttributeError("module 'numpy' has no attribute 'matrix'")

    monkeypatch.setattr(cli, "_called", torn)
    assert cli.main([]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"
