"""Trials in the journal: what goes in comes out, once, after any kill."""

import json
import math
import os
import socket
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from kdsearch.errors import ArtifactError, BusyError, StudyError, UnreachableError
from kdsearch.kinds import Dim, Range, Trial
from kdsearch.search.storage import place_of
from kdsearch.search.trials import ATTRIBUTE, Board, TrialLog, sealed
from kdsearch.store.artifacts import SEAL

DIMS = (
    Dim("a", Range(choices=(1, 2, 3))),
    Dim("b", Range(low=0.1, high=1.0, log=True)),
    Dim("c", Range(choices=(None, (1, 2)))),
)
ONE = Board({"loss": "min"}, dims={dim.path: dim for dim in DIMS}, constraints=("params", "macs"))
TWO = Board({"accuracy": "max", "params": "min"})
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
    log = TrialLog(tmp_path / "t.journal", "k", ONE)
    for i in (2, 0, 1):
        assert log.put(GIVEN[i])
    assert log.read() == TrialLog(tmp_path / "t.journal", "k", ONE).read() == GIVEN


def test_what_ended_never_changes(tmp_path: Path) -> None:
    log = TrialLog(tmp_path / "t.journal", "k", ONE)
    assert log.put(GIVEN[0])
    assert not log.put(GIVEN[0])
    assert not log.put(Trial(0, {}, losses=(9.0,)))
    assert log.read() == [GIVEN[0]]


def test_a_trial_is_followed_from_its_beginning(tmp_path: Path) -> None:
    path, end = tmp_path / "t.journal", GIVEN[0]
    begun = Trial(0, end.values, end.spec, "running")
    states = [begun, replace(begun, state="paused", curve=end.curve[:1]), replace(begun, curve=end.curve[:1]), end]
    log = TrialLog(path, "k", ONE)
    for each in states:
        assert log.put(each)
        assert not log.put(each)
        assert TrialLog(path, "k", ONE).read() == [each]
        (shown,) = optuna_trials(path)
        assert shown.state.is_finished() == each.is_over
        assert len(shown.intermediate_values) == len(each.curve)
    assert shown.constraints == {"params": -0.5, "macs": 0.25}
    assert shown.datetime_start < shown.datetime_complete


def test_a_kill_between_a_trials_end_and_its_state_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "t.journal"
    log = TrialLog(path, "k", ONE)
    log.put(replace(GIVEN[0], state="running", losses=(), violations=()))
    log.put(GIVEN[0])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert not optuna_trials(path)[0].state.is_finished()
    log = TrialLog(path, "k", ONE)
    assert log.read() == [GIVEN[0]]
    with log.held():
        assert optuna_trials(path)[0].value == 1.5


def test_who_only_opens_the_trials_ends_none_for_the_one_that_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run of the study opens them between a trial's end and its state, in a database that both name."""
    url = f"sqlite:///{tmp_path / 't.db'}"
    log = TrialLog(url, "k", ONE)
    real, others = log._storage.set_trial_state_values, []

    def late(*arguments: object, **named: object) -> object:
        others.append(TrialLog(url, "k", ONE).read())
        return real(*arguments, **named)

    with log.held():
        log.put(replace(GIVEN[0], state="running", losses=(), violations=()))
        monkeypatch.setattr(log._storage, "set_trial_state_values", late)
        assert log.put(GIVEN[0])
    assert others == [[GIVEN[0]]]
    assert TrialLog(url, "k", ONE).read() == [GIVEN[0]]


def optuna_trials(path: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="k", storage=JournalStorage(JournalFileBackend(str(path)))).trials


