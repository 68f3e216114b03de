"""What a stage works with beside its inputs: store, events, progress, a stop flag, workers; and running many trainings."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdsearch.engine.cache import Live
from kdsearch.engine.loop import Report
from kdsearch.errors import InterruptedRun, printable
from kdsearch.kinds import Job
from kdsearch.stages.attempt import attempt, from_json
from kdsearch.stages.materials import Materials
from kdsearch.stages.training import Outcome, Request, train_shared
from kdsearch.store.artifacts import Artifact, Store
from kdsearch.store.folder import Events
from kdsearch.study.schema import Use

SHARE = "share"  # file in a training's folder
EARLY = 0.05  # of a stage, before which no time left is guessed


class Progress:
    """What a person sees on stderr: a bar on a terminal, else one plain line every 10 s. `shown=False`: nothing."""

    def __init__(self, shown: bool = True, every_s: float = 10.0) -> None:
        self.shown, self.every_s = shown, every_s
        self.stage, self.total, self.done, self.note, self.best = "", 0, 0.0, "", ""
        self._began = self._told = time.monotonic()
        self._bar: Any = None
        self._line: Any = None

    def begin(self, stage: str, total: int) -> None:
        """`total` units of work (candidates, trainings) in this stage."""
        self.end()
        self.stage, self.total, self.done, self.note, self.best = stage, total, 0.0, "", ""
        self._began = self._told = time.monotonic()
        if self.shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description:9}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._line = self._bar.add_task(stage, total=total, note="", rate="")
            self._bar.start()

    def at(self, done: float, note: str = "", best: str = "") -> None:
        """`done` units so far; `note`: what runs; `best`: the best so far."""
        self.done, self.note, self.best = done, note or self.note, best or self.best
        if not self.shown:
            return
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = f"{done / seconds:.2g}/s"
        if self._bar is not None:
            self._bar.update(self._line, completed=done, note=f"{self.note}  {self.best}", rate=rate)
        elif time.monotonic() - self._told >= self.every_s:
            self._told = time.monotonic()
            share = f"{100 * done / max(self.total, 1):.0f} %"
            left = [] if done < EARLY * self.total else [f"about {(self.total - done) * seconds / done:.0f} s left"]
            if self.total > 1:  # one piece of work has no rate
                share, left = f"{share} of {self.total}", [rate, *left]
            brackets = f" ({', '.join(left)})" if left else ""
            text = f"{self.stage}: {share}{brackets} {self.note}  {self.best}"
            self._line_of(text.rstrip())

    def say(self, text: str) -> None:
        """One line for people."""
        if self.shown:
            self._line_of(text)

    def _line_of(self, text: str) -> None:
        """A study goes on where nobody can be told: stderr is closed, or what it was sent to is full."""
        with suppress(OSError, ValueError):
            if self._bar is not None:
                self._bar.console.print(printable(text), markup=False, highlight=False)
            else:
                print(printable(text), file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@dataclass
class Tools:
    """Handed to every stage. `folder`: the study's; `checkpoint_s`: between checkpoints of a training."""

    store: Store
    events: Events
    folder: Path
    progress: Progress = field(default_factory=Progress)
    stop: Callable[[], bool] = lambda: False
    workers: int = 1
    checkpoint_s: float = 30.0

    def heed_stop(self) -> None:
        """Raise InterruptedRun where Ctrl-C or SIGTERM asked for it: between pieces of work that are kept whole."""
        if self.stop():
            raise InterruptedRun("stopped; what is done is kept")


@dataclass(frozen=True)
class Limits:
    """Of one training in a process of its own: seconds, and bytes resident; a training beyond them is ended and has failed."""

    timeout_s: float | None = None
    memory_bytes: int | None = None


def run_trainings(
    materials: Materials,
    requests: Sequence[Request],
    work: Path,
    prepared: Artifact,
    teachers: Mapping[str, Live],
    tools: Tools,
    limits: Limits = Limits(),
    since: float = 0.0,
) -> dict[str, Outcome | str]:
    """Name -> outcome, or the error's text of one that failed. Results do not depend on workers or on who ends first.

    Errors that are the user's, the disk's or an interruption end the study; all others are the training's own.

    since: the share of their length that they are trained already, for the progress that is shown.
    """
    if is_in_process(materials, tools.workers):
        return _here(materials, requests, work, prepared, teachers, tools, since)
    return _elsewhere(materials, requests, work, prepared, tools, limits, since)


def is_in_process(materials: Materials, workers: int) -> bool:
    """Whether trainings run in this process: it can keep no limit of time or memory."""
    return workers == 1 and executor_name(materials) == "inprocess" and limits_of(materials) == Limits()


