"""A study's trials as optuna and its dashboard see them."""

from __future__ import annotations

import json

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import kdsearch
from tests.stages.conftest import Done


@pytest.fixture
def shown(finished: Done) -> optuna.Study:
    journal = JournalStorage(JournalFileBackend(str(finished.folder / "study" / "trials.journal")))
    (name,) = optuna.get_all_study_names(journal)
    return optuna.load_study(study_name=name, storage=journal)


def test_optuna_reads_what_the_result_says(finished: Done, shown: optuna.Study) -> None:
    """Names that a person reads, objectives in their own direction, the states and values of the report."""
    rows = kdsearch.Result.open(finished.folder / "study").evidence["trials"]
    assert shown.study_name.startswith("study refine ")
    assert len(shown.study_name) < 40
    assert (shown.metric_names, [each.name for each in shown.directions]) == (["accuracy"], ["MAXIMIZE"])
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    assert [(each.number, states[each.state.name]) for each in shown.trials] == [
        (each["number"], each["state"]) for each in rows
    ]
    assert shown.best_value == max(each["objectives"]["accuracy"] for each in rows if each["state"] == "complete")
    for trial, row in zip(shown.trials, rows, strict=True):
        assert trial.values == (list(row["objectives"].values()) or None)
        looks = [-losses["accuracy"] for _, losses in row["curve"]]
        assert list(trial.intermediate_values.values()) == pytest.approx(looks)
        assert set(trial.params) == {"kd.weight", "kd.temperature", "train.lr"}
        assert trial.params["kd.weight"] == row["values"]["recipe.distillers[0].weight"]
        assert trial.user_attrs.keys() == {"architecture", "params", "macs"}
        assert (trial.user_attrs["params"], trial.user_attrs["macs"]) == (row["params"], row["macs"])
        assert trial.user_attrs["architecture"].startswith("basic block, depths ")
        assert trial.datetime_start < trial.datetime_complete
        if row["state"] == "complete":
            assert trial.constraints.keys() == {"params", "macs"}


def test_every_number_in_the_journal_is_one(finished: Done) -> None:
    for line in (finished.folder / "study" / "trials.journal").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
