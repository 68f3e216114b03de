"""SIGKILL at random moments; run again, a study ends as if nothing had happened."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kdsearch.store.artifacts import Store
from tests.stages.tiny import STAGES, settled

ROOT = Path(__file__).parents[2]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.stages.driver", str(folder), *arguments]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate()
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def kill_in(folder: Path, stage: str, number: int) -> bool:
    """Whether the run was killed there; False: it was through before."""
    process = start(folder, "--kill", f"{stage}:{number}")
    _, err = process.communicate()
    assert process.returncode in (-signal.SIGKILL, 0), err
    return process.returncode != 0


def check_whole(folder: Path) -> None:
    """What a kill left under its final name is complete."""
    store = Store(folder / "study")
    for each in (folder / "study" / "artifacts").glob("[!.]*"):
        stage, _, key = each.name.partition("-")
        assert store.get(stage, key) is not None, each


def test_two_kills(finished, tmp_path):
    rng = random.Random(5)
    assert kill_in(tmp_path, "refine", rng.randint(20, 30))
    check_whole(tmp_path)
    assert kill_in(tmp_path, "export", rng.randint(2, 4))
    check_whole(tmp_path)
    assert settled(ended(start(tmp_path))) == finished.settled
    assert not list((tmp_path / "study" / "artifacts").glob(".*")), "what the kills tore is cleared away"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_ten_kills_in_every_stage(finished, tmp_path, seed):
    assert settled(ended(start(tmp_path / "undisturbed"))) == finished.settled
    counts = json.loads((tmp_path / "undisturbed" / "counts.json").read_text())
    assert set(counts) == set(STAGES)
    rng = random.Random(seed)
    folder, hits = tmp_path / "killed", []
    for stage in STAGES:
        again = stage in ("prepare", "refine", "distill", "compress")
        for number in (rng.randint(1, counts[stage]), 1)[: 1 + again]:  # and again, as soon as it is gone on with
            if list((folder / "study" / "artifacts").glob(f"{stage}-*")):
                continue  # the kill came after its last file: a run would go through to the end
            if kill_in(folder, stage, number):
                hits.append(f"{stage}:{number}")
            check_whole(folder)
    assert len(hits) >= 10, " ".join(hits)
    assert {each.partition(":")[0] for each in hits} == set(STAGES), hits
    assert settled(ended(start(folder))) == finished.settled, hits


@pytest.mark.slow
def test_kills_by_the_clock(finished, tmp_path):
    began = time.monotonic()
    ended(start(tmp_path / "undisturbed"))
    taken = time.monotonic() - began
    rng, hits, folder = random.Random(2), 0, tmp_path / "killed-0"
    while hits < 3:
        process = start(folder)
        try:
            process.communicate(timeout=rng.uniform(0.1, 0.7) * taken)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            hits += 1
        else:  # the machine is faster than it was
            taken, folder = taken / 2, tmp_path / f"killed-{hits}-{taken}"
        check_whole(folder)
    assert settled(ended(start(folder))) == finished.settled


@pytest.mark.parametrize("n_told", [1, 4])
def test_a_journal_that_was_cut_goes_on_with_the_trials_it_holds(finished, copied, n_told):
    """A kill between two lines: what was asked is not asked anew, what ended is not trained again."""
    import shutil

    from tests.stages.tiny import run_tiny

    study = copied / "study"
    lines = (study / "trials.journal").read_bytes().splitlines(keepends=True)
    told = [i for i, each in enumerate(lines) if b"kdsearch" in each]
    assert len(told) >= 6
    (study / "trials.journal").write_bytes(b"".join(lines[: told[n_told]]))
    for stage in ("refine", "distill", "compress", "export", "report"):
        for each in (study / "artifacts").glob(f"{stage}-*"):
            shutil.rmtree(each)
    assert settled(run_tiny(copied)) == finished.settled
