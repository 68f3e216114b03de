"""What a folder says of a run that goes on in another process, was killed, or is done."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from kdsearch.cli import main
from kdsearch.errors import ArtifactError
from kdsearch.host import Host
from kdsearch.kinds import Trial
from kdsearch.stages.refine import _announce, _best, _best_note, ahead
from kdsearch.store.files import write_json
from kdsearch.store.folder import LAST, LOCK, PROGRESS, Events, held, holder_of, open_folder
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.training.tools import Progress
from kdsearch.verbs.status import status_of
from tests.hostile.permissions import obeyed
from tests.stages.tiny import write_study


@pytest.fixture
def folder(tmp_path):
    """Four of eight trials of a refine are told, one of an earlier study's too."""
    folder = tmp_path / "study"
    open_folder(folder)
    events = Events(folder / "events.jsonl")
    for key, total in (("refine-old", 3), ("refine-new", 8)):
        events.write("stage", stage="refine", state="begun", key=key.removeprefix("refine-"))
        events.write("trials", key=key, artifact=key, total=total, metric="accuracy", direction="max", at=1)
        losses = [[20.0, -0.7], [10.0, -0.8], [10.0, -0.99], [30.0, -0.8]] if total == 8 else [[1.0, -1.0]]
        for number, each in enumerate(losses):
            state = "pruned" if number == 2 else "complete"
            events.write("trial", key=key, number=number, state=state, losses=each, error="")
    return folder


def test_a_run_in_another_process(folder, monkeypatch):
    clock = {"now": 0.0}
    monkeypatch.setattr("kdsearch.training.tools.time.monotonic", lambda: clock["now"])
    bar = Progress(False, file=folder / PROGRESS)
    bar.begin("refine", 8)
    bar.had(2.0)
    clock["now"] = 100.0
    bar.at(4.5, "1 running")
    with held(folder):
        found = status_of(folder)
    assert found["stage"] == {"name": "refine", "number": 3, "of": 7}
    assert found["progress"]["done"] == 4.5
    assert found["progress"]["left_s"] == pytest.approx(3.5 * 100 / 2.5)
    assert (found["trials"], found["trials_total"]) == (4, 8)
    assert found["best"] == {"number": 1, "metric": "accuracy", "value": 0.8}
    assert "stage 3 of 7: refine, 4.5 of 8 (about 2 minutes left) 1 running\n" in found["text"]
    assert "trials: 4 of 8; best accuracy 80.00 % (trial 1)\n" in found["text"]
    json.dumps(found, allow_nan=False)


def test_the_best_keeps_the_limits(folder):
    """As the choice among the trials has it: several students may break a limit together. So does the line of a run."""
    tools: Any = SimpleNamespace(events=Events(folder / "events.jsonl"))
    log: Any = SimpleNamespace(key="refine-new")
    trials = [
        Trial(4, {}, {}, "complete", (10.0, -0.95), (0.1, -0.5)),
        Trial(5, {}, {}, "complete", (10.0, -0.9), (0.0, -0.5)),
    ]
    for each in trials:
        _announce(each, log, tools)
    assert status_of(folder)["best"] == {"number": 5, "metric": "accuracy", "value": 0.9}
    materials: Any = SimpleNamespace(objectives={"params": "min", "accuracy": "max"}, objective="accuracy")
    assert _best_note(materials, _best(materials, trials)) == "best accuracy 0.9000"
    assert _best_note(materials, _best(materials, trials[:1])) == ""


def test_the_best_is_said_as_its_metric_is(folder):
    """By the name that people call it, in its unit."""
    events = Events(folder / "events.jsonl")
    about = {"metric": "rmse", "title": "RMSE", "unit": "mpg", "direction": "min", "at": 0}
    events.write("trials", key="refine-third", artifact="refine-third", total=2, **about)
    events.write("trial", key="refine-third", number=0, state="complete", losses=[3.90512], error="")
    found = status_of(folder)
    assert "trials: 1 of 2; best RMSE 3.905 mpg (trial 0)" in found["text"].splitlines()
    assert found["best"] == {"number": 0, "metric": "rmse", "title": "RMSE", "unit": "mpg", "value": 3.90512}


def test_a_run_that_was_killed(folder):
    write_json(folder / PROGRESS, {"stage": "refine", "done": 4, "total": 8, "left_s": 60.0, "note": "x", "best": ""})
    found = status_of(folder)
    assert found["stages"]["refine"]["state"] == "stopped"
    assert found["text"].splitlines()[7:] == [
        "stage 3 of 7: refine, 4 of 8; stopped: the same `kdsearch run` goes on",
        "trials: 4 of 8; best accuracy 80.00 % (trial 1)",
    ]


def test_progress_of_another_stage_is_not_this_ones(folder):
    write_json(folder / PROGRESS, {"stage": "search", "done": 4, "total": 8, "left_s": 6.0, "note": "", "best": ""})
    with held(folder):
        assert status_of(folder)["progress"] is None


