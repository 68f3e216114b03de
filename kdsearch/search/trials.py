"""The trials of a study in an Optuna storage, a journal file by default: `optuna-dashboard trials.journal` opens it."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from kdsearch.errors import ArtifactError, KdsearchError, StorageError, StudyError
from kdsearch.kinds import Dim, Trial
from kdsearch.kinds.options import Value
from kdsearch.search.axis import Axis, encode
from kdsearch.store.artifacts import SEAL
from kdsearch.store.files import as_storage_error, shaped
from kdsearch.store.hashing import digest

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
    "paused": TrialState.RUNNING,
}
ATTRIBUTE = "kdsearch"  # system attribute that holds the whole trial as sealed JSON: no dashboard shows it
MEND = "Mend run.storage, or leave it out."
WAIT_S = 10.0  # for a gRPC proxy to answer


@dataclass(frozen=True)
class Board:
    """What a dashboard shows of the trials: names that a person reads, objectives in their own direction.

    Args:
        objectives: name -> `min` or `max`, in the order of the trials' losses.
        title: stands before the key in the Optuna study's name.
        dims: name -> dimension of the trials' values; others are not shown.
        constraints: names of the trials' violations, in their order.
        about: further columns of a trial that was asked for: its architecture in words, its costs.
    """

    objectives: Mapping[str, str]
    title: str = ""
    dims: Mapping[str, Dim] = field(default_factory=dict)
    constraints: Sequence[str] = ()
    about: Callable[[Trial], Mapping[str, Any]] = lambda trial: {}

    def values(self, losses: Sequence[float]) -> list[float]:
        """The objectives as they are: a maximised one is not negated."""
        return [
            0.0 - loss if direction == "max" else loss
            for loss, direction in zip(losses, self.objectives.values(), strict=True)
        ]


class TrialLog:
    """The trials of one key (an Optuna study whose name ends with it) in a storage that several keys may share.

    One process writes a key at a time. A trial is put there when it is asked for, and again whenever its state changes; each
    costs the same after ten trials and after ten thousand.

    Args:
        storage: a journal file (a torn last line is cut off), the URL of any Optuna storage, or `grpc://HOST:PORT` of a proxy.

    Raises:
        StudyError: a URL that cannot be opened, a proxy that does not answer.
        ArtifactError: it is no journal, or the key's study has another number of objectives.
        StorageError: the disk is full or not writable.
    """

    def __init__(self, storage: Path | str, key: str, board: Board) -> None:
        self.place, self.key, self.board = storage, key, board
        self._n = len(board.objectives)
        with _as_ours(storage):
            self._storage = _journal(storage) if isinstance(storage, Path) else _opened(storage)
            study = self._study()
        if len(study.directions) != self._n:
            raise ArtifactError(f"'{key}' has {len(study.directions)} objectives", file=storage, expected=str(self._n))
        self._study_id = study._study_id
        self._known: dict[int, tuple[int, Trial]] = {}  # number -> Optuna's id, the trial as it was put last
        with _as_ours(storage):
            self._look()

    def _look(self) -> None:
        for frozen in self._storage.get_all_trials(self._study_id, deepcopy=False):
            if ATTRIBUTE in frozen.system_attrs:
                trial = self._rebuilt(frozen)
                self._known[trial.number] = (frozen._trial_id, trial)
                if trial.is_over and not frozen.state.is_finished():  # a kill between the two
                    self._end(frozen._trial_id, trial)

    def _rebuilt(self, frozen: FrozenTrial) -> Trial:
        """Raise ArtifactError for what is no trial."""
        fix = "Delete the file; `run` tries again." if isinstance(self.place, Path) else MEND
        raw = json.loads(frozen.system_attrs[ATTRIBUTE])
        told = {name: value for name, value in raw.items() if name != SEAL}
        if raw.get(SEAL) != digest(json.dumps(told)):
            problem = f"trial {frozen.number} has changed since it was written"
            raise ArtifactError(problem, file=self.place, expected="what its digest is of", fix=fix)
        found: Trial = shaped(told, Trial, self.place, fix)
        if found.state == "complete" and not all(map(math.isfinite, found.losses)):
            problem = f"trial {found.number} is complete with the losses {list(found.losses)}"
            raise ArtifactError(problem, file=self.place, expected="finite numbers", fix=fix)
        return found

    def _study(self) -> optuna.Study:
        """The key's study, made where there is none; one that was made under another title is the key's, too."""
        name = f"{self.board.title} {self.key}".strip()
        known = [each.study_name for each in self._storage.get_all_studies()]
        if name not in known:
            name = next((each for each in known if each.endswith(f" {self.key}")), name)
        study = optuna.create_study(
            storage=self._storage,
            study_name=name,
            directions=["maximize" if each == "max" else "minimize" for each in self.board.objectives.values()],
            load_if_exists=True,
        )
        if name not in known:
            study.set_metric_names(list(self.board.objectives))
        return study

    def read(self) -> list[Trial]:
        """Every trial as it was put last, by number."""
        return [trial for _, (_, trial) in sorted(self._known.items())]

    def put(self, trial: Trial) -> bool:
        """Store the trial's present state; False where that is known, or the trial has ended: it never changes again.

        Raises:
            ValueError: a complete trial without a finite loss for each objective: it has failed.
        """
        is_complete = trial.state == "complete"
        if is_complete and not (len(trial.losses) == self._n and all(map(math.isfinite, trial.losses))):
            raise ValueError(f"trial {trial.number} is complete with losses {trial.losses}: expected {self._n} numbers")
        id, before = self._known.get(trial.number, (None, None))
        if before is not None and (before.is_over or before == trial):
            return False
        try:
            if id is None:
                id = self._storage.create_new_trial(self._study_id, self._as_frozen(trial))
            else:
                self._update(id, trial)
        except OSError as error:
            raise as_storage_error(error, self.place if isinstance(self.place, Path) else None) from error
        self._known[trial.number] = (id, trial)
        return True

    def _update(self, id: int, trial: Trial) -> None:
        before = self._known[trial.number][1]
        for step, value in self._steps(trial).items() - self._steps(before).items():
            self._storage.set_trial_intermediate_value(id, step, value)
        if trial.error:
            self._storage.set_trial_user_attr(id, "error", trial.error)
        for name, told in self._as_frozen(trial).system_attrs.items():
            self._storage.set_trial_system_attr(id, name, told)
        if trial.is_over:
            self._end(id, trial)

    def _end(self, id: int, trial: Trial) -> None:
        self._storage.set_trial_state_values(id, STATES[trial.state], self._values(trial))

    def _values(self, trial: Trial) -> list[float] | None:
        return self.board.values(trial.losses) if trial.state == "complete" else None

    def _steps(self, trial: Trial) -> dict[int, float]:
        """Per mille of its length -> the one objective; Optuna has no curves of several."""
        if self._n > 1:
            return {}
        return {
            round(1000 * share): self.board.values(losses)[0]
            for share, losses in trial.curve
            if math.isfinite(losses[0])
        }

    def _as_frozen(self, trial: Trial) -> FrozenTrial:
        given = {name: dim for name, dim in self.board.dims.items() if dim.path in trial.values}
        shown = {name: _param(dim, trial.values[dim.path]) for name, dim in given.items()}
        params = {name: each for name, each in shown.items() if each is not None}
        return create_trial(
            state=STATES[trial.state],
            values=self._values(trial),
            params={name: value for name, (value, _) in params.items()},
            distributions={name: distribution for name, (_, distribution) in params.items()},
            user_attrs={**self.board.about(trial), **({"error": trial.error} if trial.error else {})},
            system_attrs={ATTRIBUTE: sealed(asdict(trial))},
            constraints=dict(zip(self.board.constraints, map(_finite, trial.violations), strict=False)),
            intermediate_values=self._steps(trial),
        )


def sealed(told: Mapping[str, Any]) -> str:
    """What a storage keeps of a trial: all of it as JSON, with its digest; NaN and infinities may be among the curve's values."""
    return json.dumps({**told, SEAL: digest(json.dumps(told))})


