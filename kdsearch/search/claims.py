"""One controller at a time writes a key's trials, also where studies in several folders share a database."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdsearch.errors import BusyError, without_password
from kdsearch.store.folder import now
from kdsearch.store.hashing import digest

HOLDER = "kdsearch:holder"  # system attribute of the Optuna study: who has it
GLANCE_S = 3  # for a database to notice that a killed process is gone


def me() -> dict[str, Any]:
    """What a holder writes of itself."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": now()}


def busy(place: str, key: str, holder: Mapping[str, Any] | None) -> BusyError:
    who = f"by pid {holder['pid']} on {holder['host']} since {holder['since']}" if holder else "by another process"
    return BusyError(
        f"the trials of '{key}' in '{without_password(place)}' are being written {who}",
        path="run.storage",
        fix="Wait for it, end it, or choose another storage.",
    )


class Taken(Exception):  # noqa: N818 - it is no error of anyone
    """Another process has the key."""


@contextmanager
def claimed(place: Path | str, key: str) -> Iterator[Callable[[], None]]:
    """Have the key of a database for this process: the claim ends with it, however that ends.

    Gives a check for the moment before something is written, which takes the claim again where the connection that held it was
    lost. A journal is its folder's, which is held already. A proxy, and databases but PostgreSQL and SQLite, have no such claim.

    Raises:
        Taken: another process has it; so does the check.
    """
    if isinstance(place, str) and place.startswith("postgresql"):
        with _in_postgresql(place, key) as check:
            yield check
    elif isinstance(place, str) and place.startswith("sqlite"):
        with _beside_file(place, key):
            yield lambda: None
    else:
        yield lambda: None


@contextmanager
def _in_postgresql(url: str, key: str) -> Iterator[Callable[[], None]]:
    """An advisory lock of a session: the server lets go of it when the connection ends."""
    import sqlalchemy
    from sqlalchemy.exc import OperationalError
    from sqlalchemy.pool import NullPool

    engine = sqlalchemy.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    number = int(digest(["kdsearch", key])[:15], 16)
    connection: sqlalchemy.Connection | None = None

    def let_go() -> None:
        nonlocal connection
        if connection is not None:
            lost, connection = connection, None
            lost.invalidate()
            lost.close()

    def take() -> None:
        nonlocal connection
        connection = engine.connect()
        for name, value in {  # a holder whose machine went down is noticed in a minute
            "tcp_keepalives_idle": "30",
            "tcp_keepalives_interval": "10",
            "tcp_keepalives_count": "3",
            "lock_timeout": f"{GLANCE_S}s",
        }.items():
            connection.execute(sqlalchemy.text(f"SET {name} = '{value}'"))
        try:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:number)"), {"number": number})
        except OperationalError as error:
            if "55P03" in (
                getattr(error.orig, "sqlstate", ""),
                getattr(error.orig, "pgcode", ""),
            ):  # lock_not_available
                raise Taken from None
            raise

    def check() -> None:
        if connection is not None:
            try:
                connection.execute(sqlalchemy.text("SELECT 1"))
                return
            except OperationalError:
                let_go()
        try:
            take()
        except BaseException:
            let_go()
            raise

    try:
        check()
        yield check
    finally:
        let_go()
        engine.dispose()


@contextmanager
def _beside_file(url: str, key: str) -> Iterator[None]:
    """The operating system's lock of a file beside the database."""
    from filelock import FileLock, Timeout
    from sqlalchemy import make_url

    name = make_url(url).database
    if not name or name == ":memory:":
        yield
        return
    lock = FileLock(f"{name}.{digest(key)[:12]}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Taken from None
    try:
        yield
    finally:
        lock.release()
