"""A PostgreSQL server of the tests' own, on loopback, in a temporary folder; as the user `postgres` where root runs the tests."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

OWNER = "postgres"


class Server:
    """A cluster that can be stopped and started again under one address."""

    def __init__(self, bin: Path, folder: Path) -> None:
        self.bin, self.data = bin, folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.user = OWNER if os.geteuid() == 0 else getpass.getuser()
        self.folder = folder
        self._ran(self.bin / "initdb", "-D", self.data, "-A", "trust", "-U", self.user, "--no-sync")
        settings = f"-h 127.0.0.1 -p {self.port} -c unix_socket_directories= -c fsync=off"
        self._start = (self.bin / "pg_ctl", "-D", self.data, "-w", "-l", folder / "log", "-o", settings, "start")

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://{self.user}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        self._ran(*self._start)

    def stop(self) -> None:
        """At once: connections are cut as they are."""
        self._ran(self.bin / "pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")

    @property
    def is_up(self) -> bool:
        return (self.data / "postmaster.pid").exists()

    def empty(self) -> None:
        """Drop what the last test left."""
        self._ran(
            self.bin / "psql", "-X", "-q", "-h", "127.0.0.1", "-p", self.port, "-U", self.user, "-d", "postgres",
            "-c", "DROP SCHEMA public CASCADE", "-c", "CREATE SCHEMA public",
        )  # fmt: skip

    def _ran(self, *command: object) -> None:
        words = [str(each) for each in command]
        if os.geteuid() == 0:
            words = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups", *words]
        done = subprocess.run(words, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, f"{words}: {done.stdout}"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="the extra `postgresql` is not installed")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].name:
        pytest.skip("no PostgreSQL server on this machine: install the Debian package postgresql")
    folder = Path(tempfile.mkdtemp(prefix="kdsearch-postgresql-"))  # pytest's own folders are closed to other users
    if os.geteuid() == 0:
        shutil.chown(folder, OWNER, OWNER)
    made = Server(found[-1].parent, folder)
    made.start()
    try:
        yield made
    finally:
        if made.is_up:
            made.stop()
        shutil.rmtree(folder)


@pytest.fixture
def database(server: Server) -> Server:
    """The server, up and empty."""
    if not server.is_up:
        server.start()
    server.empty()
    return server
