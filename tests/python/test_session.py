"""Ask and tell: numbers, what is told, and a session that was cut off."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import kdsearch
from kdsearch.errors import StudyError, TrialError, UserError
from kdsearch.host import Host
from kdsearch.kinds import Ask, Controller, NoOptions, Procedure
from kdsearch.kinds.space import draw
from kdsearch.study import load_study
from tests.builtin.test_csv_logger import TestCsv as Csv
from tests.python.tiny_live import tiny
from tests.stages.tiny import LESS, write_study


class ByHistory(Controller[NoOptions]):
    """Draws by what it has seen, so that another history shows."""

    def ask(self, space, dims, history, n, seed):
        rng = torch.Generator().manual_seed(seed + 1000 * len(history))
        return [Ask({dim.path: draw(dim, rng) for dim in dims}) for _ in range(n)]


class Both(Procedure[NoOptions]):
    """Two students, in a loop of one's own."""

    roles = ships = ("a", "b")

    def phases(self, setup):
        raise NotImplementedError


def study(**changes):
    refine = {"trials": 6, "generation": 3, "controller": {"use": ByHistory}, **changes.pop("refine", {})}
    return tiny(recipe=[{"use": "kd", "weight": "search"}], refine=refine, **changes)


def asked(folder, n, **changes):
    """(number, values) of the next n candidates, each told."""
    found = []
    with kdsearch.Session(study(**changes), folder) as session:
        for _ in range(n):
            candidate = session.ask()
            found.append((candidate.number, dict(candidate.values)))
            session.tell(candidate, {"accuracy": 0.1 * candidate.number})
    return found


def test_a_session_that_was_cut_off_asks_as_if_it_had_not(tmp_path):
    whole = asked(tmp_path / "whole", 6)
    assert [number for number, _ in whole] == [0, 1, 2, 3, 4, 5]
    assert len({str(values) for _, values in whole}) == 6
    assert asked(tmp_path / "cut", 1) + asked(tmp_path / "cut", 3) + asked(tmp_path / "cut", 2) == whole


def test_what_was_asked_and_not_told_is_asked_again_whatever_the_study_would_ask_now(tmp_path, monkeypatch):
    """With more trials others may come first."""
    asked(tmp_path, 1)
    with kdsearch.Session(study(), tmp_path) as session:
        left = session.ask()
    with kdsearch.Session(study(refine={"trials": 9}), tmp_path) as session:
        monkeypatch.setattr("kdsearch.stages.refine.next_ask", lambda *_: None)
        again = session.ask()
        assert (again.number, again.values, again.specs) == (1, left.values, left.specs)
        session.tell(again, {"accuracy": 0.5})
        assert session.ask() is None


def test_what_is_told_counts(tmp_path):
    with kdsearch.Session(study(), tmp_path) as session:
        first = session.ask()
        assert session.ask() is first  # until it is told
        with pytest.raises(StudyError, match="'acuracy' is no objective; did you mean 'accuracy'"):
            session.tell(first, {"acuracy": 0.5})
        for wrong in (None, "good", [0.5, 0.6], torch.zeros(2), 10**400):
            with pytest.raises(StudyError, match=r"accuracy: got .*\. Expected a number"):
                session.tell(first, {"accuracy": wrong})
        with pytest.raises(StudyError, match=r"values: got 0\.5\. Expected numbers by name: accuracy"):
            session.tell(first, 0.5)
        with pytest.raises(StudyError, match="objective 'accuracy' was not told"):
            session.tell(first, {})
        session.tell(first, {"accuracy": np.float32(0.5)})
        session.tell(session.ask(), {"accuracy": torch.tensor(math.nan)})
        session.fail(session.ask(), "too hot")
        assert [trial.state for trial in session.trials] == ["complete", "failed", "failed"]
        assert session.trials[2].error == "too hot"
        session.tell(session.ask(), {"accuracy": 0.7})
        assert session.best()["number"] == 3
        assert session.best()["objectives"] == {"accuracy": 0.7}
        for _ in range(2):
            session.tell(session.ask(), {"accuracy": 0.1})
        assert session.ask() is None


def test_where_all_failed_the_first_reason_is_told(tmp_path):
    with kdsearch.Session(study(), tmp_path) as session:
        session.fail(session.ask(), "too hot")
        session.fail(session.ask(), "too cold")
        with pytest.raises(TrialError, match="all 2 trials failed; the first: too hot"):
            session.best()


def test_a_candidate_is_told_once_while_the_session_is_open(tmp_path):
    with kdsearch.Session(study(), tmp_path) as session:
        with pytest.raises(UserError, match="no trial was told"):
            session.best()
        first = session.ask()
        with pytest.raises(UserError, match="no trial was told"):
            session.best()  # one that runs says nothing yet
        session.tell(first, {"accuracy": 0.5})
        for again in (lambda: session.tell(first, {"accuracy": 0.9}), lambda: session.fail(first, "late")):
            with pytest.raises(UserError, match=r"candidate 0 was told already.*none is waited for"):
                again()
        second = session.ask()
    for late in (session.ask, lambda: session.tell(second, {"accuracy": 0.9})):
        with pytest.raises(UserError, match="the session is not open"):
            late()
    assert session.best()["objectives"] == {"accuracy": 0.5}
    assert [trial.number for trial in session.trials] == [0]


