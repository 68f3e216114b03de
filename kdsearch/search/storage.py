"""Where trials are stored: opening an Optuna storage by path or URL, and what goes wrong with it as one of our errors."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from kdsearch.errors import (
    ArtifactError,
    KdsearchError,
    StorageError,
    StudyError,
    UnreachableError,
    without_password,
)
from kdsearch.store.inputs import lies, similar
from kdsearch.store.inputs import opened as opened_file

T = TypeVar("T")
WAIT_S = 10.0  # for a gRPC proxy to answer
PATIENCE_S = 120.0  # for a database that answered before
SQLITE_S = 60  # while another process writes
BEGINS, BEGIN_S = 8, 0.25  # tries, and between them, of two studies that make the tables of one new database at once
JOURNAL = "trials.journal"
SQLITE = b"SQLite format 3\0"  # what each such file begins with; an empty one is one, too


def place_of(url: str | None, base: Path, folder: Path) -> Path | str:
    """Where a study's trials are: the URL of `run.storage`, else the folder's journal.

    base: the study file's folder, where a relative path in the URL starts.
    """
    if url is None:
        return folder / JOURNAL
    if not url.startswith("sqlite"):
        return url
    from sqlalchemy import make_url

    with as_ours(url):
        told = make_url(url)
        name = told.database
        if not name or name == ":memory:" or name.startswith("file:") or Path(name).is_absolute():
            return url
        return told.set(database=str((base / name).absolute())).render_as_string(hide_password=False)


def check_url(url: str, base: Path) -> None:
    """Raise StudyError for what is no URL of a storage, for one whose driver is not installed, and for a file that cannot be an
    SQLite database. Nothing is opened.

    base: see `place_of`.
    """
    if url.startswith("grpc:"):
        _host_and_port(url)
        return
    from sqlalchemy import create_engine

    place = str(place_of(url, base, base))
    with as_ours(url):
        create_engine(place).dispose()
    if (file := file_of(place)) is not None:
        _check_file(url, file)


def _check_file(url: str, file: Path) -> None:
    if not file.parent.is_dir():
        problem = f"'{url}' cannot be opened: there is no folder {file.parent}"
        near = str(file.parent.with_name(name)) if (name := similar(file.parent)) else ""
        raise StudyError(problem, path="run.storage", nearest=near, expected="a file in a folder that is there")
    if not lies(file, error=StudyError):
        return
    try:
        with opened_file(file, "an SQLite database", error=StudyError) as stream:
            head = stream.read(len(SQLITE))
    except StudyError as error:
        raise error.at(path="run.storage") from None
    if head and head != SQLITE:
        problem = f"'{url}' cannot be opened: {file} is no SQLite database"
        raise StudyError(problem, path="run.storage", expected="one, or a name that is not there yet")


def check_storage(url: str) -> None:
    """Raise StudyError for one that does not answer, or that this version of Optuna does not read. Nothing is made."""
    if url.startswith("grpc:") or _is_begun(url):
        begin_storage(url)


def _is_begun(url: str) -> bool:
    """Whether a database has Optuna's tables."""
    if (file := file_of(url)) is not None and not file.exists():
        return False
    from sqlalchemy import create_engine, inspect

    with as_ours(url):
        engine = create_engine(url)
        try:
            with engine.connect() as connection:
                return inspect(connection).has_table("version_info")
        finally:
            engine.dispose()


def begin_storage(url: str) -> None:
    """Make its tables where it has none. Raise StudyError for one that cannot be opened."""
    with as_ours(url):
        let_go(opened(url))


@contextmanager
def as_ours(storage: Path | str) -> Iterator[None]:
    """Optuna quiet, and what goes wrong with its storage as one of our errors."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    except KdsearchError:
        raise
    except OSError as error:
        raise StorageError(str(error), file=printable(storage)) from error
    except Exception as error:
        said = f"({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        if isinstance(storage, Path):
            fix = "Delete the file; `run` tries again."
            raise ArtifactError(f"not a journal of trials {said}", file=storage, fix=fix) from error
        name = without_password(storage)
        if isinstance(error, ImportError):
            raise _no_driver(name, error) from error
        expected = "the URL of an Optuna storage, such as sqlite:///trials.db"
        raise StudyError(f"'{name}' cannot be opened {said}", path="run.storage", expected=expected) from error
    finally:
        optuna.logging.set_verbosity(level)


def printable(storage: Path | str) -> Path | str:
    """As it may be printed and written."""
    return storage if isinstance(storage, Path) else without_password(storage)


def file_of(storage: Path | str) -> Path | None:
    """The file that has the trials; None for what is no file's."""
    if isinstance(storage, Path):
        return storage
    if not storage.startswith("sqlite"):
        return None
    from sqlalchemy import make_url

    name = make_url(storage).database
    return None if not name or name == ":memory:" or name.startswith("file:") else Path(name)


def _no_driver(name: str, error: ImportError) -> StudyError:
    module = error.name or "its driver"
    fix = {
        "psycopg": 'Run: pip install "kdsearch[postgresql]"',
        "psycopg2": 'Write postgresql+psycopg://..., and run: pip install "kdsearch[postgresql]"',
    }.get(module, f"Install {module}.")
    return StudyError(f"'{name}' needs {module}, which is not installed", path="run.storage", fix=fix)


