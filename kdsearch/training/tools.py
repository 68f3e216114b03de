"""What a stage works with beside its inputs: store, events, progress, a stop flag, and the study's executor."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdsearch.errors import FOREIGN, InterruptedRun, StorageError, printable, told
from kdsearch.kinds import Executor
from kdsearch.report.values import about
from kdsearch.store.artifacts import Store
from kdsearch.store.files import write_json
from kdsearch.store.folder import Events
from kdsearch.training.logs import Logs
from kdsearch.training.materials import Materials

CELL_S = 0.25  # between two pictures of a notebook's bar
EARLY = 0.05  # of what a run has to do in a stage, before which no time left is guessed
KEPT_S = 2.0  # between two versions of the file


class Progress:
    """What a person sees: a bar on a terminal or in a notebook's cell, else one plain line on stderr every 10 s.

    `shown=False`: nothing. With a `file`, it also holds the same as JSON, for `kdsearch status` in another process.
    """

    def __init__(self, shown: bool = True, every_s: float = 10.0, file: Path | None = None) -> None:
        self.shown, self.every_s, self.file = shown, every_s, file
        self.stage, self.total, self.done, self.note, self.best = "", 0, 0.0, "", ""
        self._had = 0.0
        self._first: tuple[float, float] | None = None  # when this run had done something, and what there was by then
        self._began = self._told = self._kept = time.monotonic()
        self._bar: Any = None
        self._line: Any = None
        self._cell: Any = None  # where a notebook shows the bar

    def begin(self, stage: str, total: int) -> None:
        """`total` units of work (candidates, trainings) in this stage."""
        self.end()
        self.stage, self.total, self.done, self.note, self.best, self._had = stage, total, 0.0, "", "", 0.0
        self._began = self._told = time.monotonic()
        self._first = None
        self._keep()
        display = notebook_display() if self.shown else None
        if self.shown and (display or sys.stderr.isatty()):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description:9}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._line = self._bar.add_task(stage, total=total, note="", rate="")
            if display:  # rich's own live display there needs ipywidgets; a cell's output can be shown anew without
                self._cell = display(self._bar, display_id=True)
            else:
                self._bar.start()

    def had(self, done: float) -> None:
        """So many of the units were done by an earlier run: they are progress, and no sign of this run's pace."""
        self._had += done
        if self._first is not None:
            self._first = self._first[0], self._first[1] + done

    def anew(self) -> None:
        """What follows is work of another kind: what was done so far is no sign of its pace."""
        self._had, self._first, self._began = self.done, None, time.monotonic()

    def more(self, units: float) -> None:
        """So many more units than `begin` was told of."""
        self.total += int(units)
        if self._bar is not None:
            self._bar.update(self._line, total=self.total)

    @property
    def rate(self) -> float:
        """Units a second since the first was seen, before which processes start; until enough came after it, of all the time."""
        began, had = self._began, self._had
        if self._first is not None and self.done - self._first[1] >= EARLY * (self.total - self._had):
            began, had = self._first
        return max(self.done - had, 0.0) / max(time.monotonic() - began, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Seconds left at this run's rate; None where too little is done to tell."""
        fresh, rate = self.done - self._had, self.rate
        return max(self.total - self.done, 0.0) / rate if rate and fresh >= EARLY * (self.total - self._had) else None

    def at(self, done: float, note: str = "", best: str = "") -> None:
        """`done` units so far; `note`: what runs; `best`: the best so far."""
        self.done, self.note, self.best = done, note or self.note, best or self.best
        now = time.monotonic()
        if self._first is None and done > self._had:
            self._first = now, done
        if now - self._kept >= KEPT_S:
            self._keep()
        if not self.shown:
            return
        said = [_pace(self.rate)] if self.total > 1 and self.rate else []  # one piece of work has no rate
        said += [f"{about(self.left_s)} left"] if self.left_s is not None else []
        if self._bar is not None:
            self._bar.update(self._line, completed=done, note=f"{self.note}  {self.best}", rate=", ".join(said))
            if self._cell is not None and now - self._told >= CELL_S:
                self._told = now
                self._cell.update(self._bar)
        elif now - self._told >= self.every_s:
            self._told = now
            share = f"{100 * done / max(self.total, 1):.0f} %" + (f" of {self.total}" if self.total > 1 else "")
            brackets = f" ({', '.join(said)})" if said else ""
            self._line_of(f"{self.stage}: {share}{brackets} {self.note}  {self.best}".rstrip())

    def _keep(self) -> None:
        """What the file says. A study goes on where it cannot be written."""
        self._kept = time.monotonic()
        if self.file is None:
            return
        now = {"stage": self.stage, "done": round(self.done, 4), "total": self.total, "left_s": self.left_s}
        with suppress(OSError, StorageError):
            write_json(self.file, {**now, "note": self.note, "best": self.best})

    def say(self, text: str) -> None:
        """One line for people."""
        if self.shown:
            self._line_of(text)

    def _line_of(self, text: str) -> None:
        """A study goes on where nobody can be told: stderr is closed, or what it was sent to is full."""
        with suppress(OSError, ValueError):
            if self._bar is not None and self._cell is None:
                self._bar.console.print(printable(text), markup=False, highlight=False)
            else:
                print(printable(text), file=sys.stderr, flush=True)

    def end(self, is_done: bool = False) -> None:
        """The stage's work is over: a bar stays as it is, full where the stage is done."""
        if self._bar is not None and is_done:
            self._bar.update(self._line, completed=self.total)
        if self._cell is not None:
            self._cell.update(self._bar)
        elif self._bar is not None:
            self._bar.stop()
        self._bar = self._cell = None


def _pace(rate: float) -> str:
    """`120/s`, `3.2/s`, `one every 25 s`: with several workers each takes longer than that."""
    if rate < 1:
        return f"one every {about(1 / rate).removeprefix('about ')}"
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


def notebook_display() -> Callable[..., Any] | None:
    """IPython's `display` where a notebook's kernel runs this program; None elsewhere."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:
        return None
    from IPython.display import display

    return display


@dataclass
class Tools:
    """Handed to every stage.

    Args:
        folder: the study's. checkpoint_s: between checkpoints of a training.
        intact: raises where the folder was taken away under the run.
        logs: the study's mirrors, open.
    """

    store: Store
    events: Events
    folder: Path
    progress: Progress = field(default_factory=Progress)
    stop: Callable[[], bool] = lambda: False
    workers: int = 1
    checkpoint_s: float = 30.0
    intact: Callable[[], None] = lambda: None
    logs: Logs = field(default_factory=Logs)
    _executor: Executor[Any] | None = field(default=None, init=False)

    def executor(self, materials: Materials) -> Executor[Any]:
        """The study's executor, opened when it is first asked for: its processes stay warm from stage to stage."""
        if self._executor is None:
            self._executor = materials.make("executor", materials.study.executor, "run.executor")
            if self._executor.remote:
                self._executor.slots = self.workers
        return self._executor

    def close(self) -> None:
        """End the executor's processes. What it raises is said: nothing that is done depends on it."""
        executor, self._executor = self._executor, None
        if executor is not None:
            try:
                executor.close()
            except FOREIGN as error:
                self.progress.say(f"executor {type(executor).__name__} could not be closed: {told(error)}")

    def heed_stop(self) -> None:
        """Between pieces of work that are kept whole. Raise InterruptedRun where Ctrl-C or SIGTERM asked for it, StorageError where
        the folder is no longer there.
        """
        self.intact()
        if self.stop():
            raise InterruptedRun("stopped; what is done is kept")


@dataclass(frozen=True)
class Limits:
    """Of one training in a process of its own: seconds, and bytes resident; a training beyond them is ended and has failed."""

    timeout_s: float | None = None
    memory_bytes: int | None = None


UNLIMITED = Limits()


def limits_of(materials: Materials) -> Limits:
    """What the study allows a trial."""
    run = materials.study.config.run
    return Limits(run.trial_timeout_s, run.trial_memory_bytes)


@dataclass(frozen=True)
class Address:
    """How a job finds a study again.

    Args:
        dir: the study's folder, absolute. base: where the paths in it start: the folder of the user's file.
        stage, reads: whose view of the study the job gets, and what that stage declares to read; "" = everything is open.
        prepared: key of the artifact whose recipes' data students get; "" = the data set as it was given.
        accelerator: what the study computes on where it runs; "" = whatever the job's machine has.
    """

    dir: str
    base: str
    allow_code: Sequence[str] = ()
    stage: str = ""
    reads: Sequence[str] = ()
    prepared: str = ""
    accelerator: str = ""

    @property
    def folder(self) -> Path:
        return Path(self.dir)


def address_of(materials: Materials, tools: Tools) -> dict[str, Any]:
    """`Address` of the study as this stage sees it, as JSON values."""
    study = materials.study
    address = Address(
        str(tools.folder.absolute()),
        str(study.folder.resolve()),
        list(study.allow_code),
        materials.stage,
        list(materials.reads),
        materials.prepared,
        materials.device.accelerator,
    )
    return vars(address)
