"""The trials of a study in an Optuna storage, a journal file by default: `kdsearch dashboard` shows it."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from kdsearch.errors import ArtifactError, BusyError
from kdsearch.kinds import Dim, Trial
from kdsearch.kinds.options import Value
from kdsearch.search.axis import Axis, encode
from kdsearch.search.claims import HOLDER, Taken, busy, claimed, me
from kdsearch.search.storage import as_ours, journal, let_go, opened, patiently, printable
from kdsearch.store.artifacts import SEAL
from kdsearch.store.files import as_storage_error, shaped
from kdsearch.store.hashing import digest

T = TypeVar("T")
STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
    "paused": TrialState.RUNNING,
}
OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
CURVES = "curves"  # user attribute of the Optuna study: the objective that the trials' intermediate values are of
ATTRIBUTE = "kdsearch"  # system attribute that holds the whole trial as sealed JSON: no dashboard shows it
MEND = "Mend run.storage, or leave it out."


@dataclass(frozen=True)
class Board:
    """What a dashboard shows of the trials: names that a person reads, objectives in their own direction.

    Args:
        objectives: name -> `min` or `max`, in the order of the trials' losses.
        title: stands before the key in the Optuna study's name.
        dims: name -> dimension of the trials' values; others are not shown.
        constraints: names of the trials' violations, in their order.
        about: further columns of a trial that was asked for: its architecture in words, its costs.
        judged: the place of the objective that a training changes, whose curve is shown; the others are costs.
    """

    objectives: Mapping[str, str]
    title: str = ""
    dims: Mapping[str, Dim] = field(default_factory=dict)
    constraints: Sequence[str] = ()
    about: Callable[[Trial], Mapping[str, Any]] = lambda trial: {}
    judged: int = 0

    def values(self, losses: Sequence[float]) -> list[float]:
        """The objectives as they are: a maximised one is not negated."""
        return [
            0.0 - loss if direction == "max" else loss
            for loss, direction in zip(losses, self.objectives.values(), strict=True)
        ]


class TrialLog:
    """The trials of one key (an Optuna study whose name ends with it) in a storage that several keys may share.

    One process writes a key at a time (`held`). A trial is put there when it is asked for, and again whenever its state changes;
    each costs the same after ten trials and after ten thousand. A database that does not answer is waited for.

    Args:
        storage: a journal file (a torn last line is cut off), a database's URL, or `grpc://HOST:PORT` of a proxy.
        pause: called with the seconds between two attempts to reach a database; what it raises ends the waiting.

    Raises:
        StudyError: a URL that cannot be opened, a proxy that does not answer.
        ArtifactError: it is no journal, or the key's study has another number of objectives.
        StorageError: the disk is full or not writable.
        UnreachableError: the database did not answer for long.
    """

    def __init__(
        self, storage: Path | str, key: str, board: Board, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.place, self.key, self.board, self._pause = storage, key, board, pause
        self._n = len(board.objectives)
        self._check: Callable[[], None] = lambda: None
        with as_ours(storage):
            self._storage = self._patiently(lambda: journal(storage) if isinstance(storage, Path) else opened(storage))
            study = self._patiently(self._study)
        if len(study.directions) != self._n:
            raise ArtifactError(
                f"'{key}' has {len(study.directions)} objectives", file=printable(storage), expected=str(self._n)
            )
        self._study_id = study._study_id
        self._ranges: dict[tuple[str, str], tuple[str, BaseDistribution]] = {}  # name, range as written -> both
        self._known: dict[int, tuple[int, Trial]] = {}  # number -> Optuna's id, the trial as it was put last
        with as_ours(storage):
            self._patiently(lambda: self._look(mends=False))  # another process may be between the two
        let_go(self._storage)

    def _patiently(self, call: Callable[[], T]) -> T:
        return patiently(self.place, call, self._pause)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Write the key's trials alone, and go on from what is there now. Raise BusyError where another process does so."""
        try:
            with claimed(self.place, self.key) as check:

                def still_mine() -> None:
                    try:
                        check()
                    except Taken:
                        raise self._busy() from None

                self._check = still_mine
                self._patiently(lambda: self._storage.set_study_system_attr(self._study_id, HOLDER, me()))
                self._patiently(self._look)
                yield
        except Taken:
            raise self._busy() from None
        finally:
            self._check = lambda: None
            let_go(self._storage)

    def _busy(self) -> BusyError:
        told = self._patiently(lambda: self._storage.get_study_system_attrs(self._study_id))
        return busy(str(self.place), self.key, told.get(HOLDER))

    def _look(self, mends: bool = True) -> None:
        for frozen in self._storage.get_all_trials(self._study_id, deepcopy=False):
            if ATTRIBUTE in frozen.system_attrs:
                trial = self._rebuilt(frozen)
                self._known[trial.number] = (frozen._trial_id, trial)
                if mends and trial.is_over and not frozen.state.is_finished():  # a kill between the two
                    self._end(frozen._trial_id, trial)

    def _rebuilt(self, frozen: FrozenTrial) -> Trial:
        """Raise ArtifactError for what is no trial."""
        fix = "Delete the file; `run` tries again." if isinstance(self.place, Path) else MEND
        raw = json.loads(frozen.system_attrs[ATTRIBUTE])
        told = {name: value for name, value in raw.items() if name != SEAL}
        if raw.get(SEAL) != digest(json.dumps(told)):
            problem = f"trial {frozen.number} has changed since it was written"
            raise ArtifactError(problem, file=printable(self.place), expected="what its digest is of", fix=fix)
        found: Trial = shaped(told, Trial, printable(self.place), fix)
        if found.state == "complete" and not all(map(math.isfinite, found.losses)):
            problem = f"trial {found.number} is complete with the losses {list(found.losses)}"
            raise ArtifactError(problem, file=printable(self.place), expected="finite numbers", fix=fix)
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
            study.set_user_attr(CURVES, [*self.board.objectives][self.board.judged])
        return study

    def beside(self, prefix: str) -> int:
        """How many trials of this title have ended under other keys that begin so."""
        begins = f"{self.board.title} {prefix}"
        others = [each for each in self._storage.get_all_studies() if each.study_name.startswith(begins)]
        return sum(
            self._storage.get_n_trials(each._study_id, OVER) for each in others if each._study_id != self._study_id
        )

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
        _, before = self._known.get(trial.number, (None, None))
        if before is not None and (before.is_over or before == trial):
            return False
        is_first = True

        def store() -> None:
            nonlocal is_first
            try:
                self._check()
                if not is_first:  # the answer to the first attempt may be all that was lost
                    self._look()
                is_first = False
                self._store(trial)
            except OSError as error:
                raise as_storage_error(error, self.place if isinstance(self.place, Path) else None) from error

        self._patiently(store)
        return True

    def _store(self, trial: Trial) -> None:
        id, before = self._known.get(trial.number, (None, None))
        if id is None:
            id = self._storage.create_new_trial(self._study_id, self._as_frozen(trial))
        elif before is not None and not before.is_over and before != trial:
            self._update(id, trial)
        self._known[trial.number] = (id, trial)

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
        if isinstance(self.place, Path):
            self._share(self._storage.get_trial(id))

    def _share(self, frozen: FrozenTrial) -> None:
        """One range and name a parameter for all trials: the journal makes them anew for each, half of what it holds of one."""
        told = frozen.distributions.items()
        names = [
            self._ranges.setdefault((name, repr(each)), (name, each)) for name, each in told
        ]  # True is 1, but not so written
        frozen.params = {name: frozen.params[name] for name, _ in names}
        frozen.distributions = dict(names)

    def _values(self, trial: Trial) -> list[float] | None:
        return self.board.values(trial.losses) if trial.state == "complete" else None

    def _steps(self, trial: Trial) -> dict[int, float]:
        """Per mille of its length -> the objective that is judged. With several Optuna keeps them, and draws none by itself."""
        at = self.board.judged
        return {
            round(1000 * share): self.board.values(losses)[at]
            for share, losses in trial.curve
            if math.isfinite(losses[at])
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
