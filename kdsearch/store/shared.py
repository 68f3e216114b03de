"""Stores that studies share: a folder, or any URL that fsspec knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdsearch.errors import KdsearchError, UnreachableError, UserError, nearest, told, without_password


def is_url(store: str) -> bool:
    """Whether it is no path."""
    return "://" in store or "::" in store


def check_kind(url: str) -> None:
    """Raise UserError for a kind of store that fsspec does not know, or whose package is not installed. Nothing is opened."""
    from fsspec.registry import get_filesystem_class, known_implementations

    kind = url.partition("://")[0].rpartition("::")[2]
    if kind not in known_implementations:
        near = nearest(kind, known_implementations)
        raise UserError(f"unknown kind of store '{kind}'", nearest=near, expected="such as file or s3")
    try:
        get_filesystem_class(kind)
    except ImportError as error:
        raise UserError(f"'{without_password(url)}' cannot be opened here: {error}") from None


@contextmanager
def reached(url: str) -> Iterator[tuple[Any, str]]:
    """The store's file system, and the path of its root there.

    Raises:
        UserError: it cannot be such a URL.
        UnreachableError: whatever the file system raises, within too, but errors of ours.
    """
    from fsspec.core import url_to_fs

    shown = without_password(url)
    try:
        try:
            found = url_to_fs(url)
        except (ImportError, TypeError, ValueError) as error:
            raise UserError(f"'{shown}' cannot be opened here: {error}") from None
        yield found
    except KdsearchError:
        raise
    except Exception as error:
        problem = f"the shared store '{shown}' cannot be used: {told(error)}"
        fix = "Once it can be, run the same command again: it goes on with what is there."
        raise UnreachableError(problem, fix=fix) from error
