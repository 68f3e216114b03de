"""A storage for the trials that cannot be opened is said before any work."""

from __future__ import annotations

import re
import sqlite3
import sys
from pathlib import Path

import optuna
import pytest
import sqlalchemy.exc

import kdsearch
from kdsearch.errors import StorageError, StudyError, UserError
from kdsearch.host import Host
from kdsearch.kinds import Trial
from kdsearch.search import storage
from kdsearch.search.storage import as_ours, file_of, printable
from kdsearch.search.trials import Board, TrialLog
from kdsearch.study import load_study
from kdsearch.verbs.preflight import preflight
from kdsearch.verbs.run import run_study
from tests.python.tiny_live import tiny
from tests.stages.tiny import write_study


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("grpc://nowhere", "Expected grpc://HOST:PORT"),
        ("foo", "'foo' cannot be opened"),
        ("foo://bar", "cannot be opened (NoSuchModuleError"),
        ("sqlite://trials.db", "'sqlite://trials.db' cannot be opened (ArgumentError: Invalid SQLite URL"),
        ("sqlite:////no/such/dir/t.db", "there is no folder /no/such/dir. Expected a file in a folder that is there"),
        ("sqlite:///tiny.yam/t.db", "tiny.yaml'? Expected a file in a folder that is there"),
        ("sqlite:///tiny.yaml", "tiny.yaml is no SQLite database. Expected one, or a name that is not there yet"),
        ("sqlite:////dev/null", "/dev/null: run.storage: is a device. Expected an SQLite database"),
    ],
)
def test_what_is_no_url_is_known_to_validate(tmp_path: Path, url: str, said: str) -> None:
    host = Host.load()
    file = write_study(tmp_path)
    with pytest.raises(StudyError, match=r"run\.storage") as caught:
        preflight(load_study(file, host, sets=(f"run.storage={url}",)), host)
    assert said in str(caught.value)
    preflight(load_study(file, host, sets=(f"run.storage=sqlite:///{tmp_path}/t.db",)), host)
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        (
            "postgresql+psycopg2://me:secret@here/db",
            'Write postgresql+psycopg://..., and run: pip install "kdsearch[postgresql]"',
        ),
        ("postgresql+psycopg://me:secret@here/db", 'Run: pip install "kdsearch[postgresql]"'),
    ],
)
def test_a_driver_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, fix: str) -> None:
    for each in ("psycopg", "psycopg2"):
        monkeypatch.setitem(sys.modules, each, None)
    host = Host.load()
    with pytest.raises(StudyError, match="which is not installed") as caught:
        preflight(load_study(write_study(tmp_path), host, sets=(f"run.storage={url}",)), host)
    assert str(caught.value).endswith(fix)
    assert f"'{url.replace('secret', '***')}' needs psycopg" in str(caught.value)
    assert "secret" not in str(caught.value), "nor where it says which --set it is of: a folder's events keep it"


@pytest.mark.parametrize("url", ["sqlite:////no/such/folder/t.db", "grpc://nowhere", "foo"])
def test_before_the_folder_exists(tmp_path: Path, url: str) -> None:
    host = Host.load()
    study = load_study(write_study(tmp_path), host, sets=(f"run.storage={url}",))
    with pytest.raises(StudyError, match=r"run\.storage") as caught:
        run_study(study, host, tmp_path / "study", progress=False)
    assert str(caught.value).startswith(f"--set run.storage={url}: run.storage: ")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    "refused",
    [
        "run.log=[csv, tensorboard]",  # before the folder exists
        "recipe.distillers=[{use: fitnet, options: {student_tap: 'stage[9]'}}]",  # by a step of the recipe
    ],
)
def test_a_study_that_is_refused_makes_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    host = Host.load()
    study = load_study(write_study(tmp_path), host, sets=("run.storage='sqlite:///trials.db'", refused))
    with pytest.raises(UserError):
        run_study(study, host, tmp_path / "study", progress=False)
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.yaml"]


def test_tables_are_made_before_a_teacher_is_trained(tmp_path: Path) -> None:
    """A database of another program stays as it is until then, and one that Optuna's other versions wrote is refused at once."""
    file = tmp_path / "trials.db"
    with sqlite3.connect(file) as database:
        database.execute("create table mine (x)")
    before = file.read_bytes()
    storage.check_storage(f"sqlite:///{file}")
    assert file.read_bytes() == before
    storage.begin_storage(f"sqlite:///{file}")
    with sqlite3.connect(file) as database:
        database.execute("update alembic_version set version_num = 'v99'")
    with pytest.raises(StudyError, match="cannot be opened"):
        storage.check_storage(f"sqlite:///{file}")


