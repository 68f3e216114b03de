"""What a run and a worker that joined it from elsewhere tell each other: two files in DIR/workers/ID.

Each side writes one of them, always whole, and reads the other: what holds now, never what has changed, so that nothing depends on
which versions of a file the other side sees. `beat` grows while its writer lives. No clock is compared with another machine's.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.metadata import distributions, version
from pathlib import Path
from platform import python_version
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from kdsearch.errors import ArtifactError
from kdsearch.hooks import GROUP
from kdsearch.kinds import Done, Job
from kdsearch.store.files import read_json
from kdsearch.store.folder import SAID, Joined

ORDERS = "orders.json"
BEAT_S = 5.0  # how often a file is written again when nothing has changed
LEASE_S = 30.0  # a worker that has not heard from its run for so long stops its jobs ...
LOST_S = (
    60.0  # ... and a run takes back the jobs of a worker that it has not heard from for so long, and for their grace
)
SAME = ("kdsearch", "torch")  # beside plugins, the distributions whose version decides what a trial gives

Count = Annotated[int, Field(ge=0, strict=True)]


class Orders(TypedDict):
    """The run's file.

    run: other for each run of the study. jobs: ticket -> `Job`. stopped: tickets whose job is to checkpoint and end.
    """

    run: str
    beat: Count
    is_over: bool
    dir: str
    versions: dict[str, str]
    environment: dict[str, str]
    grace_s: Annotated[float, Field(ge=0)]
    jobs: dict[str, Job]
    stopped: list[str]


class Said(Joined):
    """The worker's file.

    run: that whose orders it follows, "" = none. running, done: of that run; `done`: ticket -> `Done`.
    """

    run: str
    beat: Count
    done: dict[str, Done]


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """What has to be the same wherever jobs of one run are done."""
    plugins = {each.name for each in distributions() if each.entry_points.select(group=GROUP)}
    return {"python": python_version(), **{name: version(name) for name in sorted({*SAME, *plugins})}}


def environment() -> dict[str, str]:
    """The variables that a run's jobs have with them."""
    return {name: value for name, value in os.environ.items() if name.startswith("KDSEARCH_")}


def said_by(place: Path) -> Said | None:
    """What the worker of the folder says; None = it has left, or its file is not as it wrote it."""
    try:
        found: Said = read_json(place / SAID, Said)
    except (FileNotFoundError, ArtifactError):
        return None
    return found


def orders_for(place: Path) -> Orders | None:
    """What the run says to the worker of the folder; None = nothing yet."""
    try:
        found: Orders = read_json(place / ORDERS, Orders)
    except (FileNotFoundError, ArtifactError):
        return None
    return found
