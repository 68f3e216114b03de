"""Folders in the temporary directory: they go with their owner, and what an owner that was killed left, a later one clears.

A folder holds a file that its owner has locked. The lock is the operating system's: it ends with the process, however that ends,
and tells the truth where process ids do not (two containers that share the directory).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kdsearch.errors import StorageError
from kdsearch.store.files import storing

PREFIX = "kdsearch-"
OWNER = ".owner"


@dataclass
class Scratch:
    """A folder of this process alone; `close` removes it."""

    path: Path
    _lock: int

    @classmethod
    def make(cls, name: str) -> Scratch:
        """A new folder called `kdsearch-NAME-...`. Raise StorageError where there is no place for it."""
        try:
            root = Path(tempfile.gettempdir())
        except FileNotFoundError as error:
            raise StorageError(f"no place for temporary files: {error.strerror}", fix="Set TMPDIR.") from None
        clear_abandoned(root)
        with storing(root):
            while True:
                path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-", dir=root))
                try:
                    lock = _owned(path)
                except BaseException:
                    shutil.rmtree(path, ignore_errors=True)
                    raise
                if lock is not None:
                    return cls(path, lock)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def clear_abandoned(root: Path) -> None:
    """Remove the folders in it whose owners are dead: this user's alone, and nothing that a symbolic link leads to."""
    try:
        found = [each for each in os.scandir(root) if each.name.startswith(PREFIX)]
    except OSError:
        return
    for each in found:
        try:
            if not each.is_dir(follow_symlinks=False) or each.stat(follow_symlinks=False).st_uid != os.geteuid():
                continue
            lock = os.open(Path(each.path, OWNER), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # not one of these, or somebody else has just cleared it
            continue
        try:
            _locked(lock)
        except OSError:  # its owner lives
            os.close(lock)
            continue
        shutil.rmtree(each.path, ignore_errors=True)
        os.close(lock)


def _owned(path: Path) -> int | None:
    """A locked handle of a new folder's file; None where another process took the folder for abandoned before it was locked."""
    handle = os.open(path / OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _locked(handle)
        if os.path.samestat(os.fstat(handle), os.stat(path / OWNER)):
            return handle
    except (BlockingIOError, FileNotFoundError):  # it is being cleared, or has been
        pass
    os.close(handle)
    return None


def _locked(handle: int) -> int:
    """The handle, locked. Raise BlockingIOError where somebody else holds it."""
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle
