"""How a run ended, as `kdsearch status` says it, and what its stages took over all their parts."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime

import pytest

from kdsearch.cli import main
from kdsearch.errors import InterruptedRun
from kdsearch.store.files import read_lines, write_json
from kdsearch.store.folder import PROGRESS, Events, events_of, last_run, seconds_before
from kdsearch.verbs.status import status_of
from tests.stages.tiny import LESS, events, is_stage, run_tiny, run_up_to, watching

GOES_ON = "stopped: the same `kdsearch run` goes on"


def text_of(folder):
    return status_of(folder)["text"].splitlines()


def test_the_reason_of_a_refusal_is_said_until_a_run_ends_well(copied, capsys):
    study = copied / "study"
    assert main(["run", str(copied / "tiny.yaml"), "--dir", str(study), "--pick", "best,accuracy>1"]) == 3
    reason = capsys.readouterr().err.splitlines()[-1].removeprefix("kdsearch: ")
    found = text_of(study)
    assert "stage 4 of 7: distill; stopped" in found
    (told,) = [each for each in found if each.startswith("the last run ended with exit code 3: ")]
    assert "trials has accuracy>1; accuracy reaches 0." in told
    assert told.endswith(reason.rpartition("error: ")[2]), "with the file and line that the terminal had"
    assert status_of(study)["last_error"]
    run_tiny(copied)
    assert not [each for each in text_of(study) if "the last run" in each or "; stopped" in each]
    assert status_of(study)["last_error"] == ""
    n = len(events(copied))
    run_tiny(copied)
    assert len(events(copied)) == n


def test_an_error_after_a_stage_is_said_too(copied):
    """The teacher is judged once `prepare` is done."""
    with pytest.raises(Exception, match="expected"):
        run_tiny(copied, "teacher.expected={accuracy: 0.999999}")
    (told,) = [each for each in text_of(copied / "study") if each.startswith("the last run ended with exit code ")]
    assert "teacher.expected" in told


def test_an_interrupted_run_goes_on(stopped):
    found = text_of(stopped["search"] / "study")
    assert [each for each in found if each.startswith("stage 2 of 7: search") and each.endswith(GOES_ON)]
    assert not [each for each in found if "the last run" in each]
    assert status_of(stopped["search"] / "study")["last_error"] == "stopped; scored candidates are kept"


def test_after_exit_code_1_it_goes_on_and_the_reason_is_said(tmp_path):
    log = Events(tmp_path / "events.jsonl")
    log.write("stage", stage="search", state="begun", key="aa", seconds=0.0)
    log.write("stage", stage="search", state="stopped", key="aa", seconds=1.0, error="no space left on the disk")
    log.write("ended", error="no space left on the disk", exit_code=1)
    assert text_of(tmp_path)[-2:] == [
        f"stage 2 of 7: search; {GOES_ON}",
        "the last run ended with exit code 1: no space left on the disk",
    ]
    log.write("stage", stage="search", state="begun", key="aa", seconds=1.0)
    assert text_of(tmp_path)[-1] == f"stage 2 of 7: search; {GOES_ON}", "killed: nobody knows why"


def test_seconds_are_those_of_all_parts(tmp_path):
    """As if the first part had taken an hour."""
    host = watching(lambda event: is_stage(event, "search") and signal.raise_signal(signal.SIGTERM))
    log = tmp_path / "study" / "events.jsonl"
    for part in range(2):
        with pytest.raises(InterruptedRun):
            run_up_to(tmp_path, "search", *LESS, host=host)
        lines = read_lines(log)
        if not part:
            (stopped,) = [each for each in lines if is_stage(each, "search", "stopped")]
            stopped["seconds"] += 3600
            log.write_text("".join(json.dumps(each) + "\n" for each in lines))
    run_up_to(tmp_path, "search", *LESS)
    took = [each["seconds"] for each in events(tmp_path, "stage") if each["stage"] == "search"]
    assert took == sorted(took)
    assert last_run(tmp_path / "study")["search"]["seconds"] == took[-1] > 3600


def test_a_part_that_was_killed_counts_to_its_last_progress(tmp_path):
    log = Events(tmp_path / "events.jsonl")
    log.write("stage", stage="search", state="begun", key="aa", seconds=4.0)
    assert seconds_before(tmp_path, "search", "aa") == 4.0
    write_json(tmp_path / PROGRESS, {"stage": "search", "done": 1, "total": 8, "left_s": None, "note": "", "best": ""})
    began = datetime.fromisoformat(events_of(tmp_path)[0]["time"]).timestamp()
    os.utime(tmp_path / PROGRESS, (began + 7, began + 7))
    assert seconds_before(tmp_path, "search", "aa") == pytest.approx(11.0)
    log.write("stage", stage="refine", state="begun", key="bb", seconds=0.0)
    assert seconds_before(tmp_path, "search", "aa") == 4.0, "the progress is of what came after"
    log.write("stage", stage="search", state="done", key="aa", seconds=12.0)
    assert seconds_before(tmp_path, "search", "aa") == 0.0, "what is made again is another making"
