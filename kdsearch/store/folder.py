"""The study's folder: who holds it, its format, its log of events."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Discriminator, Field, Tag, with_config
from typing_extensions import TypedDict

from kdsearch.errors import ArtifactError, BusyError, StorageError
from kdsearch.store.artifacts import FORMAT, check_format
from kdsearch.store.files import append_line, read_json, read_lines, storing, write_json
from kdsearch.store.inputs import entries, lies, no_folder

MARK = "kdsearch.json"
STUDY = "study.yaml"  # with every default
ORIGIN = "origin.json"  # where the study's relative paths start, for verbs that know the folder alone
EVENTS = "events.jsonl"
LAST = "last.json"  # stage -> key and seconds of the folder's last run
HOLDER = ".holder.json"
LOCK = ".lock"
PROGRESS = "progress.json"  # of the run that holds the folder
ONCE = "once"  # what teachers and methods make once for all of a study lies in a work folder of this name and a key
TABLE = "table"  # `bench table` works in a folder of this name and a key, as a stage does
WORKERS = "workers"  # in it a folder for each worker that joined from elsewhere
SAID = "said.json"  # in that: what the worker says
_ID = re.compile(r"[0-9a-f]{12}")  # such a folder's name
GLANCE_S = 0.3  # `status` holds the lock for a moment to see whether anybody else does


Key = Annotated[str, Field(pattern=r"^[0-9A-Za-z]{1,64}$")]


class Origin(TypedDict):
    """What origin.json holds."""

    base: str


class Holder(TypedDict):
    """Who holds the folder. `briefly`: to look after what is there; it is no run."""

    host: str
    pid: Annotated[int, Field(strict=True)]
    since: str
    briefly: NotRequired[bool]


class Member(TypedDict):
    """A worker that joined from elsewhere, and which jobs it does."""

    host: str
    pid: Annotated[int, Field(ge=0, strict=True)]
    slots: Annotated[int, Field(ge=1, strict=True)]
    running: list[str]


class Made(TypedDict):
    """A stage of the last run. `stale`: the study has changed since, and what takes its place is not made yet."""

    key: Key
    seconds: Annotated[float, Field(ge=0, strict=True)]
    stale: NotRequired[bool]


class Under(TypedDict):
    """How far the stage is that runs, or ran last."""

    stage: str
    done: Annotated[float, Field(ge=0)]
    total: Annotated[int, Field(ge=0)]
    left_s: Annotated[float, Field(ge=0)] | None
    note: str
    best: str


@with_config(ConfigDict(extra="allow"))
class Line(TypedDict):
    """A line of events.jsonl; further fields by event."""

    time: str
    event: str


class Event(Line):
    error: NotRequired[str]


class StageEvent(Event):
    stage: str
    state: str
    key: Key


class EndedEvent(Line):
    """How a run ended that raised an error; exit code 0: the first one after it that did not."""

    error: str
    exit_code: Annotated[int, Field(strict=True)]


class TrialEvent(Event):
    number: Annotated[int, Field(strict=True)]
    state: str
    losses: list[float]
    feasible: NotRequired[bool]
    key: NotRequired[str]


class TrialsEvent(Event):
    """The trials of a key, for an artifact, are begun or gone on with. `at`: where among their losses `metric` is."""

    key: str
    artifact: str
    total: Annotated[int, Field(strict=True)]
    metric: str
    direction: str
    at: Annotated[int, Field(strict=True)]


def _tag(line: Any) -> str:
    event = line.get("event") if isinstance(line, dict) else None
    return f"@{event}" if event in ("stage", "ended", "trial", "trials") else "@other"


_Any = Annotated[
    Annotated[StageEvent, Tag("@stage")]
    | Annotated[EndedEvent, Tag("@ended")]
    | Annotated[TrialEvent, Tag("@trial")]
    | Annotated[TrialsEvent, Tag("@trials")]
    | Annotated[Event, Tag("@other")],
    Discriminator(_tag),
]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def open_folder(path: Path) -> None:
    """Create the folder, or check that it is a study's folder of a format that can be read."""
    mark = path / MARK
    if lies(mark, error=ArtifactError):
        check_format(read_json(mark), mark, fix="Delete it; `kdsearch run` makes it again.")
        return
    if (problem := no_folder(path)) and not path.exists():
        raise ArtifactError(problem, file=path, expected="a folder", fix="Choose another with --dir.")
    if path.exists() and not path.is_dir():
        raise ArtifactError("is a file", file=path, expected="a folder", fix="Choose another with --dir.")
    if (
        path.exists()
        and not _was_study(path)
        and any(not each.name.startswith(".") for each in entries(path, error=ArtifactError))
    ):
        fix = "Choose another with --dir."
        raise ArtifactError(
            "the folder has other files in it", file=path, expected="a new folder or a study's", fix=fix
        )
    try:
        with storing(path):
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot be made: {error.strerror}", file=path, fix="Choose another with --dir.") from None
    write_json(mark, {"format": FORMAT})


def _was_study(path: Path) -> bool:
    """Whether the folder is a study's whose mark was deleted, as the message about a damaged one asks for."""
    return (path / "artifacts").is_dir() and (path / EVENTS).is_file()


