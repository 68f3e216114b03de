"""Trials in PostgreSQL: as in the journal, through kills and restarts of the server, and written by one controller at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy.pool import NullPool

from kdsearch.errors import BusyError, StudyError, UnreachableError
from kdsearch.host import Host
from kdsearch.kinds import Trial
from kdsearch.search import storage
from kdsearch.search.trials import Board, TrialLog
from kdsearch.store.folder import last_run
from tests.extras.postgresql.conftest import Server
from tests.stages.tiny import LESS, events, run_tiny, settled, watching

BOARD = Board({"accuracy": "max", "params": "min"})
BEGUN = Trial(0, {}, state="running")
HALF = replace(BEGUN, state="paused", curve=((0.5, (-0.5, 9.0)),))
DONE = replace(BEGUN, state="complete", losses=(-0.75, 9.0), curve=((0.5, (-0.5, 9.0)), (1.0, (-0.75, 9.0))))
STUDY = (*LESS, "refine.trials=4", "refine.epochs=2")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def by_journal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the study comes to with its trials in a journal, and these trials as Optuna has them."""
    folder = tmp_path_factory.mktemp("journal")
    result = run_tiny(folder, *STUDY)
    return {"result": settled(result), "trials": shown(str(folder / "study" / "trials.journal"))}


def shown(place: str) -> list[tuple[Any, ...]]:
    """The trials of the one study in a storage, all but times and ids, as Optuna reads them."""
    if place.endswith(".journal"):
        backend = optuna.storages.journal.JournalFileBackend(place)
        held: Any = optuna.storages.JournalStorage(backend)
    else:
        held = optuna.storages.RDBStorage(place, engine_kwargs={"poolclass": NullPool})
    (name,) = optuna.get_all_study_names(held)
    facts = ("number", "state", "values", "params", "user_attrs", "intermediate_values", "constraints")
    return [
        tuple(getattr(trial, each) for each in facts)
        for trial in optuna.load_study(study_name=name, storage=held).trials
    ]


def of_postgresql(database: Server) -> str:
    return f"run.storage={database.url}"


