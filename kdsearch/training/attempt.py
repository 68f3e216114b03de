"""One training tried: its outcome, or what it failed of. What is the study's fault, or the disk's, ends the study instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from kdsearch import errors
from kdsearch.errors import FIELDS, FOREIGN, KdsearchError, TrialError, told
from kdsearch.store.files import as_storage_error, is_disk_error

V = TypeVar("V")


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


def from_json(value: Mapping[str, Any]) -> KdsearchError:
    """An error that a process of its own met, by its facts."""
    cls: type[KdsearchError] = getattr(errors, value["type"], KdsearchError)
    return cls(value["problem"], **{name: value[name] for name in FIELDS[1:]})
