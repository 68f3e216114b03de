"""The trials of a study in an Optuna storage, a journal file by default: `optuna-dashboard trials.journal` opens it."""

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
from kdsearch.store.files import as_storage_error

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
    "paused": TrialState.RUNNING,
}
ATTRIBUTE = "kdsearch"  # user attribute that holds the whole trial as JSON


class TrialLog:
    """The trials of one key (an Optuna study of that name) in a storage that several keys may share.

    One process writes a key at a time. A trial is put there when it is asked for, and again whenever its state changes; each
    costs the same after ten trials and after ten thousand.

    Args:
        storage: a journal file (a torn last line is cut off), or the URL of any Optuna storage.
        n_losses: objectives, all minimised.
        dims: what the dashboard shows as parameters.

    Raises:
        ArtifactError: it is no journal or cannot be opened, or the key's study has another number of objectives.
        StorageError: the disk is full or not writable.
    """

    def __init__(self, storage: Path | str, key: str, n_losses: int = 1, dims: Sequence[Dim] = ()) -> None:
        self.place, self.key, self.n_losses = storage, key, n_losses
        self._axes = {dim.path: Axis(dim) for dim in dims}
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            self._storage = _journal(storage) if isinstance(storage, Path) else optuna.storages.get_storage(storage)
            directions: list[Any] = ["minimize"] * n_losses
            study = optuna.create_study(
                storage=self._storage, study_name=key, directions=directions, load_if_exists=True
            )
        except OSError as error:
            raise StorageError(str(error), file=storage) from error
        except Exception as error:
            problem = f"not a journal of trials ({type(error).__name__}: {error})"
            fix = "Delete the file; `run` tries again."
            if not isinstance(storage, Path):
                problem, fix = (
                    f"cannot be opened ({type(error).__name__}: {error})",
                    "Mend run.storage, or leave it out.",
                )
            raise ArtifactError(problem, file=storage, fix=fix) from error
        finally:
            optuna.logging.set_verbosity(level)
        if len(study.directions) != n_losses:
            raise ArtifactError(f"'{key}' has {len(study.directions)} objectives", file=storage, expected=str(n_losses))
        self._study_id = self._storage.get_study_id_from_name(key)
        self._known: dict[int, tuple[int, Trial]] = {}  # number -> Optuna's id, the trial as it was put last
        for frozen in self._storage.get_all_trials(self._study_id, deepcopy=False):
            if ATTRIBUTE in frozen.user_attrs:
                trial = _rebuilt(frozen)
                self._known[trial.number] = (frozen._trial_id, trial)
                if trial.is_over and not frozen.state.is_finished():  # a kill between the two
                    self._end(frozen._trial_id, trial)

    def read(self) -> list[Trial]:
        """Every trial as it was put last, by number."""
        return [trial for _, (_, trial) in sorted(self._known.items())]

    def put(self, trial: Trial, shown: Mapping[str, Value] | None = None) -> bool:
        """Store the trial's present state; False where that is known, or the trial has ended: it never changes again.

        Args:
            shown: further dimensions' values for the dashboard, such as the space's.

        Raises:
            ValueError: a complete trial without `n_losses` finite losses: it has failed.
        """
        is_complete = trial.state == "complete"
        if is_complete and not (len(trial.losses) == self.n_losses and all(map(math.isfinite, trial.losses))):
            raise ValueError(
                f"trial {trial.number} is complete with losses {trial.losses}: expected {self.n_losses} numbers"
            )
        id, before = self._known.get(trial.number, (None, None))
        if before is not None and (before.is_over or before == trial):
            return False
        try:
            if id is None:
                frozen = self._as_frozen(trial, {**(shown or {}), **trial.values})
                id = self._storage.create_new_trial(self._study_id, frozen)
            else:
                self._update(id, trial)
        except OSError as error:
            raise as_storage_error(error, self.place if isinstance(self.place, Path) else None) from error
        self._known[trial.number] = (id, trial)
        return True

    def _update(self, id: int, trial: Trial) -> None:
        before = self._known[trial.number][1]
        for name, value in _attributes(trial).items():
            self._storage.set_trial_user_attr(id, name, value)
        if self.n_losses == 1:
            for step, loss in _steps(trial).items() - _steps(before).items():
                self._storage.set_trial_intermediate_value(id, step, loss)
        if trial.is_over:
            for name, value in self._as_frozen(trial, trial.values).system_attrs.items():
                self._storage.set_trial_system_attr(id, name, value)
            self._end(id, trial)

    def _end(self, id: int, trial: Trial) -> None:
        values = list(trial.losses) if trial.state == "complete" else None
        self._storage.set_trial_state_values(id, STATES[trial.state], values)

    def _as_frozen(self, trial: Trial, values: Mapping[str, Value]) -> FrozenTrial:
        params = {path: axis.inner(values[path]) for path, axis in self._axes.items() if path in values}
        params = {path: inner for path, inner in params.items() if inner is not None}
        return create_trial(
            state=STATES[trial.state],
            values=list(trial.losses) if trial.state == "complete" else None,
            params=params,
            distributions={path: self._axes[path].distribution for path in params},
            user_attrs=_attributes(trial),
            constraints={f"c{i}": each for i, each in enumerate(trial.violations)},
            intermediate_values=_steps(trial) if self.n_losses == 1 else {},
        )


def _attributes(trial: Trial) -> dict[str, str]:
    return {ATTRIBUTE: json.dumps(asdict(trial)), **({"error": trial.error} if trial.error else {})}


def _steps(trial: Trial) -> dict[int, float]:
    """Per mille of its length -> the one objective."""
    return {round(1000 * share): losses[0] for share, losses in trial.curve if math.isfinite(losses[0])}


def _journal(path: Path) -> JournalStorage:
    lock = _Lock(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock.held:
        _cut_torn_line(path)
        backend = JournalFileBackend(str(path), lock_obj=lock)  # type: ignore[arg-type]  # the same two methods
        return JournalStorage(backend)


def _rebuilt(frozen: FrozenTrial) -> Trial:
    raw: dict[str, Any] = json.loads(frozen.user_attrs[ATTRIBUTE])
    raw["losses"], raw["violations"] = tuple(raw["losses"]), tuple(raw["violations"])
    raw["over"] = tuple(raw["over"]) if raw.get("over") else None
    raw["curve"] = tuple((share, tuple(losses)) for share, losses in raw["curve"])
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
