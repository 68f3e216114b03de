"""What a run and a worker that joined it from elsewhere tell each other: two files in DIR/workers/ID.

Each side writes one of them, always whole, and reads the other: what holds now, never what has changed. `beat` grows while its
writer lives; a file with a lower one than was seen before is an old copy, and is not read. No clock is compared with another's.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.metadata import distributions, version
from pathlib import Path
from platform import python_version
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from kdsearch.errors import ArtifactError
from kdsearch.hooks import GROUP
from kdsearch.kinds import Job
from kdsearch.limits import WORKERS as MOST
from kdsearch.store.files import read_json
from kdsearch.store.folder import SAID, Member

ORDERS = "orders.json"
BEAT_S = 5.0  # how often a file is written again when nothing has changed
LEASE_S = 30.0  # a worker that has not heard from its run for so long stops its jobs ...
LOST_S = (
    60.0  # ... and a run takes back the jobs of a worker that it has not heard from for so long, and for their grace
)
SAME = ("kdsearch", "torch")  # beside plugins, the distributions whose version decides what a trial gives

Count = Annotated[int, Field(ge=0, strict=True)]


class Head(TypedDict):
    """What every version of kdsearch can read of a run's file."""

    versions: dict[str, str]


class Orders(Head):
    """The run's file.

    run: other for each run of the study. dir: its folder.
    jobs: ticket -> `Job`. stopped: tickets whose job is to checkpoint and end. grace_s, reuse: of the executor.
    """

    run: str
    beat: Count
    dir: str
    environment: dict[str, str]
    grace_s: Annotated[float, Field(ge=0)]
    reuse: bool
    jobs: dict[str, Job]
    stopped: list[str]


class Said(Member):
    """The worker's file.

    run: that whose orders it follows, "" = none. heard: the beat of the orders that it acted on last.
    running, done: of that run; `done`: ticket -> `Done` as text, since JSON files of ours have no NaN, and what a job tells may.
    """

    slots: Annotated[int, Field(ge=1, le=MOST, strict=True)]
    run: str
    beat: Count
    heard: Count
    done: dict[str, str]


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """What has to be the same wherever jobs of one run are done."""
    plugins = {each.name for each in distributions() if each.entry_points.select(group=GROUP)}
    return {"python": python_version(), **{name: version(name) for name in sorted({*SAME, *plugins})}}


def other_versions(theirs: dict[str, str]) -> tuple[str, str]:
    """What differs, here and there, in words; "" = nothing."""
    ours = versions()
    other = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    here, there = (", ".join(f"{name} {each.get(name, 'missing')}" for name in other) for each in (ours, theirs))
    return here, there


def environment() -> dict[str, str]:
    """The variables that a run's jobs have with them."""
    return {name: value for name, value in os.environ.items() if name.startswith("KDSEARCH_")}


def said_by(place: Path) -> Said | None:
    """What the worker of the folder says; None = it has left, or its file is not as it wrote it."""
    found: Said | None = _letter(place / SAID, Said)
    return found


def orders_for(place: Path) -> Orders | None:
    """What the run says to the worker of the folder; None = nothing that this version can read."""
    found: Orders | None = _letter(place / ORDERS, Orders)
    return found


def head_for(place: Path) -> Head | None:
    """As much of that as every version can read."""
    found: Head | None = _letter(place / ORDERS, Head)
    return found


def _letter(file: Path, shape: Any) -> Any:
    try:
        return read_json(file, shape)
    except (OSError, ArtifactError):
        return None


def tidied(place: Path) -> None:
    """Without the worker's folder and what both sides wrote there; of anything else nothing goes."""
    try:
        for each in [*place.iterdir()]:
            if each.name in (ORDERS, SAID) or each.suffix == ".part":
                each.unlink(missing_ok=True)
        place.rmdir()
    except OSError:
        return