def test_before_a_session_opens(tmp_path: Path) -> None:
    with (
        pytest.raises(StudyError, match="'foo' cannot be opened"),
        kdsearch.Session(tiny(run={"storage": "foo"}), tmp_path / "study"),
    ):
        pass
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("postgresql+psycopg://bob:secret@host:1/db", "postgresql+psycopg://bob:***@host:1/db"),
        ("postgresql://bob:se@cret@host/db", "postgresql://bob:***@host/db"),
        ("postgresql://host/db?user=bob&password=secret&x=1", "postgresql://host/db?user=bob&password=***&x=1"),
        ("grpc://bob:secret@host:1", "grpc://bob:***@host:1"),
        ("sqlite:///a:b/trials.db", "sqlite:///a:b/trials.db"),
    ],
)
def test_no_password_is_printed(url: str, printed: str) -> None:
    assert printable(url) == printed
    with pytest.raises(StorageError) as caught, as_ours(url):
        raise ConnectionError("reset")
    assert str(caught.value) == f"{printed}: reset"


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite+pysqlite:////a/b.db?timeout=30", "/a/b.db"),
        ("sqlite://", None),
        ("postgresql://host/db", None),
    ],
)
def test_which_file_has_the_trials(url: str, file: str | None) -> None:
    assert file_of(url) == (file and Path(file))


@pytest.mark.parametrize(
    ("said", "n_fails", "opens"),
    [
        ("table studies already exists", storage.BEGINS - 1, True),
        ("UNIQUE constraint failed: version_info.version_info_id", 1, True),
        ("table studies already exists", storage.BEGINS, False),
        ("no such column: studies.name", 1, False),
    ],
)
def test_tables_that_another_study_makes_at_the_same_moment(said, n_fails, opens, tmp_path, monkeypatch):
    make, calls = optuna.storages.RDBStorage.__init__, []

    def racing(self, *args, **options):
        calls.append(args)
        if len(calls) <= n_fails:
            raise sqlalchemy.exc.OperationalError("CREATE TABLE", {}, sqlite3.OperationalError(said))
        make(self, *args, **options)

    monkeypatch.setattr(optuna.storages.RDBStorage, "__init__", racing)
    monkeypatch.setattr(storage, "BEGIN_S", 0.0)
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    if opens:
        storage.begin_storage(url)
        assert len(calls) == n_fails + 1
    else:
        with pytest.raises(StudyError, match="cannot be opened"):
            storage.begin_storage(url)
        assert len(calls) == min(n_fails, storage.BEGINS)


def test_a_database_that_is_full_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    TrialLog(url, "first", Board({"loss": "min"}, "s", {}))
    with sqlite3.connect(tmp_path / "trials.db") as database:
        (pages,) = database.execute("pragma page_count").fetchone()

    def limited(*args: object, **kwargs: object) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.execute(f"pragma max_page_count={pages}")
        return connection

    connect = sqlite3.connect

    def filled() -> None:
        log = TrialLog(url, "second", Board({"loss": "min"}, "s", {}))
        for number in range(100):
            log.put(Trial(number, {"x": "y" * 1000}, state="running"))

    monkeypatch.setattr(sqlite3.dbapi2, "connect", limited)
    with pytest.raises(StorageError, match=r"full\. Make room and run") as caught:
        filled()
    assert str(caught.value).startswith(f"{url}: ")


@pytest.mark.parametrize(
    ("kind", "said", "fix"),
    [
        ("OperationalError", 'could not extend file "base/5/16385": No space left on device', "Make room and run"),
        ("InternalError", "cannot execute UPDATE in a read-only transaction", "Let it be written and run"),
    ],
)
def test_a_server_that_answers_that_it_cannot_write_is_not_waited_for(kind: str, said: str, fix: str) -> None:
    """As psycopg has PostgreSQL's answers: an error of its own is an OperationalError, as a lost connection is."""
    error = getattr(sqlalchemy.exc, kind)("UPDATE", {}, Exception(f"{said}\nHINT: none"))

    def put() -> None:
        raise optuna.exceptions.StorageInternalError("An exception is raised during the commit.") from error

    def pause(seconds: float) -> None:
        pytest.fail("waited")

    with pytest.raises(StorageError, match=re.escape(f"://me:***@x/y: {said}. {fix}")):
        storage.patiently("postgresql+psycopg://me:geheim@x/y", put, pause)
