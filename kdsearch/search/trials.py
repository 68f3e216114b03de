"""Finished trials in Optuna's journal file: `optuna-dashboard trials.journal` opens it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from kdsearch.errors import ArtifactError, StorageError
from kdsearch.kinds import Dim, Trial
from kdsearch.kinds.options import Value
from kdsearch.search.axis import Axis

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
ATTRIBUTE = "kdsearch"  # user attribute that holds the whole trial as JSON


class Trials:
    """The trials of one key (an Optuna study of that name) in a journal that several keys and processes may share.

    Args:
        path: the journal; a torn last line is cut off.
        n_losses: objectives, all minimised.
        dims: what the dashboard shows as parameters.

    Raises:
        ArtifactError: the file is no journal, or the key's study has another number of objectives.
        StorageError: the disk is full or not writable.
    """

    def __init__(self, path: Path, key: str, n_losses: int = 1, dims: Sequence[Dim] = ()) -> None:
        self.path, self.key, self.n_losses = path, key, n_losses
        self._axes = {dim.path: Axis(dim) for dim in dims}
        self._lock = _Lock(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            with self._lock.held:
                _cut_torn_line(path)
                backend = JournalFileBackend(str(path), lock_obj=self._lock)  # type: ignore[arg-type]  # the same two methods
                storage = JournalStorage(backend)
                self._study = optuna.create_study(
                    storage=storage, study_name=key, directions=["minimize"] * n_losses, load_if_exists=True
                )
        except OSError as error:
            raise StorageError(str(error), file=path) from error
        except Exception as error:
            raise ArtifactError(
                f"not a journal of trials ({type(error).__name__}: {error})",
                file=path,
                fix="Delete the file; `run` tries again.",
            ) from error
        finally:
            optuna.logging.set_verbosity(level)
        if len(self._study.directions) != n_losses:
            raise ArtifactError(
                f"'{key}' has {len(self._study.directions)} objectives", file=path, expected=str(n_losses)
            )

    def read(self) -> list[Trial]:
        """Every trial told so far, by number."""
        found = [_rebuilt(frozen) for frozen in self._frozen()]
        return sorted(found, key=lambda trial: trial.number)

    def append(self, trial: Trial, shown: Mapping[str, Value] | None = None) -> bool:
        """Store the trial; False where its number is there already: telling twice changes nothing.

        Args:
            shown: further dimensions' values for the dashboard, such as the space's.
        """
        frozen = self._as_frozen(trial, {**(shown or {}), **trial.values})
        with self._lock.held:
            if any(_number(each) == trial.number for each in self._frozen()):
                return False
            try:
                self._study.add_trial(frozen)
            except OSError as error:
                raise StorageError(str(error), file=self.path, fix="Make room and run again; it goes on.") from error
        return True

    def _frozen(self) -> list[FrozenTrial]:
        found: list[FrozenTrial] = self._study.get_trials(deepcopy=False)
        return [each for each in found if ATTRIBUTE in each.user_attrs]

    def _as_frozen(self, trial: Trial, values: Mapping[str, Value]) -> FrozenTrial:
        """Raise ValueError for a complete trial without `n_losses` finite losses: it has failed."""
        is_complete = trial.state == "complete"
        if is_complete and not (len(trial.losses) == self.n_losses and all(map(math.isfinite, trial.losses))):
            raise ValueError(
                f"trial {trial.number} is complete with losses {trial.losses}: expected {self.n_losses} numbers"
            )
        params = {path: axis.inner(values[path]) for path, axis in self._axes.items() if path in values}
        params = {path: inner for path, inner in params.items() if inner is not None}
        curve = {round(1000 * share): loss for share, loss in trial.curve if math.isfinite(loss)}
        return create_trial(
            state=STATES[trial.state],
            values=list(trial.losses) if is_complete else None,
            params=params,
            distributions={path: self._axes[path].distribution for path in params},
            user_attrs={ATTRIBUTE: json.dumps(asdict(trial)), **({"error": trial.error} if trial.error else {})},
            constraints={f"c{i}": each for i, each in enumerate(trial.violations)},
            intermediate_values=curve if self.n_losses == 1 else {},
        )


def _number(frozen: FrozenTrial) -> int:
    return int(json.loads(frozen.user_attrs[ATTRIBUTE])["number"])


def _rebuilt(frozen: FrozenTrial) -> Trial:
    raw: dict[str, Any] = json.loads(frozen.user_attrs[ATTRIBUTE])
    raw["losses"], raw["violations"] = tuple(raw["losses"]), tuple(raw["violations"])
    raw["curve"] = tuple((share, loss) for share, loss in raw["curve"])
    return Trial(**raw)


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