def patiently(storage: Path | str, call: Callable[[], T], pause: Callable[[float], None] = time.sleep) -> T:
    """What the call returns, which is made again where the database does not answer, for `PATIENCE_S`.

    Args:
        pause: called with the seconds between two calls; what it raises ends the waiting.

    Raises:
        UnreachableError: it did not answer in that time.
    """
    began, seconds = time.monotonic(), 0.1
    while True:
        try:
            return call()
        except Exception as error:
            if isinstance(storage, Path):
                raise
            if (said := _refused(error)) is not None:
                first = "Let it be written" if re.search("read-?only", said, re.IGNORECASE) else "Make room"
                fix = f"{first} and run the same command again: it goes on."
                raise StorageError(said, file=printable(storage), fix=fix) from error
            if not _is_gone(error):
                raise
            if time.monotonic() - began >= PATIENCE_S:
                raise UnreachableError(
                    f"'{without_password(storage)}' has not answered for {PATIENCE_S:.0f} s",
                    path="run.storage",
                    fix="Once it does, run the same command again: it goes on with what is there.",
                ) from error
        pause(seconds)
        seconds = min(2 * seconds, 5.0)


def _is_gone(error: BaseException | None) -> bool:
    """Whether a connection was refused, lost or timed out, or a file is locked, somewhere among the causes."""
    sql, grpc = sys.modules.get("sqlalchemy.exc"), sys.modules.get("grpc")
    while error is not None:
        if sql is not None and isinstance(error, sql.OperationalError | sql.InterfaceError):
            return not isinstance(error.orig, sqlite3.Error) or "locked" in str(error.orig)
        if grpc is not None and isinstance(error, grpc.RpcError):
            code: Any = getattr(error, "code", lambda: None)()
            return code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        error = error.__cause__
    return False


def _refused(error: BaseException | None) -> str | None:
    """What a database said that had no room to write, or must not; None for any other trouble."""
    sql = sys.modules.get("sqlalchemy.exc")
    while error is not None:
        if sql is not None and isinstance(error, sql.DBAPIError):
            said = str(error.orig).partition("\n")[0]
            return said if re.search(r"\bfull\b|no space|read-?only", said, re.IGNORECASE) else None
        error = error.__cause__
    return None


def _host_and_port(url: str) -> tuple[str, int]:
    found = re.fullmatch(r"grpc://([^/:\s]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", url)
    if found is None:
        raise StudyError(f"got '{without_password(url)}'", path="run.storage", expected="grpc://HOST:PORT")
    return found[1], int(found[2])


def opened(url: str) -> BaseStorage:
    """Raise whatever Optuna and the driver raise: call it within `as_ours`."""
    if not url.startswith("grpc:"):
        connect = {"timeout": SQLITE_S} if url.startswith("sqlite") else {}
        engine = {"pool_pre_ping": True, "connect_args": connect}  # connections of before a restart are replaced
        return optuna.storages.get_storage(_begun(url, engine))
    host, port = _host_and_port(url)
    try:
        proxy = optuna.storages.GrpcStorageProxy(host=host, port=port)
        proxy.wait_server_ready(timeout=WAIT_S)
    except ImportError as error:
        raise StudyError(
            "grpcio is not installed", path="run.storage", fix="Run: pip install 'kdsearch[grpc]'"
        ) from error
    except ConnectionError as error:
        raise StudyError(
            f"'{url}' does not answer",
            path="run.storage",
            expected="a server that `optuna.storages.run_grpc_proxy_server` started",
        ) from error
    return proxy


def _begun(url: str, engine: dict[str, Any]) -> BaseStorage:
    """With its tables, which Optuna makes where they lack, whoever else makes them at this moment."""
    import sqlalchemy.exc

    for _ in range(BEGINS - 1):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=engine)
        except sqlalchemy.exc.DBAPIError as error:
            if not re.search(r"already exists|duplicate key|unique constraint", str(error.orig), re.IGNORECASE):
                raise
        time.sleep(BEGIN_S)
    return optuna.storages.RDBStorage(url, engine_kwargs=engine)


def let_go(storage: BaseStorage) -> None:
    """Close the connections to a database that are open at rest; whatever is asked next opens one again."""
    engine = getattr(getattr(storage, "_backend", storage), "engine", None)
    if engine is not None:
        storage.remove_session()
        engine.dispose()


def to_read(place: Path | str) -> BaseStorage:
    """A storage for reading alone: nothing is made, cut or migrated. Call it within `as_ours`."""
    if isinstance(place, Path):
        return JournalStorage(JournalFileBackend(str(place), lock_obj=_Lock(place)))  # type: ignore[arg-type]
    if place.startswith("grpc:"):
        return opened(place)
    storage = optuna.storages.RDBStorage(
        place,
        engine_kwargs={"pool_pre_ping": True},
        skip_compatibility_check=True,
        skip_table_creation=True,
    )
    return optuna.storages.get_storage(storage)


def journal(path: Path) -> JournalStorage:
    """The journal to write to. A torn last line, of a run that was killed, is cut off."""
    lock = _Lock(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock.held:
        _cut_torn_line(path)
        backend = JournalFileBackend(str(path), lock_obj=lock)  # type: ignore[arg-type]  # the same two methods
        return JournalStorage(backend)


def _cut_torn_line(path: Path) -> None:
    """Drop what follows the last newline: Optuna would glue the next line to it."""
    if not path.exists():
        return
    raw = path.read_bytes()
    whole = raw.rfind(b"\n") + 1
    if whole < len(raw):
        os.truncate(path, whole)


class _Lock:
    """A lock that ends with its holder; Optuna's own would stay for 30 s after a SIGKILL."""

    def __init__(self, path: Path) -> None:
        self.held = FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        self.held.acquire()
        return True

    def release(self) -> None:
        self.held.release()
