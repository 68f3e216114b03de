"""`run.log`: what loggers are told of a study, through kills and late additions, and that none of them can change it."""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdsearch
from kdsearch.errors import InterruptedRun, PluginError, StudyError
from kdsearch.hooks import Register, hookimpl
from kdsearch.host import Host
from kdsearch.kinds import Logger, NoOptions, Run, Trial
from kdsearch.search.trials import TrialLog
from tests.stages.tiny import LESS, events, made, run_tiny, run_up_to, settled, watching

STUDY = (
    *LESS,
    "refine.trials=4",
    "refine.epochs=3",
    "objectives={accuracy: max, params: min}",
    "refine.stopper={use: halving}",
)
CSV = "run.log=[csv]"
SEEN: list[Run] = []


class Kept(Logger[NoOptions]):
    """Keeps what it is told for as long as the process."""

    def open(self, folder: Path, study: str) -> None:
        SEEN.clear()

    def put(self, run: Run) -> None:
        SEEN.append(run)

    def knows(self, id: str) -> bool:
        return any(run.id == id and run.is_over for run in SEEN)


class Failing(Kept):
    """Draws random numbers, prints, and then fails."""

    def put(self, run: Run) -> None:
        print("noise")
        random.random()
        np.random.rand()
        torch.rand(1)
        if len(SEEN) == 3:
            raise SystemExit("no room")
        super().put(run)


class Unopened(Kept):
    def open(self, folder: Path, study: str) -> None:
        super().open(folder, study)
        raise ConnectionError("nobody there")


class Lacking(Kept):
    def __init__(self, options: NoOptions) -> None:
        super().__init__(options)
        raise ModuleNotFoundError("No module named 'some_tool'", name="some_tool")


class Plugin:
    @hookimpl
    def kdsearch_register(self, register: Register) -> None:
        for cls in (Kept, Failing, Unopened, Lacking):
            register.logger(cls.__name__.lower(), f"{__name__}:{cls.__name__}", extra="some")


def host() -> Host:
    return Host.load(extra=[("loggers", Plugin())])


@pytest.fixture(scope="module")
def unlogged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    run_tiny(folder, *STUDY)
    return folder


@pytest.fixture(scope="module")
def plain(unlogged: Path) -> dict[str, Any]:
    """The study's result without a logger."""
    return settled(json.loads((unlogged / "study" / "result.json").read_text()))


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logged")
    run_tiny(folder, *STUDY, CSV)
    return folder / "study"


