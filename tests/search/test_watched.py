"""A storage as a dashboard sees it."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from kdsearch.kinds import Trial
from kdsearch.search.trials import Board, TrialLog
from kdsearch.search.watched import PLOT, ReadOnlyError, Watched

BEGUN = Trial(0, {}, state="running")
ENDS = [
    replace(BEGUN, state="complete", losses=(-0.75, 9.0), curve=((0.5, (-0.5, 9.0)), (1.0, (-0.75, 9.0)))),
    replace(BEGUN, number=1, state="failed", error="NaN", curve=((0.5, (float("nan"), 9.0)),)),
    replace(BEGUN, number=2, state="pruned", curve=((0.25, (-0.125, 8.0)),)),
]


def watched(tmp_path: Path, board: Board) -> Watched:
    log = TrialLog(tmp_path / "t.journal", "k", board)
    n = len(board.objectives)
    for each in ENDS:
        log.put(replace(each, losses=each.losses[:n], curve=tuple((at, losses[:n]) for at, losses in each.curve)))
    return Watched(JournalStorage(JournalFileBackend(str(tmp_path / "t.journal"))))


def test_several_objectives_have_curves_of_the_one_that_is_judged(tmp_path: Path) -> None:
    (study,) = watched(tmp_path, Board({"accuracy": "max", "params": "min"})).get_all_studies()
    figure = json.loads(study.system_attrs[PLOT])
    assert [(line["name"], line["x"], line["y"]) for line in figure["data"]] == [
        ("0 (complete)", [50.0, 100.0], [0.5, 0.75]),
        ("2 (pruned)", [25.0], [0.125]),
    ]
    assert figure["layout"]["yaxis"]["title"]["text"] == study.user_attrs["curves"] == "accuracy"


def test_a_judged_objective_may_be_another_than_the_first(tmp_path: Path) -> None:
    (study,) = watched(tmp_path, Board({"accuracy": "max", "params": "min"}, judged=1)).get_all_studies()
    assert [line["y"] for line in json.loads(study.system_attrs[PLOT])["data"]] == [[9.0, 9.0], [9.0], [8.0]]


def test_a_single_objective_is_left_to_the_dashboard(tmp_path: Path) -> None:
    (study,) = watched(tmp_path, Board({"accuracy": "max"})).get_all_studies()
    assert PLOT not in study.system_attrs


def test_it_reads_as_the_storage_behind_and_writes_nothing(tmp_path: Path) -> None:
    seen = watched(tmp_path, Board({"accuracy": "max", "params": "min"}))
    before = (tmp_path / "t.journal").read_bytes()
    study = optuna.load_study(study_name="k", storage=seen)
    assert [each.state.name for each in study.trials] == ["COMPLETE", "FAIL", "PRUNED"]
    assert [each.number for each in study.best_trials] == [0]
    writes = [name for name in BaseStorage.__abstractmethods__ if name.startswith(("create_", "set_", "delete_"))]
    assert len(writes) == 10
    for name in writes:
        n = len(inspect.signature(getattr(seen, name)).parameters)
        with pytest.raises(ReadOnlyError):
            getattr(seen, name)(*[0] * n)
    assert (tmp_path / "t.journal").read_bytes() == before
