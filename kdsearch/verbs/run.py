"""Run a study in its folder, which is held for this process; Ctrl-C and SIGTERM end it after a checkpoint."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsearch.errors import INTERRUPTS, ArtifactError, InterruptedRun, KdsearchError, UserError, told, without_password
from kdsearch.host import Host
from kdsearch.store.files import remove, write_bytes, write_json
from kdsearch.store.folder import (
    EVENTS,
    LAST,
    ORIGIN,
    PROGRESS,
    STUDY,
    Events,
    ending_of,
    events_of,
    held,
    open_folder,
    standing,
)
from kdsearch.store.inputs import lies, regular
from kdsearch.study.reading import load_study
from kdsearch.study.study import Study
from kdsearch.training.job import open_store

if TYPE_CHECKING:
    from kdsearch.training.materials import Materials
    from kdsearch.training.tools import Tools


def run(
    *,
    file: Path,
    dir: Path | None = None,
    workers: int | None = None,
    seed: int | None = None,
    pick: str | None = None,
    sets: tuple[str, ...] = (),
    allow_code: tuple[str, ...] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Run a study file in its folder; the final JSON."""
    host = Host.load()
    study = load_study(file, host, allow_code, sets, seed, pick=pick)
    folder = dir if dir is not None else Path(file).parent / Path(file).stem
    return run_study(
        study,
        host,
        folder,
        workers=workers,
        progress=progress,
        again=_again(file, dir, workers, seed, pick, sets, allow_code),
    )


def run_study(
    study: Study,
    host: Host,
    folder: Path,
    *,
    workers: int | None = None,
    progress: bool = True,
    again: str = "run the same command again",
    checkpoint_s: float = 30.0,
    by_hand: Collection[str] = (),
) -> dict[str, Any]:
    """Run a checked study in a folder, held for this process. `by_hand`: see `publish`.

    Raises:
        UserError (2), RefusedError (3), BusyError and StorageError (1), InterruptedRun (130) after a checkpoint.
    """
    from kdsearch.stages.run import publish, run_stages

    with at_work(study, host, folder, workers, progress, again, checkpoint_s) as (materials, tools):
        made = run_stages(materials, tools)
        tools.intact()
        return publish(materials, made, tools, by_hand)


@contextmanager
def at_work(
    study: Study,
    host: Host,
    folder: Path,
    workers: int | None = None,
    progress: bool = True,
    again: str = "run the same command again",
    checkpoint_s: float = 30.0,
) -> Iterator[tuple[Materials, Tools]]:
    """The study opened and checked, and its folder held, for whoever makes its artifacts. Raises as `run_study` does."""
    from kdsearch.deploy.latency import check_cache
    from kdsearch.stages.ends import check_ends
    from kdsearch.study.check import check_executor
    from kdsearch.training.logs import Logs
    from kdsearch.training.materials import open_materials
    from kdsearch.training.tools import Progress, Tools
    from kdsearch.verbs.preflight import check_storage, preflight

    preflight(study, host)
    materials = open_materials(study, host, folder)  # before the folder exists: wrong input leaves nothing behind
    check_cache()
    check_storage(study)
    check_ends(materials)
    count = workers if workers is not None else study.config.run.workers
    check_executor(study, study.host(host), count)
    logs = Logs.of(materials)
    with _leaving_nothing(folder), held(folder), standing(folder) as intact, stoppable() as stop:
        last = write_study(study, folder)
        store = open_store(study, folder)
        tools = Tools(
            store,
            Events(folder / EVENTS, host.event),
            folder,
            Progress(progress, file=folder / PROGRESS),
            stop,
            count,
            checkpoint_s,
            intact,
            logs,
        )
        logs.open(folder, study.config.name)
        if other := _other_name(last, study.config.name):
            tools.progress.say(f"{folder} was of the study '{other}' so far, and is of '{study.config.name}' now")
        try:
            with _ending_told(tools):
                yield materials, tools
        except KeyboardInterrupt:
            raise InterruptedRun(f"interrupted; to go on: {again}") from None
        except InterruptedRun as error:
            raise InterruptedRun(f"{error.problem}; to go on: {again}") from None
        finally:
            logs.close()