def limits_of(materials: Materials) -> Limits:
    """What the study allows a trial."""
    run = materials.study.config.run
    return Limits(run.trial_timeout_s, run.trial_memory_bytes)


def executor_name(materials: Materials) -> str:
    return materials.study.config.run.executor.use


def _here(
    materials: Materials,
    requests: Sequence[Request],
    work: Path,
    prepared: Artifact,
    teachers: Mapping[str, Live],
    tools: Tools,
    since: float,
) -> dict[str, Outcome | str]:
    found: dict[str, Outcome | str] = {}
    for request in requests:
        base, worth = tools.progress.done, request.until - since

        def moved(_: str, at: int, of: int, loss: float, request: Request = request, base: float = base) -> None:
            share = min(max(at / of, since), request.until)
            tools.progress.at(base + share - since, f"{request.name}: loss {loss:.4g}")

        def call(request: Request = request, report: Report = Report(step=moved)) -> Outcome:  # noqa: B008 - bound now
            order = _order(materials, request, work, prepared, tools)
            return train_shared(materials, request, order, teachers, tools.stop, report)

        found[request.name] = attempt(call, work / request.name)
        tools.progress.at(base + worth)
    return found


def _elsewhere(
    materials: Materials,
    requests: Sequence[Request],
    work: Path,
    prepared: Artifact,
    tools: Tools,
    limits: Limits,
    since: float,
) -> dict[str, Outcome | str]:
    config = materials.study.config.run
    executor = open_executor(materials, tools.workers)
    found: dict[str, Outcome | str] = {}
    waiting = list(requests)[::-1]
    worths = {request.name: request.until - since for request in requests}
    running: set[str] = set()
    ended = tools.progress.done
    try:
        while waiting or running:
            while waiting and len(running) < executor.slots:
                request = waiting.pop()
                executor.submit(
                    Job(
                        request.name,
                        "kdsearch.stages.job:train_job",
                        _order(materials, request, work, prepared, tools),
                        config.threads_per_trial,
                        limits.timeout_s,
                        limits.memory_bytes,
                    )
                )
                running.add(request.name)
            for done in executor.wait(0.5):
                running.discard(done.id)
                if not done.error and "ends" in done.value:
                    raise from_json(done.value["ends"])
                found[done.id] = done.error or done.value.get("failed") or Outcome(**done.value["outcome"])
                ended += worths[done.id]
            under_way = [min(max(share_of(work / name) - since, 0.0), worths[name]) for name in sorted(running)]
            tools.progress.at(ended + sum(under_way), f"{len(running)} running")
            if tools.stop():
                raise InterruptedRun("stopped; running trials were asked to checkpoint")
    finally:
        executor.close()
    return found


def _order(materials: Materials, request: Request, work: Path, prepared: Artifact, tools: Tools) -> dict[str, Any]:
    """The arguments of `stages.job.train_job`."""
    return {
        **where(materials, tools),
        "prepared": prepared.key,
        "request": request.as_json(),
        "work": str(work / request.name),
        "checkpoint_s": tools.checkpoint_s,
    }


def tell_share(folder: Path, every_s: float = 5.0) -> Report:
    """What a training in a process of its own leaves in its folder, for `share_of`: how much of its length is done."""
    told = {"at": float("-inf")}

    def moved(_: str, at: int, of: int, loss: float) -> None:
        if time.monotonic() - told["at"] >= every_s:
            told["at"] = time.monotonic()
            with suppress(OSError):  # a full disk is the checkpoint's to report
                folder.mkdir(parents=True, exist_ok=True)
                (folder / SHARE).write_text(f"{at / of:.4f}")

    return Report(step=moved)


def share_of(folder: Path) -> float:
    """The last share told; 0 where there is none, or where it is being written."""
    try:
        return float((folder / SHARE).read_text())
    except (OSError, ValueError):
        return 0.0


def open_executor(materials: Materials, workers: int, short_jobs: bool = False) -> Any:
    """The study's executor with so many slots; `inprocess` becomes `processes` where it cannot do what is asked.

    short_jobs: starting a process would take longer than a job, so one process does many.
    """
    use = materials.study.config.run.executor
    if use.use == "inprocess" and not is_in_process(materials, workers):
        use = Use(use="processes", options={"reuse": short_jobs})
    executor = materials.make("executor", use, "run.executor")
    executor.slots = workers
    return executor


def where(materials: Materials, tools: Tools) -> dict[str, Any]:
    """How a job finds the study again."""
    study = materials.study
    return {
        "dir": str(tools.folder),
        "base": str(study.folder.resolve()),
        "allow_code": list(study.allow_code),
        "stage": materials.stage,
    }