def test_a_folder_that_may_only_be_read_is_looked_at(folder, capsys):
    """Also while a run holds it, which is known without writing; and where its lock is gone."""
    before = status_of(folder)
    folder.chmod(0o555)
    (folder / LOCK).chmod(0o444)
    with obeyed():
        assert status_of(folder) == before
    folder.chmod(0o755)
    (folder / LOCK).chmod(0o644)
    with held(folder):
        folder.chmod(0o555)
        (folder / LOCK).chmod(0o444)
        with obeyed():
            assert status_of(folder)["held_by"] == holder_of(folder) is not None
        folder.chmod(0o755)
    (folder / LOCK).unlink()
    folder.chmod(0o555)
    with obeyed():
        assert main(["status", str(folder)]) == 0
        assert not (folder / LOCK).exists()
    folder.chmod(0o755)
    assert "trials: 4 of 8" in capsys.readouterr().out


def test_nothing_has_run(tmp_path):
    open_folder(tmp_path / "study")
    found = status_of(tmp_path / "study")
    assert (found["stage"], found["trials_total"], found["best"]) == (None, None, None)


@pytest.mark.parametrize("stage", ["refine", "report"])
def test_an_artifact_without_its_facts_is_none(stage, folder):
    """`run` makes it again; nothing is read of it here."""
    write_json(folder / LAST, {stage: {"key": "new", "seconds": 1.0}})
    write_json(folder / "result.json", {})
    (folder / "artifacts" / f"{stage}-new").mkdir(parents=True)
    Events(folder / "events.jsonl").write("stage", stage=stage, state="done", key="new")
    assert status_of(folder)["stages"][stage] == {"state": "not begun", "seconds": None}


def test_an_ending_without_its_error_is_named(folder):
    Events(folder / "events.jsonl").write("ended", exit_code=1)
    with pytest.raises(ArtifactError, match=r"events\.jsonl:\d+: error: is missing"):
        status_of(folder)


def test_damaged_progress_is_named(folder):
    (folder / PROGRESS).write_text('{"stage": 1}')
    with pytest.raises(ArtifactError, match=r"progress\.json"):
        status_of(folder)


def test_workers_that_joined_are_listed(folder):
    for name, text in (
        ("a" * 12, '{"host": "x", "pid": 7, "slots": 2, "running": ["t"], "more": 1}'),
        ("b" * 12, "{"),
        ("c" * 12, None),
    ):
        (folder / "workers" / name).mkdir(parents=True)
        if text:
            (folder / "workers" / name / "said.json").write_text(text)
    assert status_of(folder)["workers"] == []  # nobody runs the study
    with held(folder):
        found = status_of(folder)
    assert found["workers"] == [{"host": "x", "pid": 7, "slots": 2, "running": ["t"]}]
    assert "worker: pid 7 on x, 1 of 2 slots at work" in found["text"].splitlines()


def test_a_run_is_followed_until_it_ends(folder, monkeypatch, capsys):
    """A line an object, one for each change: a trial ends, nothing happens, the run ends."""
    running = held(folder)
    looks = []

    def slept(seconds):
        looks.append(seconds)
        if len(looks) == 1:
            about = {"key": "refine-new", "number": 4, "state": "complete", "losses": [5.0, -0.9], "error": ""}
            Events(folder / "events.jsonl").write("trial", **about)
        if len(looks) == 3:
            running.__exit__(None, None, None)

    monkeypatch.setattr("kdsearch.verbs.status.time.sleep", slept)
    running.__enter__()
    assert main(["status", str(folder), "--follow", "--json"]) == 0
    first, second, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert [each["trials"] for each in (first, second, last)] == [4, 5, 5]
    assert (first["best"]["value"], second["best"]["value"]) == (0.8, 0.9)
    assert [each["held_by"] is None for each in (first, second, last)] == [False, False, True]
    assert looks == [2.0, 2.0, 2.0]


def test_without_a_run_it_is_said_once(folder, monkeypatch, capsys):
    monkeypatch.setattr("kdsearch.verbs.status.time.sleep", lambda _: pytest.fail("there is nothing to wait for"))
    assert main(["status", str(folder), "--follow"]) == 0
    assert capsys.readouterr().out.count("stage 3 of 7") == 1


@pytest.mark.parametrize(
    ("objectives", "expected"),
    [
        ("{latency_ms: min}", {"metric": "latency_ms", "direction": "min", "at": 0, "total": 3}),
        (
            "{params: min, accuracy: max}",
            {"metric": "accuracy", "title": "", "unit": "share", "direction": "max", "at": 1, "total": 3},
        ),
    ],
)
def test_trials_are_announced_also_where_no_objective_is_a_metric(objectives, expected, tmp_path):
    study = load_study(write_study(tmp_path), Host.load(), sets=(f"objectives={objectives}",))
    assert ahead(open_materials(study, Host.load())) == expected
