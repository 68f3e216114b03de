"""Trials in the journal: what goes in comes out, once, after any kill."""

import json
import math
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from kdsearch.errors import ArtifactError
from kdsearch.kinds import Dim, Range, Trial
from kdsearch.search.trials import TrialLog

DIMS = (
    Dim("a", Range(choices=(1, 2, 3))),
    Dim("b", Range(low=0.1, high=1.0, log=True)),
    Dim("c", Range(choices=(None, (1, 2)))),
)
GIVEN = [
    Trial(
        0,
        {"a": 1, "b": 0.3, "c": [1, 2]},
        {"d": [1]},
        "complete",
        (1.5,),
        (-0.5, 0.25),
        ((0.3, (2.0,)), (0.6, (1.75,))),
    ),
    Trial(1, {"a": 3, "b": 0.2, "c": None}, None, "pruned", (), (-0.5,), ((0.3, (7.0,)),)),
    Trial(2, {"a": 2, "b": 0.1, "c": None}, {"d": []}, "failed", error="NaN in kd"),
]


def test_trials_come_back_by_number_in_whatever_order_they_ended(tmp_path: Path) -> None:
    log = TrialLog(tmp_path / "t.journal", "k", 1, DIMS)
    for i in (2, 0, 1):
        assert log.put(GIVEN[i])
    assert log.read() == TrialLog(tmp_path / "t.journal", "k", 1, DIMS).read() == GIVEN


def test_what_ended_never_changes(tmp_path: Path) -> None:
    log = TrialLog(tmp_path / "t.journal", "k", 1, DIMS)
    assert log.put(GIVEN[0])
    assert not log.put(GIVEN[0])
    assert not log.put(Trial(0, {}, losses=(9.0,)))
    assert log.read() == [GIVEN[0]]


def test_a_trial_is_followed_from_its_beginning(tmp_path: Path) -> None:
    path, end = tmp_path / "t.journal", GIVEN[0]
    begun = Trial(0, end.values, end.spec, "running")
    states = [begun, replace(begun, state="paused", curve=end.curve[:1]), replace(begun, curve=end.curve[:1]), end]
    log = TrialLog(path, "k", 1, DIMS)
    for each in states:
        assert log.put(each)
        assert not log.put(each)
        assert TrialLog(path, "k", 1, DIMS).read() == [each]
        (shown,) = optuna_trials(path)
        assert shown.state.is_finished() == each.is_over
        assert len(shown.intermediate_values) == len(each.curve)
    assert shown.constraints == {"c0": -0.5, "c1": 0.25}
    assert shown.datetime_start < shown.datetime_complete


def test_a_kill_between_a_trials_end_and_its_state_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "t.journal"
    log = TrialLog(path, "k", 1, DIMS)
    log.put(replace(GIVEN[0], state="running", losses=(), violations=()))
    log.put(GIVEN[0])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert not optuna_trials(path)[0].state.is_finished()
    assert TrialLog(path, "k", 1, DIMS).read() == [GIVEN[0]]
    assert optuna_trials(path)[0].value == 1.5


def optuna_trials(path: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="k", storage=JournalStorage(JournalFileBackend(str(path)))).trials


def test_a_put_costs_the_same_after_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of the journal that are read, and JSON texts that are parsed, by a put: no more after 150 trials than after 10."""
    log = TrialLog(tmp_path / "t.journal", "k", 1, DIMS)
    parsed: list[int] = []
    loads = json.loads

    def counted(text: bytes | str, **named: object) -> object:
        parsed.append(len(text))
        return loads(text, **named)

    monkeypatch.setattr(json, "loads", counted)
    costs = []
    for number in range(150):
        parsed.clear()
        log.put(replace(GIVEN[1], number=number, state="running", curve=()))
        log.put(replace(GIVEN[1], number=number))
        costs.append((len(parsed), sum(parsed)))
    assert costs[10][0] == costs[149][0] > 0
    assert costs[149][1] < 1.2 * costs[10][1]


def test_any_storage_of_optuna_will_do(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    log = TrialLog(url, "k", 1, DIMS)
    for each in GIVEN:
        log.put(Trial(each.number, each.values, each.spec, "running"))
        log.put(each)
    assert TrialLog(url, "k", 1, DIMS).read() == GIVEN
    with pytest.raises(ArtifactError, match=r"cannot be opened .*Mend run.storage"):
        TrialLog("sqlite:////no/such/folder/trials.db", "k")
    with pytest.raises(ArtifactError, match=r"cannot be opened .*Mend run.storage"):
        TrialLog("nothing://here", "k")


def test_keys_share_a_file_and_keep_apart(tmp_path: Path) -> None:
    one, two = TrialLog(tmp_path / "t.journal", "k", 1), TrialLog(tmp_path / "t.journal", "l", 2)
    one.put(Trial(0, {}, losses=(1.0,)))
    two.put(Trial(0, {}, losses=(1.0, 2.0)))
    assert [each.losses for each in one.read() + two.read()] == [(1.0,), (1.0, 2.0)]


def test_a_journal_cut_anywhere_keeps_its_whole_lines_and_goes_on(tmp_path: Path) -> None:
    whole = tmp_path / "t.journal"
    trials = TrialLog(whole, "k", 1, DIMS)
    for each in GIVEN:
        trials.put(each)
    raw = whole.read_bytes()
    for cut in [*range(0, len(raw), 97), len(raw) - 1]:
        path = tmp_path / f"{cut}.journal"
        path.write_bytes(raw[:cut])
        again = TrialLog(path, "k", 1, DIMS)
        had = again.read()
        assert had == GIVEN[: len(had)]
        for each in GIVEN:
            again.put(each)
        assert TrialLog(path, "k", 1, DIMS).read() == GIVEN


def test_optuna_reads_it_as_any_study(tmp_path: Path) -> None:
    trials = TrialLog(tmp_path / "t.journal", "k", 1, DIMS)
    for each in GIVEN:
        trials.put(each, shown={"a": 2} if each.number == 1 else None)
    study = optuna.load_study(study_name="k", storage=JournalStorage(JournalFileBackend(str(tmp_path / "t.journal"))))
    assert [each.state.name for each in study.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    first = study.trials[0]
    assert (first.value, first.params["b"], first.params["c"]) == (1.5, 0.3, "[1,2]")
    assert first.intermediate_values == {300: 2.0, 600: 1.75}
    assert study.trials[2].user_attrs["error"] == "NaN in kd"


def test_a_complete_trial_needs_its_losses(tmp_path: Path) -> None:
    trials = TrialLog(tmp_path / "t.journal", "k", 2)
    for losses in ((), (1.0,), (1.0, math.nan)):
        with pytest.raises(ValueError, match="expected 2 numbers"):
            trials.put(Trial(0, {}, losses=losses))
    assert trials.read() == []


def test_a_foreign_file_or_another_count_of_objectives_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.journal"
    path.write_text("this is no journal\n")
    with pytest.raises(ArtifactError, match="not a journal"):
        TrialLog(path, "k")
    TrialLog(tmp_path / "u.journal", "k", 1)
    with pytest.raises(ArtifactError, match=r"1 objectives.*Expected 2"):
        TrialLog(tmp_path / "u.journal", "k", 2)