def test_a_study_is_the_same_after_a_kill(database: Server, tmp_path: Path, by_journal: dict[str, Any]) -> None:
    """SIGKILL amid `refine`; the same command goes on, and comes to what the journal comes to."""
    sets = [word for each in (*STUDY, of_postgresql(database)) for word in ("--set", each)]
    command = [sys.executable, "-m", "tests.stages.driver", str(tmp_path), *sets]
    killed = subprocess.run([*command, "--kill", "refine:20"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "refine" not in last_run(tmp_path / "study")
    under_way = shown(database.url)
    assert len(under_way) > 0
    assert under_way[-1][1] == optuna.trial.TrialState.RUNNING
    result = run_tiny(tmp_path, *STUDY, of_postgresql(database))
    assert settled(result) == by_journal["result"]
    assert shown(database.url) == by_journal["trials"]
    assert not (tmp_path / "study" / "trials.journal").exists()


def trial_of(event: Mapping[str, Any], number: int) -> bool:
    return event["event"] == "trial" and event["number"] == number


def test_a_study_outlasts_a_restart_of_the_server(
    database: Server, tmp_path: Path, by_journal: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes when trial 1 has ended, and comes back when it has been waited for three times."""
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            database.start()

    def seen(event: Mapping[str, Any]) -> None:
        if trial_of(event, 1):
            database.stop()

    monkeypatch.setattr("kdsearch.stages.refine.sleep", pause)
    result = run_tiny(tmp_path, *STUDY, of_postgresql(database), host=watching(seen))
    assert waited[:3] == [0.1, 0.2, 0.4]
    assert settled(result) == by_journal["result"]
    assert shown(database.url) == by_journal["trials"]


def test_a_server_that_stays_away_is_one_message_and_the_study_goes_on_later(
    database: Server, tmp_path: Path, by_journal: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PATIENCE_S", 0.0)
    seen = watching(lambda event: database.stop() if trial_of(event, 1) else None)
    with pytest.raises(UnreachableError, match=r"run\.storage: 'postgresql.*has not answered for 0 s") as caught:
        run_tiny(tmp_path, *STUDY, of_postgresql(database), host=seen)
    assert caught.value.exit_code == 1
    (stopped,) = [each for each in events(tmp_path, "stage") if each["state"] == "stopped"]
    assert stopped["stage"] == "refine"
    assert str(caught.value) == stopped["error"]
    assert stopped["error"].startswith(f"--set {of_postgresql(database)}: ")
    assert not [each for each in (tmp_path / "study" / "artifacts").iterdir() if each.name.startswith("refine")]
    with pytest.raises(StudyError, match=r"run\.storage: .* cannot be opened"):  # known before any work
        run_tiny(tmp_path, *STUDY, of_postgresql(database))
    database.start()
    assert settled(run_tiny(tmp_path, *STUDY, of_postgresql(database))) == by_journal["result"]
    assert shown(database.url) == by_journal["trials"]


def test_a_second_controller_is_refused_by_name(database: Server, tmp_path: Path) -> None:
    """In another folder, so that nothing but the database tells of the first."""
    first = TrialLog(database.url, "refine 0a1b", BOARD)
    with first.held():
        first.put(BEGUN)
        second = TrialLog(database.url, "refine 0a1b", BOARD)
        said = rf"'refine 0a1b' .* being written by pid {os.getpid()} on "
        with pytest.raises(BusyError, match=said) as caught, second.held():
            pytest.fail("both write")
        assert caught.value.exit_code == 1
        other = TrialLog(database.url, "refine ffff", BOARD)
        with other.held():
            other.put(BEGUN)
        first.put(DONE)
    with second.held():  # it reads what came since
        assert second.read() == [DONE]


def test_a_whole_second_study_is_refused(database: Server, tmp_path: Path) -> None:
    """The one that runs is at its second trial when the same study begins in another folder."""
    said: list[str] = []

    def seen(event: Mapping[str, Any]) -> None:
        if trial_of(event, 1) and not said:
            with pytest.raises(BusyError) as caught:
                run_tiny(tmp_path / "b", *STUDY, of_postgresql(database), host=Host.load())
            said.append(str(caught.value))

    run_tiny(tmp_path / "a", *STUDY, of_postgresql(database), host=watching(seen))
    assert f"being written by pid {os.getpid()} on " in said[0]
    assert run_tiny(tmp_path / "b", *STUDY, of_postgresql(database))["student"]


def test_the_claim_is_taken_again_after_a_restart_or_lost_to_another(database: Server) -> None:
    log = TrialLog(database.url, "k", BOARD, pause=lambda seconds: None)
    other = TrialLog(database.url, "k", BOARD)
    with log.held():
        log.put(BEGUN)
        database.stop()
        database.start()
        log.put(HALF)
        with pytest.raises(BusyError), other.held():
            pytest.fail("both write")
        database.stop()
        database.start()
        with other.held(), pytest.raises(BusyError):
            log.put(DONE)
    assert TrialLog(database.url, "k", BOARD).read() == [HALF]


@pytest.mark.parametrize("lost", ["create_new_trial", "set_trial_state_values"])
def test_an_answer_that_is_lost_stores_nothing_twice(
    database: Server, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The server did what it was asked, and the connection broke before it said so."""
    from sqlalchemy.exc import OperationalError

    log = TrialLog(database.url, "k", BOARD, pause=lambda seconds: None)
    done: Callable[..., Any] = getattr(log._storage, lost)
    failures: list[str] = []

    def broken(*arguments: Any) -> Any:
        answer = done(*arguments)
        if not failures:
            failures.append(lost)
            raise OperationalError("", {}, Exception("server closed the connection unexpectedly"))
        return answer

    monkeypatch.setattr(log._storage, lost, broken)
    with log.held():
        log.put(BEGUN)
        log.put(HALF)
        log.put(DONE)
    assert failures
    assert TrialLog(database.url, "k", BOARD).read() == log.read() == [DONE]
    ((number, state, values, *_),) = shown(database.url)
    assert (number, state.name, values) == (0, "COMPLETE", [0.75, 9.0])


def test_a_password_is_in_no_message(database: Server) -> None:
    url = database.url.replace(f"{database.user}@", "nobody:geheim@").replace("/postgres", "/no_such_database")
    with pytest.raises(StudyError) as caught:
        storage.check_storage(url)
    assert "nobody:***@" in str(caught.value)
    assert "geheim" not in str(caught.value)
