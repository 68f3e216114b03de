"""A study that is killed again and again while its trials run: its run, a machine that joined, or both at once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.stages.tiny import LESS, settled

ROOT = Path(__file__).parents[2]
STUDY = (
    *LESS,
    "refine.trials=8",
    "refine.epochs=3",
    "refine.stopper={use: halving}",
    "objectives={accuracy: max, params: min}",
)
# imported by every process as it starts: a byte for each checkpoint that it writes, which is one a step
COUNTED = """\
import os, re, sys

def seen(event, arguments):
    if event == "os.rename" and re.fullmatch(r".*/phase-[0-9]+-[a-z]+[.]safetensors", os.fspath(arguments[1])):
        with open(os.environ["STEPS"], "ab") as stream:
            stream.write(b".")

sys.addaudithook(seen)
"""
# a machine that joins, which is missed after seconds and not after a minute
JOINING = """\
import sys
from kdsearch.verbs import worker
worker.LEASE_S, worker.BEAT_S = 2.0, 0.3
from kdsearch.cli import main
sys.exit(main(["worker", sys.argv[1], "--stay"]))
"""


@dataclass(frozen=True)
class Trials:
    """What came of a study, the steps that were trained for it, and the kills that it met."""

    settled: dict[str, Any]
    steps: int
    kills: tuple[str, ...] = ()


def counting(folder: Path) -> dict[str, str]:
    """An environment whose processes count steps in a file of the folder."""
    code = folder / "code"
    code.mkdir(parents=True, exist_ok=True)
    (code / "sitecustomize.py").write_text(COUNTED)
    paths = [str(code), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "STEPS": str(folder / "steps"), "PYTHONPATH": os.pathsep.join(each for each in paths if each)}


def run(folder: Path, storage: str, workers: int, *more: str) -> subprocess.CompletedProcess[str]:
    words = [word for each in STUDY for word in ("--set", each)]
    words += ["--set", f"run.storage={storage}"] if storage else []
    command = [sys.executable, "-m", "tests.stages.driver", str(folder), "--workers", str(workers), *words]
    command += ["--processes", *more]
    return subprocess.run(command, cwd=ROOT, env=counting(folder), capture_output=True, text=True, timeout=900)


def joined(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JOINING, str(folder / "study")]
    process = subprocess.Popen(command, cwd=ROOT, env=counting(folder), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "joined" in process.stderr.readline()
    return process


def undisturbed(folder: Path, storage: str = "") -> Trials:
    done = run(folder, storage, 1)
    assert done.returncode == 0, done.stderr
    return Trials(settled(json.loads(done.stdout)), (folder / "steps").stat().st_size)


def killed(folder: Path, storage: str, workers: int, seed: int, kills: int) -> Trials:
    """The study with so many SIGKILLs at random changes of its folder, of the run, of the machine that joined, or of both.

    Where the trials are through before so many were met, there are fewer.
    """
    rng, met = random.Random(seed), []
    other: subprocess.Popen[str] | None = None
    try:
        while len(met) < kills:
            whom = rng.choice(("run", "worker", "both")) if other is not None else "run"
            done = run(folder, storage, workers, "--kill", f"refine:{rng.randint(5, 40)}", "--whom", whom)
            if done.returncode == 0 and whom != "worker":
                break
            assert done.returncode in (0, -signal.SIGKILL), done.stderr
            if whom == "worker" and other is not None and other.poll() is None:
                break  # the run was through before
            met.append(whom)
            if other is None or other.poll() is not None:
                if other is not None:
                    other.communicate()
                other = joined(folder)
            if done.returncode == 0:
                break
        done = run(folder, storage, workers)
    finally:
        if other is not None:
            other.kill()
            other.communicate()
    assert done.returncode == 0, done.stderr
    return Trials(settled(json.loads(done.stdout)), (folder / "steps").stat().st_size, tuple(met))
