"""One training tried: its outcome, or what it failed of. What is the study's fault, or the disk's, ends the study instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from kdsearch import errors
from kdsearch.errors import (
    FIELDS,
    FOREIGN,
    ArtifactError,
    DataError,
    KdsearchError,
    TrialError,
    UnsafeCodeError,
    UserError,
    told,
)
from kdsearch.store.files import as_storage_error, is_disk_error

V = TypeVar("V")
OF_ALL = (
    ArtifactError,
    DataError,
    UnsafeCodeError,
)  # damaged files, samples, code not allowed: every training meets them


def attempt(call: Callable[[], V], work: Path) -> V | str:
    """The outcome, or the failed training's error.

    Raises:
        UserError, StorageError, InterruptedRun: they end the study, whichever training meets them.
    """
    try:
        return call()
    except TrialError as error:
        return str(error)
    except KdsearchError:
        raise
    except OSError as error:
        if is_disk_error(error):
            raise as_storage_error(error, work) from error
        return told(error)
    except FOREIGN as error:
        return told(error)


@contextmanager
def at_one_point() -> Iterator[None]:
    """What a method says against one point of what is searched, a tap that this candidate lacks or options that do not go
    together, fails that training as a TrialError with its words. What concerns every training goes through (`OF_ALL`).
    """
    try:
        yield
    except OF_ALL:
        raise
    except UserError as error:
        raise TrialError(str(error)) from error


def from_json(value: Mapping[str, Any]) -> KdsearchError:
    """An error that a process of its own met, by its facts."""
    cls: type[KdsearchError] = getattr(errors, value["type"], KdsearchError)
    return cls(value["problem"], **{name: value[name] for name in FIELDS[1:]})