@contextmanager
def _ending_told(tools: Tools) -> Iterator[None]:
    """A run that ends with an error says so in the events, for `kdsearch status`, and so does the next one that does not."""

    def tell(error: str, code: int) -> None:
        with suppress(KdsearchError, OSError):  # the folder may be what it failed of
            tools.intact()
            last = ending_of(events_of(tools.folder))
            if (last["error"], last["exit_code"]) != (error, code) if last else code:
                tools.events.write("ended", error=error, exit_code=code)

    try:
        yield
    except (Exception, *INTERRUPTS) as error:
        tell(told(error), getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1))
        raise
    tell("", 0)


def write_study(study: Study, folder: Path) -> bytes | None:
    """The study and where its paths start, for processes and verbs that know the folder alone; returns the one that was there."""
    text, here = study.resolved_yaml().encode(), folder / STUDY
    last = regular(here, "a study", error=ArtifactError).read_bytes() if lies(here) else None
    if last != text:
        write_bytes(here, text)
    write_json(folder / ORIGIN, {"base": _relative(study.folder, folder)})
    return last


def _other_name(text: bytes | None, name: str) -> str:
    """The name in a folder's study, where it is another one; "" else."""
    found = re.search(r"^name: (.+)$", (text or b"").decode(errors="replace"), re.MULTILINE)
    return found[1] if found and found[1].strip("'\"") != name else ""


@contextmanager
def _leaving_nothing(folder: Path) -> Iterator[None]:
    """Open the folder; where the user's input proves wrong before any work is done, a folder made now goes again."""
    was_there = lies(folder, error=ArtifactError)
    open_folder(folder)
    try:
        yield
    except UserError:
        if not was_there and not (folder / LAST).exists() and not _is_worked_in(folder):
            remove(folder)
        raise


def _is_worked_in(folder: Path) -> bool:
    """Whether anything lies there that a run would go on with: artifacts, answers that were paid for, what a stage was at."""
    return any(each.is_file() for name in ("artifacts", "texts", "work") for each in (folder / name).rglob("*"))


def _relative(base: Path, folder: Path) -> str:
    """From the study's folder to where its paths start, so that both may be moved together."""
    try:
        return os.path.relpath(base.resolve(), folder.resolve())
    except ValueError:  # another drive
        return str(base.resolve())


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM set a flag that trainings ask for after every step; a second Ctrl-C ends at once."""
    asked = {"stop": False}

    def on_signal(number: int, _: Any) -> None:
        if asked["stop"]:
            raise KeyboardInterrupt
        asked["stop"] = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    if any(getattr(signal.getsignal(each), "came", False) for each in (signal.SIGINT, signal.SIGTERM)):
        raise KeyboardInterrupt  # it came while a library was imported, and was swallowed there
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked["stop"]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _again(
    file: Path,
    dir: Path | None,
    workers: int | None,
    seed: int | None,
    pick: str | None,
    sets: tuple[str, ...],
    allow_code: tuple[str, ...],
) -> str:
    return command("run", file, {"--dir": dir, "--workers": workers, "--seed": seed, "--pick": pick}, sets, allow_code)


def command(
    verb: str, file: Path, options: Mapping[str, Any], sets: tuple[str, ...], allow_code: tuple[str, ...]
) -> str:
    """A command line that does the same again, passwords apart; options that are None are left out."""
    import shlex

    words = ["kdsearch", *verb.split(), str(file)]
    for name, value in options.items():
        words += [name, str(value)] if value is not None else []
    for each in sets:
        words += ["--set", without_password(each)]
    for each in allow_code:
        words += ["--allow-code", each]
    return shlex.join(words)
