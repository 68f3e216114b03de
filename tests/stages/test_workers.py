"""`kdsearch worker` beside a run: it does trials, and the result is that of the run alone, whatever becomes of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdsearch.builtin.processes import Processes
from kdsearch.cli import main
from kdsearch.errors import InterruptedRun
from tests.stages.tiny import LESS, facts_of, is_stage, run_tiny, settled, watching

STUDY = (*LESS, "refine.trials=4", "refine.epochs=1", "run.executor={use: processes}")
LONG = (*STUDY, "refine.trials=6", "refine.epochs=3")


def alone(folder: Path, *study: str) -> dict[str, Any]:
    """Its result without a worker, in this process."""
    return settled(run_tiny(folder / "alone", *study, "run.executor={use: inprocess}"))


def begun(folder: Path, *study: str) -> None:
    """A study whose trials are to come. What comes before them is done in this process: another one takes seconds to start."""

    def seen(event: Any) -> None:
        if is_stage(event, "refine"):
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "remote", False)
        with pytest.raises(InterruptedRun):
            run_tiny(folder, *study, host=watching(seen))


def joined(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kdsearch", "worker", str(folder / "study"), "--json"]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert "joined" in process.stderr.readline()
    return process


def test_it_does_trials_and_changes_nothing(tmp_path: Path) -> None:
    begun(tmp_path, *STUDY)
    worker = joined(tmp_path)
    try:
        assert settled(run_tiny(tmp_path, *STUDY)) == alone(tmp_path, *STUDY)
        assert facts_of(tmp_path) == facts_of(tmp_path / "alone")
        out, told = worker.communicate(timeout=60)
    finally:
        worker.kill()
    assert worker.returncode == 0, told
    assert json.loads(out)["jobs"] > 0
    assert "trial-1: begun" in told.splitlines()
    assert not (tmp_path / "study" / "workers").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_it_did_goes_on_without_it(tmp_path: Path, number: signal.Signals) -> None:
    begun(tmp_path, *LONG)
    worker = joined(tmp_path)
    told: list[str] = []

    def end(event: Any) -> None:
        """As soon as a trial has ended here one is under way there."""
        if event["event"] == "trial" and not told:
            assert worker.stderr is not None
            while not (told and told[-1].endswith(": begun")):
                told.append(worker.stderr.readline().strip())
            worker.send_signal(number)
            assert worker.wait(timeout=60) == (130 if number == signal.SIGINT else -signal.SIGKILL)

    try:
        assert settled(run_tiny(tmp_path, *LONG, host=watching(end))) == alone(tmp_path, *LONG)
    finally:
        worker.kill()
        worker.communicate()
    assert told[-1].startswith("trial-")


def test_a_study_that_takes_no_workers_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(tmp_path, *LESS)
    assert main(["worker", str(tmp_path / "study")]) == 2
    assert "executor 'inprocess', which takes no workers" in capsys.readouterr().err
    assert not (tmp_path / "study" / "workers").exists()
    assert main(["worker", str(tmp_path / "nothing")]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["worker", str(tmp_path / "empty")]) == 2
    assert "Traceback" not in capsys.readouterr().err
