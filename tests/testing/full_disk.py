"""A disk that is full, by the limit of a process on the size of its files: what a write then raises, a full disk raises too."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NAME = "PYTHONDONTWRITEBYTECODE"


def allow(n_bytes: int) -> None:
    """From now on no file of this process, and of those that it starts, can grow beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextmanager
def limited() -> Iterator[None]:
    """What `allow` forbids in here is allowed again behind it. Meanwhile no bytecode is written: Python 3.11 would leave that of a
    package that is imported first in here cut off, and every later import of it fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode, os.environ.get(NAME)
    sys.dont_write_bytecode, os.environ[NAME] = True, "1"
    try:
        yield
    finally:
        limits, sys.dont_write_bytecode, named = before
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        del os.environ[NAME]
        if named is not None:
            os.environ[NAME] = named