@contextmanager
def held(path: Path, briefly: bool = False) -> Iterator[None]:
    """Hold the folder for this process. Raise BusyError naming host, pid and since when, if another one does.

    The lock is the operating system's: it ends with the process, however that ends.

    Args:
        briefly: no run is begun. What a killed run has left of itself is there afterwards: workers wait for who goes on with it.
    """
    from filelock import FileLock, Timeout

    holder = path / HOLDER
    lock = FileLock(str(path / LOCK))
    try:
        with storing(path):
            lock.acquire(timeout=GLANCE_S)
    except Timeout:
        who = holder_of(path)
        problem = f"in use by pid {who['pid']} on {who['host']} since {who['since']}" if who else "in use"
        raise BusyError(problem, file=path, fix="Wait for it, end it, or choose another folder with --dir.") from None
    left = holder_of(path) if briefly else None
    try:
        me = {"host": socket.gethostname(), "pid": os.getpid(), "since": now()}
        with suppress(StorageError) if briefly else nullcontext():  # `clean` is to make room where the disk is full
            write_json(holder, {**me, "briefly": True} if briefly else me)
        yield
    finally:
        with suppress(OSError, StorageError):
            if left is None or left.get("briefly"):
                holder.unlink(missing_ok=True)
            else:
                write_json(holder, left)
        lock.release()


@contextmanager
def standing(path: Path) -> Iterator[Callable[[], None]]:
    """Of a folder that is held: what goes wrong within, once it was removed, moved or replaced, or its lock was, is told as that.

    Gives a check for moments between pieces of work, which raises StorageError.
    """
    places = {each: _identity(each) for each in (path, path / LOCK)}

    def check() -> None:
        for place, before in places.items():
            if _identity(place) != before:
                problem = "was removed, moved or replaced while a run worked in its folder"
                raise StorageError(
                    problem, file=place, fix="Run the same command again: it goes on with what is there."
                )

    try:
        yield check
    except Exception:
        check()
        raise


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def holder_of(path: Path) -> Holder | None:
    """What the process that holds the folder wrote of itself; None where it has written nothing yet, or somebody spoilt it."""
    try:
        found: Holder = read_json(path / HOLDER, Holder)
    except (FileNotFoundError, ArtifactError):
        return None
    return found


def places_of_workers(path: Path) -> list[Path]:
    """The folders of workers that joined; what else lies there is nobody's."""
    place = path / WORKERS
    try:
        found = [] if place.is_symlink() else sorted(place.iterdir())
    except OSError:
        return []
    return [each for each in found if _ID.fullmatch(each.name) and not each.is_symlink() and each.is_dir()]


def workers_of(path: Path) -> list[Member]:
    """Who joined, as they say; those whose file is not as they wrote it are left out."""
    found: list[Member] = []
    for place in places_of_workers(path):
        with suppress(FileNotFoundError, ArtifactError):
            found.append(read_json(place / SAID, Member))
    return found


def last_run(path: Path) -> dict[str, Made]:
    """Stage -> key and seconds of the folder's last run; {} where there was none. Raise ArtifactError where it is damaged."""
    if not lies(path / LAST, error=ArtifactError):
        return {}
    found: dict[str, Made] = read_json(path / LAST, dict[str, Made])
    return found


def under_way(path: Path) -> Under | None:
    """How far the stage is that the holder of the folder works on; None where nothing is known."""
    try:
        found: Under = read_json(path / PROGRESS, Under)
    except FileNotFoundError:
        return None
    return found


def events_of(path: Path) -> list[dict[str, Any]]:
    """What happened in the folder. Raise ArtifactError for a line that is no event."""
    return read_lines(path / EVENTS, _Any)


def ending_of(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """How the last run ended, where it raised an error; None where it did not, or a stage was begun since."""
    for each in reversed(events):
        if each["event"] == "ended":
            return each if each["exit_code"] else None
        if each["event"] == "stage" and each["state"] == "begun":
            return None
    return None


def is_under_way(path: Path, stage: str, key: str) -> bool:
    """Whether that artifact is what an earlier run began last, and did not finish."""
    with suppress(ArtifactError):
        last = next((each for each in reversed(events_of(path)) if each["event"] == "stage"), None)
        return last is not None and (last["stage"], last["key"]) == (stage, key) and last["state"] != "done"
    return False


def seconds_of(path: Path, stage: str, key: str) -> float:
    """What an artifact of the folder took when it was made, which was not in its last run; 0 where its events do not say."""
    with suppress(ArtifactError):
        for each in reversed(events_of(path)):
            if each["event"] == "stage" and (each["stage"], each["key"], each["state"]) == (stage, key, "done"):
                return float(each.get("seconds", 0.0))
    return 0.0


def seconds_before(path: Path, stage: str, key: str) -> float:
    """What earlier runs spent on an artifact that none of them finished; 0 where the events do not say.

    Of a part that was killed it is the time to the last progress that was kept, where nothing was begun since.
    """
    with suppress(ArtifactError):
        told = [each for each in events_of(path) if each["event"] == "stage"]
        for each in reversed(told):
            if (each["stage"], each["key"]) == (stage, key):
                killed = _until_killed(path, each) if each is told[-1] and each["state"] == "begun" else 0.0
                return 0.0 if each["state"] == "done" else float(each.get("seconds", 0.0)) + killed
    return 0.0


def _until_killed(path: Path, begun: Mapping[str, Any]) -> float:
    with suppress(FileNotFoundError, ArtifactError):
        if (told := under_way(path)) is not None and told["stage"] == begun["stage"]:
            began = datetime.fromisoformat(begun["time"]).timestamp()
            return max((path / PROGRESS).stat().st_mtime - began, 0.0)
    return 0.0


class Events:
    """events.jsonl: what happened, one line each; every line is also handed to the plugins."""

    def __init__(self, path: Path, tell: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self.path, self.tell = path, tell

    def write(self, event: str, **facts: Any) -> None:
        line = {"time": now(), "event": event, **facts}
        append_line(self.path, line)
        if self.tell:
            self.tell(line)