def told(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> what the CSV logger has of the run, its columns as `curves`."""
    found = {}
    for file in sorted((folder / "log" / "csv").glob("**/*.json")):
        run = json.loads(file.read_text())
        rows = [*csv.DictReader(file.with_suffix(".csv").read_text().splitlines())]
        run["curves"] = {
            name: [(int(row["epoch"]), float(row[name])) for row in rows if row[name]]
            for name in (rows or [{}])[0]
            if name != "epoch"
        }
        found[run["name"].partition(" ")[0] if run["name"].startswith("result") else run["name"]] = run
    return found


def test_every_trial_and_training_is_told_whole(logged: Path, plain: dict[str, Any]) -> None:
    result = json.loads((logged / "result.json").read_text())
    assert settled(result) == plain
    runs, rows = told(logged), kdsearch.Result.open(logged).evidence["trials"]
    assert set(runs) == {*(f"trial {row['number']}" for row in rows), "winner-0", "result"}
    assert {row["state"] for row in rows} == {"complete", "pruned"}
    for row in rows:
        run = runs[f"trial {row['number']}"]
        assert run["state"] == row["state"]
        assert run["params"] == {
            "kd.weight": row["values"]["recipe.distillers[0].weight"],
            "kd.temperature": row["values"]["recipe.distillers[0].options.temperature"],
            "train.lr": row["values"]["recipe.train.lr"],
        }
        assert run["values"] == {"params": row["params"], "macs": row["macs"], **row["objectives"]}
        reached = [max(1, round(3 * share)) if share == 1 else -(-3 * share // 1) for share, _ in row["curve"]]
        by_epoch = dict(run["curves"]["accuracy"])
        assert sorted(by_epoch) == [*range(1, int(max(reached)) + 1)]
        assert [by_epoch[epoch] for epoch in reached] == [-losses["accuracy"] for _, losses in row["curve"]]
        assert {"loss", "accuracy", "terms/task", "terms/kd.kl"} == set(run["curves"])
    winner = json.loads(next((logged / "artifacts").glob("distill-*/artifact.json")).read_text())["facts"]["runs"][
        "winner-0"
    ]
    assert runs["winner-0"]["curves"]["loss"] == [(each["epoch"], each["loss"]) for each in winner["history"]]
    export = result["exports"][0]
    assert runs["result"]["values"]["onnx-fp32/bytes"] == export["bytes"]
    assert Path(runs["result"]["files"]["tiny-fp32.onnx"]).stat().st_size == export["bytes"]


def test_a_study_that_was_stopped_is_told_the_same(logged: Path, plain: dict[str, Any], tmp_path: Path) -> None:
    """Ctrl-C after two trials; gone on, nothing is lost and nothing is there twice."""

    def seen(event: Any) -> None:
        if event["event"] == "trial" and event["number"] == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(InterruptedRun):
        run_tiny(tmp_path, *STUDY, CSV, host=watching(seen), checkpoint_s=0)
    assert "result" not in told(tmp_path / "study")
    assert settled(run_tiny(tmp_path, *STUDY, CSV)) == plain
    ours, theirs = told(tmp_path / "study"), told(logged)
    for runs in (ours, theirs):
        del runs["result"]  # its files are each folder's own
    assert ours == theirs


def test_a_trial_that_is_judged_after_a_stop_keeps_its_curves(
    logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between a trial's rung and what follows from it: the next run ends the trial, and has not trained it."""
    rows = kdsearch.Result.open(logged).evidence["trials"]
    pruned = next(row["number"] for row in rows if row["state"] == "pruned")
    put = TrialLog.put

    def cut_off(log: TrialLog, trial: Trial) -> bool:
        found = put(log, trial)
        if (trial.number, trial.state) == (pruned, "paused"):
            raise InterruptedRun("here")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(TrialLog, "put", cut_off)
        with pytest.raises(InterruptedRun):
            run_tiny(tmp_path, *STUDY, CSV)
    run_up_to(tmp_path, "refine", *STUDY, CSV)
    assert told(tmp_path / "study")[f"trial {pruned}"] == told(logged)[f"trial {pruned}"]


def test_a_logger_that_comes_late_is_told_what_the_artifacts_have(
    logged: Path, unlogged: Path, tmp_path: Path, plain: dict[str, Any]
) -> None:
    shutil.copytree(unlogged, tmp_path, dirs_exist_ok=True)
    assert not (tmp_path / "study" / "log").exists()
    n = len(events(tmp_path))
    assert settled(run_tiny(tmp_path, *STUDY, CSV)) == plain
    assert made(tmp_path, n) == []
    runs, theirs = told(tmp_path / "study"), told(logged)
    assert set(runs) == set(theirs)
    assert runs["winner-0"] == theirs["winner-0"]
    for name in (each for each in runs if each.startswith("trial")):
        assert {**runs[name], "curves": {}} == {**theirs[name], "curves": {}}
        at_rungs = dict(theirs[name]["curves"]["accuracy"])
        assert all(at_rungs[epoch] == value for epoch, value in runs[name]["curves"]["accuracy"])


def test_loggers_that_fail_change_nothing(
    plain: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = settled(run_tiny(tmp_path, *STUDY, "run.log=[unopened, failing, csv]", host=host()))
    notes = [each for each in found["notes"] if each not in plain["notes"]]
    said = {"unopened": "ConnectionError: nobody there", "failing": "SystemExit: no room"}
    for note, (name, problem) in zip(notes, said.items(), strict=True):
        assert note.startswith(f"Logger '{name}' failed: {problem}")
        assert note.endswith("; the study went on without it.")
        found["notes"].remove(note)
    found["provenance"]["plugins"].pop("live:loggers", None)
    assert found == plain
    assert "trial 3" in told(tmp_path / "study")
    assert len(SEEN) == 3
    assert "noise" not in capfd.readouterr().out


def test_runs_are_told_as_they_go(plain: dict[str, Any], tmp_path: Path) -> None:
    run_up_to(tmp_path, "refine", *STUDY, "run.log=[kept]", host=host())
    first = [run for run in SEEN if run.name == "trial 0"]
    assert [run.state for run in first] == ["running", "paused", "running", "complete"]
    lengths = [len(run.curves.get("loss", ())) for run in first]
    assert lengths == sorted(lengths)
    assert len({run.id for run in first}) == 1


@pytest.mark.parametrize(
    ("log", "error", "said"),
    [
        (
            "[lacking]",
            PluginError,
            "run.log[0]: logger 'lacking' of live 0 needs some_tool, which is not installed. Run: pip install",
        ),
        ("[csvs]", PluginError, "did you mean 'csv'?"),
        ("[{use: csv, options: {separator: x}}]", StudyError, "run.log[0].options.separator"),
    ],
)
def test_what_cannot_be_opened_is_said_before_any_work(
    log: str, error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        run_tiny(tmp_path, *STUDY, f"run.log={log}", host=host())
    assert said in str(caught.value)
    assert not (tmp_path / "study").exists()
