"""The study's folder: who holds it, its format, its log of events."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdsearch.errors import ArtifactError, BusyError
from kdsearch.store.artifacts import FORMAT, check_format
from kdsearch.store.files import append_line, read_json, storing, write_json

MARK = "kdsearch.json"
LAST = "last.json"  # stage -> key and seconds of the folder's last run
GLANCE_S = 0.3  # `status` holds the lock for a moment to see whether anybody else does


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def open_folder(path: Path) -> None:
    """Create the folder, or check that it is a study's folder of a format that can be read."""
    mark = path / MARK
    if mark.exists():
        check_format(read_json(mark), mark, fix="Delete it; `kdsearch run` makes it again.")
        return
    if path.exists() and not path.is_dir():
        raise ArtifactError("is a file", file=path, expected="a folder", fix="Choose another with --dir.")
    if path.exists() and not _was_study(path) and any(not entry.name.startswith(".") for entry in path.iterdir()):
        fix = "Choose another with --dir."
        raise ArtifactError(
            "the folder has other files in it", file=path, expected="a new folder or a study's", fix=fix
        )
    try:
        with storing(path):
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot be made: {error.strerror}", file=path, fix="Choose another with --dir.") from None
    write_json(mark, {"format": FORMAT})


def _was_study(path: Path) -> bool:
    """Whether the folder is a study's whose mark was deleted, as the message about a damaged one asks for."""
    return (path / "artifacts").is_dir() and (path / "events.jsonl").is_file()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the folder for this process. Raise BusyError naming host, pid and since when, if another one does.

    The lock is the operating system's: it ends with the process, however that ends.
    """
    from filelock import FileLock, Timeout

    holder = path / ".holder.json"
    lock = FileLock(str(path / ".lock"))
    try:
        with storing(path):
            lock.acquire(timeout=GLANCE_S)
    except Timeout:
        who = read_json(holder) if holder.exists() else {}
        problem = f"in use by pid {who.get('pid', '?')} on {who.get('host', '?')} since {who.get('since', '?')}"
        raise BusyError(problem, file=path, fix="Wait for it, end it, or choose another folder with --dir.") from None
    try:
        write_json(holder, {"host": socket.gethostname(), "pid": os.getpid(), "since": now()})
        yield
        holder.unlink(missing_ok=True)
    finally:
        lock.release()


class Events:
    """events.jsonl: what happened, one line each; every line is also handed to the plugins."""

    def __init__(self, path: Path, tell: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self.path, self.tell = path, tell

    def write(self, event: str, **facts: Any) -> None:
        line = {"time": now(), "event": event, **facts}
        append_line(self.path, line)
        if self.tell:
            self.tell(line)
