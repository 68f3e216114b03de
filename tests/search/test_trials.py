"""Trials in the journal: what goes in comes out, once, after any kill."""

import math
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from kdsearch.errors import ArtifactError
from kdsearch.kinds import Dim, Range, Trial
from kdsearch.search.trials import Trials

DIMS = (
    Dim("a", Range(choices=(1, 2, 3))),
    Dim("b", Range(low=0.1, high=1.0, log=True)),
    Dim("c", Range(choices=(None, (1, 2)))),
)
GIVEN = [
    Trial(0, {"a": 1, "b": 0.3, "c": [1, 2]}, {"d": [1]}, "complete", (1.5,), (-0.5, 0.25), ((0.3, 2.0), (0.6, 1.75))),
    Trial(1, {"a": 3, "b": 0.2, "c": None}, None, "pruned", (), (-0.5,), ((0.3, 7.0),)),
    Trial(2, {"a": 2, "b": 0.1, "c": None}, {"d": []}, "failed", error="NaN in kd"),
]


def test_trials_come_back_by_number_whoever_wrote_them_in_what_order(tmp_path: Path) -> None:
    first, second = (Trials(tmp_path / "t.journal", "k", 1, DIMS) for _ in range(2))
    assert first.append(GIVEN[2])
    assert second.append(GIVEN[0])
    assert first.append(GIVEN[1])
    assert first.read() == second.read() == Trials(tmp_path / "t.journal", "k", 1, DIMS).read() == GIVEN


def test_telling_twice_changes_nothing(tmp_path: Path) -> None:
    one, two = (Trials(tmp_path / "t.journal", "k", 1, DIMS) for _ in range(2))
    assert one.append(GIVEN[0])
    assert not two.append(Trial(0, {}, losses=(9.0,)))
    assert two.read() == [GIVEN[0]]


def test_keys_share_a_file_and_keep_apart(tmp_path: Path) -> None:
    one, two = Trials(tmp_path / "t.journal", "k", 1), Trials(tmp_path / "t.journal", "l", 2)
    one.append(Trial(0, {}, losses=(1.0,)))
    two.append(Trial(0, {}, losses=(1.0, 2.0)))
    assert [each.losses for each in one.read() + two.read()] == [(1.0,), (1.0, 2.0)]


def test_a_journal_cut_anywhere_keeps_its_whole_lines_and_goes_on(tmp_path: Path) -> None:
    whole = tmp_path / "t.journal"
    trials = Trials(whole, "k", 1, DIMS)
    for each in GIVEN:
        trials.append(each)
    raw = whole.read_bytes()
    for cut in [*range(0, len(raw), 97), len(raw) - 1]:
        path = tmp_path / f"{cut}.journal"
        path.write_bytes(raw[:cut])
        again = Trials(path, "k", 1, DIMS)
        had = again.read()
        assert had == GIVEN[: len(had)]
        for each in GIVEN:
            again.append(each)
        assert Trials(path, "k", 1, DIMS).read() == GIVEN


def test_optuna_reads_it_as_any_study(tmp_path: Path) -> None:
    trials = Trials(tmp_path / "t.journal", "k", 1, DIMS)
    for each in GIVEN:
        trials.append(each, shown={"a": 2} if each.number == 1 else None)
    study = optuna.load_study(study_name="k", storage=JournalStorage(JournalFileBackend(str(tmp_path / "t.journal"))))
    assert [each.state.name for each in study.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    first = study.trials[0]
    assert (first.value, first.params["b"], first.params["c"]) == (1.5, 0.3, "[1,2]")
    assert first.intermediate_values == {300: 2.0, 600: 1.75}
    assert study.trials[2].user_attrs["error"] == "NaN in kd"


def test_a_complete_trial_needs_its_losses(tmp_path: Path) -> None:
    trials = Trials(tmp_path / "t.journal", "k", 2)
    for losses in ((), (1.0,), (1.0, math.nan)):
        with pytest.raises(ValueError, match="expected 2 numbers"):
            trials.append(Trial(0, {}, losses=losses))
    assert trials.read() == []


def test_a_foreign_file_or_another_count_of_objectives_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.journal"
    path.write_text("this is no journal\n")
    with pytest.raises(ArtifactError, match="not a journal"):
        Trials(path, "k")
    Trials(tmp_path / "u.journal", "k", 1)
    with pytest.raises(ArtifactError, match=r"1 objectives.*Expected 2"):
        Trials(tmp_path / "u.journal", "k", 2)