def _param(dim: Dim, value: Value) -> tuple[Any, BaseDistribution] | None:
    """A value and its range as a person reads them; None outside of the range. A choice is itself, not its position."""
    axis = Axis(dim)
    if not dim.range.choices:
        return None if axis.inner(value) is None else (value, axis.distribution)
    texts = [encode(each) for each in dim.range.choices]
    if encode(value) not in texts:
        return None
    plain = [
        each if each is None or isinstance(each, bool | int | float | str) else text
        for each, text in zip(dim.range.choices, texts, strict=True)
    ]
    choices = plain if len(set(plain)) == len(plain) else texts  # true is 1 to Optuna
    return choices[texts.index(encode(value))], CategoricalDistribution(choices)


def _finite(violation: float) -> float:
    """Optuna takes no NaN, and JSON no infinity."""
    return violation if math.isfinite(violation) else sys.float_info.max


def check_storage(url: str) -> None:
    """Raise StudyError for one that cannot be opened."""
    with _as_ours(url):
        _opened(url)


def check_url(url: str) -> None:
    """Raise StudyError for what is no URL of a storage, or of one whose driver is not installed. Nothing is opened."""
    if url.startswith("grpc:"):
        _host_and_port(url)
        return
    from sqlalchemy import make_url

    with _as_ours(url):
        make_url(url).get_dialect().import_dbapi()


@contextmanager
def _as_ours(storage: Path | str) -> Iterator[None]:
    """Optuna quiet, and what goes wrong with its storage as one of our errors."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    except KdsearchError:
        raise
    except OSError as error:
        raise StorageError(str(error), file=storage) from error
    except Exception as error:
        said = f"({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        if isinstance(storage, Path):
            fix = "Delete the file; `run` tries again."
            raise ArtifactError(f"not a journal of trials {said}", file=storage, fix=fix) from error
        shown = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", storage)  # without the password
        expected = "the URL of an Optuna storage, such as sqlite:///trials.db"
        raise StudyError(f"'{shown}' cannot be opened {said}", path="run.storage", expected=expected) from error
    finally:
        optuna.logging.set_verbosity(level)


def _host_and_port(url: str) -> tuple[str, int]:
    found = re.fullmatch(r"grpc://([^/:\s]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", url)
    if found is None:
        raise StudyError(f"got '{url}'", path="run.storage", expected="grpc://HOST:PORT")
    return found[1], int(found[2])


def _opened(url: str) -> BaseStorage:
    if not url.startswith("grpc:"):
        return optuna.storages.get_storage(url)
    host, port = _host_and_port(url)
    try:
        proxy = optuna.storages.GrpcStorageProxy(host=host, port=port)
        proxy.wait_server_ready(timeout=WAIT_S)
    except ImportError as error:
        raise StudyError(
            "grpcio is not installed", path="run.storage", fix="Run: pip install 'kdsearch[grpc]'"
        ) from error
    except ConnectionError as error:
        raise StudyError(
            f"'{url}' does not answer",
            path="run.storage",
            expected="a server that `optuna.storages.run_grpc_proxy_server` started",
        ) from error
    return proxy


def _journal(path: Path) -> JournalStorage:
    lock = _Lock(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock.held:
        _cut_torn_line(path)
        backend = JournalFileBackend(str(path), lock_obj=lock)  # type: ignore[arg-type]  # the same two methods
        return JournalStorage(backend)


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