def test_a_training_fails_with_an_error_or_with_any_text_and_the_trials_can_be_read_again(tmp_path):
    """None was written as it is, and no session opened the journal any more."""
    with kdsearch.Session(study(), tmp_path) as session:
        try:
            raise MemoryError("17 GiB")
        except MemoryError as error:
            session.fail(session.ask(), error)
        session.fail(session.ask(), None)
        assert session.trials[0].error.startswith("MemoryError: 17 GiB (in ")
    with kdsearch.Session(study(), tmp_path) as session:
        assert [(trial.state, type(trial.error)) for trial in session.trials] == [("failed", str)] * 2


def test_a_loop_that_changes_the_working_directory_is_told_of_in_the_same_folder(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    with kdsearch.Session(study(), "asked") as session:
        for _ in range(2):
            candidate = session.ask()
            monkeypatch.chdir(elsewhere)
            session.tell(candidate, {"accuracy": 0.5})
        assert [trial.number for trial in session.trials] == [0, 1]
    assert not [*elsewhere.iterdir()]


def test_models_are_fresh_and_a_function_of_number_and_seed(tmp_path):
    with kdsearch.Session(study(), tmp_path / "a") as session:
        one = session.ask()
    with kdsearch.Session(study(), tmp_path / "a") as session:
        again = session.ask()
    weights, same = one.model.module.state_dict(), again.model.module.state_dict()
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    with kdsearch.Session(study(seed=1), tmp_path / "b") as session:
        other = session.ask().model.module.state_dict()
    assert any(
        weights[name].shape != other[name].shape or not torch.equal(weights[name], other[name]) for name in other
    )


def test_of_several_students_each_has_a_model_of_its_own(tmp_path):
    one = {"space": "cifar_resnet", "spec": {"depths": [1, 1, 1], "widths": [4, 4, 4]}}
    both = tiny(student=None, students={"a": one, "b": one}, recipe={"procedure": {"use": Both}})
    with kdsearch.Session(both, tmp_path) as session:
        found = session.ask()
    assert [*found.models] == [*found.specs] == ["a", "b"]
    assert found.model is found.models["a"]
    first, second = (each.module.state_dict() for each in found.models.values())
    assert [*first] == [*second]
    assert not all(torch.equal(first[name], second[name]) for name in first)


def test_more_trials_go_on_and_another_recipe_begins(tmp_path):
    asked(tmp_path, 6)
    with kdsearch.Session(study(refine={"trials": 7}), tmp_path) as session:
        assert session.ask().number == 6
    other = study(constraints={"params": 19_999})
    with pytest.warns(UserWarning, match="^6 trials in "), kdsearch.Session(other, tmp_path) as session:
        assert session.trials == []


def test_a_changed_study_that_begins_anew_says_so(tmp_path, recwarn):
    asked(tmp_path, 2)
    asked(tmp_path, 1, refine={"trials": 8})
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"^3 trials in .* are of another study: what they depend on") as found:
        asked(tmp_path, 1, seed=1)
    opened = Path(__file__).read_text().splitlines()[found[0].lineno - 1]
    assert opened == "    with kdsearch.Session(study(**changes), folder) as session:"
    recwarn.clear()
    asked(tmp_path, 1, seed=1)
    asked(tmp_path, 1)
    assert not recwarn.list, "both go on"


def test_loggers_are_told_of_what_is_asked_and_told(tmp_path):
    """Of what an earlier session told, too, where it had no logger; each once."""
    values = dict(asked(tmp_path, 1)[0][1])
    for _ in range(2):
        logged = study(run={"device": "cpu", "log": ["csv"]})
        with kdsearch.Session(logged, tmp_path) as session:
            session.tell(session.ask(), {"accuracy": 0.25 * (1 + session.ask().number)})
            session.fail(session.ask(), "too hot")
            session.ask()
            assert session.notes == []
    rows = Csv().read(tmp_path / "log" / "csv")
    found = {name.rpartition("/")[2]: each for name, each in rows.items()}
    states = {name: each.state for name, each in found.items()}
    assert states == {
        **{f"trial-{n}": "complete" for n in (0, 1, 3)},
        **{f"trial-{n}": "failed" for n in (2, 4)},
        "trial-5": "running",
    }
    assert len(found) == len(rows)
    assert found["trial-1"].values["accuracy"] == 0.5
    assert found["trial-0"].params
    assert {*found["trial-0"].params.values()} <= {*values.values()}
    assert found["trial-0"].values["params"] > 0


def test_a_logger_that_fails_is_noted_and_the_session_goes_on(tmp_path):
    asked(tmp_path, 1)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "csv").write_text("in its way")
    with kdsearch.Session(study(run={"device": "cpu", "log": ["csv"]}), tmp_path) as session:
        session.tell(session.ask(), {"accuracy": 0.5})
        assert "Logger 'csv' failed" in session.notes[0]
        assert len(session.trials) == 2


def test_a_file_is_a_study_too(tmp_path):
    file = write_study(tmp_path / "here")
    with kdsearch.Session(str(file), tmp_path / "study") as session:
        assert session.ask().number == 0
    with pytest.raises(StudyError, match="there is no such file"):
        kdsearch.run(tmp_path / "none.yaml", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_study_without_live_objects_is_scored_in_processes(tmp_path):
    """They open the folder, which holds the study and where its paths start."""
    sets = (*LESS, "search.proxy=[nwot, params]", "run.executor={use: processes}")
    declared = load_study(write_study(tmp_path / "here"), Host.load(), sets=sets)
    with kdsearch.Session(declared, tmp_path / "there" / "study") as session:
        candidate = session.ask()
        session.tell(candidate, {"accuracy": 0.5})
    assert candidate.number == 0
    assert json.loads((tmp_path / "there" / "study" / "origin.json").read_text()) == {"base": "../../here"}
    assert load_study(tmp_path / "there" / "study" / "study.yaml").config.name == "tiny"