def test_a_put_costs_the_same_after_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of the journal that are read, and JSON texts that are parsed, by a put: no more after 150 trials than after 10."""
    log = TrialLog(tmp_path / "t.journal", "k", ONE)
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


def test_trials_share_their_ranges_in_memory(tmp_path: Path) -> None:
    """The journal makes an object a parameter and trial, which would be half of what thousands of trials hold. True is not 1."""
    one, other = (
        Board({"loss": "min"}, dims={"a": DIMS[0], "c": Dim("c", Range(choices=choices))})
        for choices in ((1, 2), (True, 2))
    )
    log = TrialLog(tmp_path / "t.journal", "k", one)
    for number in range(4):
        log.board = other if number == 3 else one
        trial = Trial(number, {"a": 1, "c": log.board.dims["c"].range.choices[0]}, None, "running")
        log.put(trial)
        log.put(replace(trial, state="complete", losses=(1.0,), curve=((1.0, (1.0,)),)))
    first, second, _, last = log._storage.get_all_trials(log._study_id, deepcopy=False)
    assert all(first.distributions[name] is second.distributions[name] for name in ("a", "c"))
    assert all(one is two for one, two in zip(first.params, second.params, strict=True)), "names, too"
    assert first.distributions["a"] is last.distributions["a"]
    assert (first.params["c"], last.params["c"]) == (1, True)
    assert [type(each.params["c"]) for each in (first, last)] == [int, bool]
    assert last.distributions["c"].choices[0] is True
    assert optuna_trials(tmp_path / "t.journal") == log._storage.get_all_trials(log._study_id)


def test_any_storage_of_optuna_will_do(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    log = TrialLog(url, "k", ONE)
    for each in GIVEN:
        log.put(Trial(each.number, each.values, each.spec, "running"))
        log.put(each)
    assert TrialLog(url, "k", ONE).read() == GIVEN
    with pytest.raises(StudyError, match=r"run.storage: 'sqlite:.*' cannot be opened .*Expected the URL"):
        TrialLog("sqlite:////no/such/folder/trials.db", "k", ONE)
    with pytest.raises(StudyError, match=r"'nothing://me:\*\*\*@here' cannot be opened") as caught:
        TrialLog("nothing://me:secret@here", "k", ONE)
    assert "secret" not in str(caught.value)


def test_one_process_writes_a_key_of_a_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    one, two, other = (TrialLog(url, key, ONE) for key in ("k", "k", "l"))
    said = rf"run.storage: the trials of 'k' .* written by pid {os.getpid()} on "
    with one.held():
        one.put(GIVEN[1])
        with pytest.raises(BusyError, match=said), two.held():
            pytest.fail("both write")
        with other.held():
            other.put(GIVEN[2])
    with two.held():
        assert two.read() == [GIVEN[1]]


@pytest.mark.parametrize("last", [False, True])
def test_a_database_that_is_locked_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: bool) -> None:
    """Another connection has it for two attempts, or for longer than anybody waits."""
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    monkeypatch.setattr("kdsearch.search.storage.SQLITE_S", 0)
    monkeypatch.setattr("kdsearch.search.storage.PATIENCE_S", 0.0 if last else 60.0)
    waited: list[float] = []
    with closing(sqlite3.connect(tmp_path / "trials.db", isolation_level=None)) as theirs:

        def pause(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 2:
                theirs.execute("ROLLBACK")

        log = TrialLog(url, "k", ONE, pause)
        with log.held():
            log.put(replace(GIVEN[0], state="running", losses=(), violations=(), curve=()))
            theirs.execute("BEGIN EXCLUSIVE")
            if last:
                with pytest.raises(UnreachableError, match=r"run\.storage: .*trials\.db' has not answered"):
                    log.put(GIVEN[0])
                theirs.execute("ROLLBACK")
            log.put(GIVEN[0])
    assert waited == ([] if last else [0.1, 0.2])
    assert TrialLog(url, "k", ONE).read() == [GIVEN[0]]


def test_a_path_in_a_url_starts_from_the_studys_file(tmp_path: Path) -> None:
    base, folder = tmp_path / "studies", tmp_path / "studies" / "one"
    assert place_of(None, base, folder) == folder / "trials.journal"
    assert place_of("sqlite:///trials.db", base, folder) == f"sqlite:///{base / 'trials.db'}"
    for url in (f"sqlite:///{tmp_path}/trials.db", "sqlite:///:memory:", "postgresql://a:b@c/d", "grpc://here:1"):
        assert place_of(url, base, folder) == url


def test_keys_share_a_file_and_keep_apart(tmp_path: Path) -> None:
    one, two = TrialLog(tmp_path / "t.journal", "k", ONE), TrialLog(tmp_path / "t.journal", "l", TWO)
    one.put(Trial(0, {}, losses=(1.0,)))
    two.put(Trial(0, {}, losses=(1.0, 2.0)))
    assert [each.losses for each in one.read() + two.read()] == [(1.0,), (1.0, 2.0)]


def test_a_journal_cut_anywhere_keeps_its_whole_lines_and_goes_on(tmp_path: Path) -> None:
    whole = tmp_path / "t.journal"
    trials = TrialLog(whole, "k", ONE)
    for each in GIVEN:
        trials.put(each)
    raw = whole.read_bytes()
    for cut in [*range(0, len(raw), 97), len(raw) - 1]:
        path = tmp_path / f"{cut}.journal"
        path.write_bytes(raw[:cut])
        again = TrialLog(path, "k", ONE)
        had = again.read()
        assert had == GIVEN[: len(had)]
        for each in GIVEN:
            again.put(each)
        assert TrialLog(path, "k", ONE).read() == GIVEN


def test_optuna_reads_it_as_any_study(tmp_path: Path) -> None:
    trials = TrialLog(tmp_path / "t.journal", "k", ONE)
    for each in GIVEN:
        trials.put(each)
    study = optuna.load_study(study_name="k", storage=JournalStorage(JournalFileBackend(str(tmp_path / "t.journal"))))
    assert [each.state.name for each in study.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    first = study.trials[0]
    assert (first.value, first.params["b"], first.params["c"]) == (1.5, 0.3, "[1,2]")
    assert first.intermediate_values == {300: 2.0, 600: 1.75}
    assert study.trials[2].user_attrs["error"] == "NaN in kd"


DIALS = (
    Dim("recipe.train.optimizer", Range(choices=("sgd", "adam"))),
    Dim("recipe.train.batch_size", Range(choices=(64, 128, 256))),
    Dim("recipe.train.nesterov", Range(choices=(True, 1))),
    Dim("recipe.train.lr", Range(low=0.1, high=1.0, log=True)),
)


def test_a_dashboard_shows_names_values_and_objectives_that_a_person_reads(tmp_path: Path) -> None:
    """Objectives by name in their own direction, choices as they are (no positions, no quoted texts), no number that is none."""
    board = Board(
        {"accuracy": "max", "params": "min"},
        "tiles",
        {dim.path.removeprefix("recipe.train."): dim for dim in DIALS},
        ("macs",),
        lambda trial: {"architecture": f"widths {trial.number + 4}-8"},
    )
    log = TrialLog(tmp_path / "t.journal", "refine 0a1b2c", board)
    chosen = {"optimizer": "adam", "batch_size": 128, "nesterov": True, "lr": 7.0}
    values = {f"recipe.train.{name}": value for name, value in chosen.items()} | {"student.architecture": "{}"}
    for number, end in enumerate(
        (
            {"state": "complete", "losses": (-0.75, 1200.0), "violations": (math.nan,)},
            {"state": "failed", "error": "objective is [nan, 1200.0]", "curve": ((0.5, (math.nan, 1200.0)),)},
            {"state": "pruned", "curve": ((0.5, (-0.5, 900.0)),)},
            {"state": "paused", "curve": ((0.5, (-0.5, 900.0)),)},
        )
    ):
        begun = Trial(number, values, state="running")
        log.put(begun)
        log.put(replace(begun, **end))
    journal = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "t.journal")))
    (name,) = optuna.get_all_study_names(journal)
    shown = optuna.load_study(study_name=name, storage=journal)
    assert name == "tiles refine 0a1b2c"
    assert shown.metric_names == ["accuracy", "params"]
    assert [each.name for each in shown.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert [each.state.name for each in shown.trials] == ["COMPLETE", "FAIL", "PRUNED", "RUNNING"]
    assert [each.values for each in shown.trials] == [[0.75, 1200.0], None, None, None]
    assert shown.trials[0].params == {"optimizer": "adam", "batch_size": 128, "nesterov": "true"}
    assert all(each.user_attrs["architecture"] == f"widths {each.number + 4}-8" for each in shown.trials)
    assert set(shown.trials[1].user_attrs) == {"architecture", "error"}
    for each in shown.trials:
        assert (each.datetime_complete is None) == (each.state.name == "RUNNING")
        assert each.datetime_complete is None or each.datetime_start < each.datetime_complete
    assert shown.trials[0].constraints["macs"] > 0
    assert "nan" not in shown.trials_dataframe().drop(columns=["values_accuracy", "values_params"]).loc[0].astype(str)
    for line in (tmp_path / "t.journal").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_curves_are_in_the_objectives_own_direction(tmp_path: Path) -> None:
    log = TrialLog(tmp_path / "t.journal", "k", Board({"accuracy": "max"}))
    begun = Trial(0, {}, state="running")
    log.put(begun)
    log.put(replace(begun, curve=((0.25, (-0.5,)), (0.5, (math.nan,)))))
    assert optuna_trials(tmp_path / "t.journal")[0].intermediate_values == {250: 0.5}


def test_trials_are_found_under_another_title(tmp_path: Path) -> None:
    path = tmp_path / "t.journal"
    for storage in (path, f"sqlite:///{tmp_path / 'trials.db'}"):
        log = TrialLog(storage, "refine 0a1b", replace(ONE, title="before"))
        log.put(GIVEN[0])
        assert TrialLog(storage, "refine 0a1b", replace(ONE, title="after")).read() == [GIVEN[0]]
        assert TrialLog(storage, "refine 0a1b-1", replace(ONE, title="after")).read() == []
        assert TrialLog(storage, "1b", replace(ONE, title="after")).read() == []
    names = optuna.get_all_study_names(JournalStorage(JournalFileBackend(str(path))))
    assert names == ["before refine 0a1b", "after refine 0a1b-1", "after 1b"]


def test_a_grpc_proxy_serves_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grpc")
    from optuna.storages._grpc.server import make_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr("kdsearch.search.storage.WAIT_S", 0.2)
    with pytest.raises(StudyError, match=r"run.storage: 'grpc:.*' does not answer"):
        TrialLog(f"grpc://127.0.0.1:{port}", "k", ONE)
    monkeypatch.setattr("kdsearch.search.storage.WAIT_S", 30.0)
    behind = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'trials.db'}")
    server = make_server(behind, "127.0.0.1", port)
    server.start()
    try:
        log = TrialLog(f"grpc://127.0.0.1:{port}", "k", ONE)
        for each in GIVEN:
            log.put(Trial(each.number, each.values, each.spec, "running"))
            log.put(each)
        assert TrialLog(f"grpc://127.0.0.1:{port}", "k", ONE).read() == GIVEN
    finally:
        server.stop(None).wait()
    assert [each.state.name for each in optuna.load_study(study_name="k", storage=behind).trials] == [
        "COMPLETE",
        "PRUNED",
        "FAIL",
    ]


@pytest.mark.parametrize("url", ["grpc://", "grpc://host", "grpc://host:port", "grpc://host:1/x", "grpc:13000"])
def test_a_proxys_address_has_a_host_and_a_port(url: str) -> None:
    with pytest.raises(StudyError, match=r"run.storage: got 'grpc:.*Expected grpc://HOST:PORT"):
        TrialLog(url, "k", ONE)


def test_a_proxy_without_grpcio_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**place: object) -> None:
        raise ImportError("Tried to import 'grpc' but failed.")

    monkeypatch.setattr(optuna.storages, "GrpcStorageProxy", missing)
    with pytest.raises(StudyError, match=r"grpcio is not installed.*pip install 'kdsearch\[grpc\]'"):
        TrialLog("grpc://localhost:13000", "k", ONE)


def test_a_complete_trial_needs_its_losses(tmp_path: Path) -> None:
    trials = TrialLog(tmp_path / "t.journal", "k", TWO)
    for losses in ((), (1.0,), (1.0, math.nan)):
        with pytest.raises(ValueError, match="expected 2 numbers"):
            trials.put(Trial(0, {}, losses=losses))
    assert trials.read() == []


def test_a_foreign_file_or_another_count_of_objectives_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.journal"
    path.write_text("this is no journal\n")
    with pytest.raises(ArtifactError, match="not a journal"):
        TrialLog(path, "k", ONE)
    TrialLog(tmp_path / "u.journal", "k", ONE)
    with pytest.raises(ArtifactError, match=r"1 objectives.*Expected 2"):
        TrialLog(tmp_path / "u.journal", "k", TWO)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", "one"),
        ("losses", ["low"]),
        ("losses", None),
        ("losses", [math.nan]),
        ("state", "won"),
        ("curve", [[0.3]]),
        ("over", ["trial_timeout_s", "soon"]),
        ("values", []),
        ("", ""),
    ],
)
def test_a_trial_changed_by_hand_is_one_message(name: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "t.journal"
    TrialLog(path, "k", ONE).put(GIVEN[0])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        for attributes in [each for each in line.values() if isinstance(each, dict) and ATTRIBUTE in each]:
            whole = {key: each for key, each in json.loads(attributes[ATTRIBUTE]).items() if key != SEAL}
            attributes[ATTRIBUTE] = sealed({**whole, name: value}) if name else "no JSON"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(ArtifactError, match=r"t.journal: .*Delete the file") as caught:
        TrialLog(path, "k", ONE)
    assert caught.value.exit_code == 2
    assert "has changed since" not in str(caught.value), "what is no trial is said even where its digest is right"


@pytest.mark.parametrize("old", ["losses", "values", "number", "state"])
def test_a_valid_trial_that_was_changed_by_hand_is_not_believed(old: str, tmp_path: Path) -> None:
    path = tmp_path / "t.journal"
    log = TrialLog(path, "k", ONE)
    for trial in GIVEN:
        log.put(trial)
    other = {"losses": [0.125], "values": {"x": 9}, "number": 77, "state": "running"}[old]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    given = [each for line in lines for each in line.values() if isinstance(each, dict) and ATTRIBUTE in each]
    whole = json.loads(given[-1][ATTRIBUTE])
    given[-1][ATTRIBUTE] = json.dumps({**whole, old: other})
    assert whole[old] != other
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    message = rf"t.journal: trial {GIVEN[-1].number} has changed since it was written. Expected .*Delete the file"
    with pytest.raises(ArtifactError, match=message):
        TrialLog(path, "k", ONE)
