"""Studies from Python: run one, or ask and tell with a training loop of one's own."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdsearch.errors import StudyError, UserError, nearest, one_of, told
from kdsearch.host import Host
from kdsearch.kinds import Ask, Model, Trial
from kdsearch.python.result import Result
from kdsearch.report.frames import frame, trial_rows
from kdsearch.report.words import spec_words
from kdsearch.search.trials import TrialLog
from kdsearch.stages import refine, trial_facts
from kdsearch.stages.costs import violations
from kdsearch.stages.mirror import run_of_trial
from kdsearch.stages.run import run_stages
from kdsearch.stages.starts import starts_of
from kdsearch.store.folder import Events, held, open_folder
from kdsearch.store.hashing import derive, digest
from kdsearch.study.reading import load_study
from kdsearch.study.recipe import ResolvedRecipe
from kdsearch.study.study import Study
from kdsearch.training.job import open_store
from kdsearch.training.keys import part_of
from kdsearch.training.logs import Logs
from kdsearch.training.materials import Materials, open_materials
from kdsearch.training.opened import open_teachers
from kdsearch.training.recipe_data import supplied
from kdsearch.training.tools import Progress, Tools
from kdsearch.verbs.preflight import check_storage
from kdsearch.verbs.run import run_study, write_study

KEYS = "session "  # what the keys of sessions' trials begin with
CHANGED = "what they depend on has changed, or the seed. This session begins with none; those are there again for the other one."
OPEN = "Use it as `with kdsearch.Session(study, folder) as session:`."


def run(study: Study | Path | str, dir: Path | str, *, workers: int | None = None, progress: bool = True) -> Result:
    """Run a study in a folder; the final JSON, which in a notebook also shows its figures and tables.

    Killed, the same call goes on.

    Args:
        study: of `kdsearch.Study(...)` or `kdsearch.load_study(...)`, or a study file.

    Raises what `kdsearch run` reports: UserError, RefusedError (its result in `.result`), BusyError, StorageError.
    """
    host = Host.load()
    made = _study_of(study, host)
    return Result(run_study(made, host, Path(dir), workers=workers, progress=progress, again="call it again"))


def _study_of(study: Study | Path | str, host: Host) -> Study:
    return study if isinstance(study, Study) else load_study(study, host)


@dataclass(frozen=True)
class Candidate:
    """One thing to train: architecture and recipe, with fresh models.

    Args:
        number: of its trial. specs: role -> architecture spec. recipe: distillers, weights, training settings.
        models: role -> freshly initialised model; a function of the study's seed, the number and the role.
        costs: params, MACs, and of the file where the study limits it.
    """

    number: int
    specs: Mapping[str, Mapping[str, Any]]
    recipe: ResolvedRecipe
    models: Mapping[str, Model]
    costs: Mapping[str, float]
    values: Mapping[str, Any]

    @property
    def model(self) -> Model:
        """The student's, or of several the first one's."""
        return next(iter(self.models.values()))

    def __repr__(self) -> str:
        words = " + ".join(spec_words(spec) or role for role, spec in self.specs.items())
        costs = ", ".join(f"{value:,.6g} {name}" for name, value in self.costs.items())
        weights = ", ".join(f"{name} {weight:.3g}" for name, weight in self.recipe.weights.items())
        return f"<Candidate {self.number}: {words}; {costs}; weights {weights}; lr {self.recipe.train.lr:.3g}>"


class Session:
    """`ask` and `tell` for a training loop of one's own; told trials stay in the folder's `trials.journal`.

        with kdsearch.Session(study, "folder") as session:
            while (candidate := session.ask()) is not None:
                accuracy = my_training(candidate.model.module, candidate.recipe)
                session.tell(candidate, {"accuracy": accuracy})
        best = session.best()

    The stages prepare and search run, or are read, when it opens, and weightings are scored where the study has that done.
    Asked and not told: asked again by the next session. A study that has changed, but for more trials, begins anew, with a warning.
    """

    def __init__(self, study: Study | Path | str, dir: Path | str, *, progress: bool = False) -> None:
        self.folder = Path(dir).absolute()  # a training loop may change the working directory
        host = Host.load()
        self.materials: Materials = open_materials(_study_of(study, host), host, self.folder)
        self._logs = Logs.of(self.materials)
        self._progress = Progress(progress)
        self._hold = ExitStack()
        self._log: TrialLog | None = None
        self._waiting: Candidate | None = None
        self._is_open = False
        self._events = Events(self.folder / "events.jsonl", host.event)

    def __repr__(self) -> str:
        name, n = self.materials.study.config.name, self.materials.study.config.refine.trials
        state = "not open" if self._log is None else f"{len(self.trials)} of {n} trials told"
        return f"<Session of study '{name}' in {self.folder}: {state}>"

    def __enter__(self) -> Session:
        check_storage(self.materials.study)
        open_folder(self.folder)
        with ExitStack() as hold:  # let go again where it cannot be opened
            self._open(hold)
            self._hold = hold.pop_all()
        self._is_open = True
        return self

    def _open(self, hold: ExitStack) -> None:
        hold.enter_context(held(self.folder))
        write_study(self.materials.study, self.folder)
        tools = Tools(open_store(self.materials.study, self.folder), self._events, self.folder, self._progress)
        made = run_stages(self.materials, tools, until="search")
        self.materials = supplied(self.materials, made["prepare"], tools.store)
        section = self.materials.study.config.refine
        self._controller = refine.controller_of(self.materials)
        self.kept = trial_facts.offered(made["search"], self._controller, self.materials.ships, section.first)
        self.dims = [*trial_facts.architecture_dims(self.materials, self.kept), *self.materials.recipe.dims]
        part = part_of(refine, self.materials)
        del part["refine"]["trials"]  # more of them go on with those that are told
        name = digest([made["search"].key, part])
        self._log = refine.open_log(self.materials, self.folder, f"{KEYS}{name[: refine.KEY]}", self.kept)
        is_own = isinstance(self._log.place, Path)  # a database may have those of another folder of this name
        if is_own and not self._log.read() and (others := self._log.beside(KEYS)):
            warnings.warn(f"{others} trials in {self.folder} are of another study: {CHANGED}", stacklevel=3)
        hold.enter_context(self._log.held())
        teachers = open_teachers(self.materials, made["prepare"])
        work = tools.store.work("session", name)
        self._starts = starts_of(self.materials, made["search"], self.kept, teachers, work)
        self._logs.open(self.folder, self.materials.study.config.name)
        hold.callback(self._logs.close)
        for trial in self._log.read():
            self._mirror(trial, is_new=False)

    def __exit__(self, *error: Any) -> None:
        self._is_open, self._waiting = False, None  # asked again by the next session
        self._hold.close()

    @property
    def trials(self) -> list[Trial]:
        """Everything told so far, by number."""
        return [trial for trial in self._told.read() if trial.is_over]

    @property
    def notes(self) -> list[str]:
        """What went wrong beside the search: a logger of `run.log` that failed is told no more."""
        return [*self._logs.notes]

    def trials_dataframe(self) -> Any:
        """What was told as a pandas DataFrame, a row a trial, as `Result.trials_dataframe`."""
        rows = trial_facts.rows_of(self.materials, self.trials, self.kept)
        return frame(trial_rows({"trials": rows, "objectives": [*self.materials.objectives.items()]}))

    @property
    def _told(self) -> TrialLog:
        if self._log is None:
            raise UserError("the session is not open", fix=OPEN)
        return self._log

    def ask(self) -> Candidate | None:
        """The next candidate, or None when the study's number of trials is told. Raise UserError where the session is not open."""
        if not self._is_open:
            raise UserError("the session is not open", fix=OPEN)
        if self._waiting is not None:
            return self._waiting
        history = self.trials
        if len(history) >= self.materials.study.config.refine.trials:
            return None
        left = next((trial for trial in self._told.read() if trial.number == len(history)), None)
        if left is not None:  # asked by an earlier session, whose study may have had fewer trials
            self._waiting = self._candidate(left.number, Ask(left.values))
            return self._waiting
        seed = derive(self.materials.seed, "refine") % 2**31
        ask = refine.next_ask(self._controller, self.dims, self._starts, history, seed, self._over)
        if ask is not None:
            self._put(Trial(len(history), ask.values, state="running"))
            self._waiting = self._candidate(len(history), ask)
        return self._waiting

    def _over(self, trial: Trial) -> tuple[float, ...]:
        return trial_facts.over_of(self.materials, trial, self.kept)

    def _candidate(self, number: int, ask: Ask) -> Candidate:
        trial = Trial(number, ask.values)
        specs = trial_facts.specs_of(trial, self.kept)
        models = {
            role: self.materials.build_student(role, spec, derive(self.materials.seed, "session", number, role))
            for role, spec in specs.items()
        }
        recipe = self.materials.recipe.at(trial_facts.recipe_values(self.materials, trial))
        return Candidate(
            number, specs, recipe, models, trial_facts.costs_of(self.materials, trial, self.kept), ask.values
        )

    def tell(self, candidate: Candidate, values: Mapping[str, float]) -> None:
        """Objectives by name (costs are known already); one that is no finite number makes the trial a failed one.

        Raises:
            StudyError: a missing or unknown objective, or what is no number.
            UserError: the candidate is not the one that was asked last and not told, or the session is not open.
        """
        self._check_asked(candidate)
        objectives = self.materials.objectives
        if not isinstance(values, Mapping):
            raise StudyError(f"got {values!r}"[:200], path="values", expected=f"numbers by name: {one_of(objectives)}")
        for name in values:
            if name not in objectives:
                raise StudyError(
                    f"'{name}' is no objective", nearest=nearest(name, objectives), expected=one_of(objectives)
                )
        known = {**candidate.costs, **{name: _number(name, value) for name, value in values.items()}}
        missing = [name for name in objectives if name not in known]
        if missing:
            raise StudyError(f"objective '{missing[0]}' was not told", expected=one_of(objectives))
        wrong = {name: known[name] for name in objectives if not math.isfinite(known[name])}
        if wrong:
            self.fail(candidate, f"objective is {wrong}")
            return
        losses = tuple(-known[name] if way == "max" else known[name] for name, way in objectives.items())
        over = tuple(violations(self.materials, known).values())
        self._put(Trial(candidate.number, candidate.values, None, "complete", losses, over))
        self._waiting = None

    def fail(self, candidate: Candidate, error: str | BaseException) -> None:
        """The candidate could not be trained; the controller is told so. Raise UserError as `tell` does."""
        self._check_asked(candidate)
        said = told(error) if isinstance(error, BaseException) else str(error)
        self._put(Trial(candidate.number, candidate.values, None, "failed", error=said))
        self._waiting = None

    def _check_asked(self, candidate: Candidate) -> None:
        if not self._is_open:
            raise UserError("the session is not open", fix=OPEN)
        if candidate is not self._waiting:
            waits = "none" if self._waiting is None else f"candidate {self._waiting.number}"
            problem = (
                f"candidate {candidate.number} was told already, or asked of another session: {waits} is waited for"
            )
            raise UserError(problem, expected="each candidate of `ask` told once")

    def _put(self, trial: Trial) -> None:
        self._told.put(trial)
        self._mirror(trial)

    def _mirror(self, trial: Trial, is_new: bool = True) -> None:
        if self._logs:
            row = trial_facts.row_of(self.materials, trial, self.kept)
            epochs = self.materials.study.config.refine.epochs
            self._logs.put(run_of_trial(self.materials, row, self._told.key, epochs), is_new)

    def best(self) -> dict[str, Any]:
        """The best feasible trial told: its number, specs, values and objectives.

        Raises:
            UserError: none has ended. TrialError: all that ended failed. RefusedError: none keeps the limits.
        """
        if not any(trial.is_over for trial in self.trials):
            raise UserError("no trial was told with its objectives", fix="Tell `session.tell(candidate, {...})` first.")
        found = trial_facts.winners(self.materials, self.trials, 1)[0]
        return trial_facts.row_of(self.materials, found, self.kept) | {"specs": trial_facts.specs_of(found, self.kept)}


def _number(name: str, value: Any) -> float:
    """Of numpy or torch, too."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise StudyError(f"got {value!r}"[:200], path=name, expected="a number") from error
