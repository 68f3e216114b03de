"""One training on several devices: this process is its first rank, the others are processes of their own that run the same job."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kdsearch.engine.ranks import ALONE, Ranks, joined
from kdsearch.errors import InterruptedRun, KdsearchError, RankLostError, TrialError
from kdsearch.kinds import Executor, Job
from kdsearch.store.scratch import Scratch
from kdsearch.study.schema import Use
from kdsearch.training.attempt import from_json
from kdsearch.training.materials import Materials

REASON_S = 5.0  # that an ended rank is given to say why

Place = Mapping[str, Any]  # of a rank: `rank`, `meeting`


@contextmanager
def ranks_of(
    materials: Materials, function: str, arguments: Mapping[str, Any], place: Place | None = None
) -> Iterator[Ranks]:
    """The ranks of one training: `run.devices` processes, this one included.

    Args:
        function: "module:function" that the other ranks run with `arguments` and their `place`. It gives a mapping: `ends`
            (an error that ends the study), `failed` (the training's error), or else.
        place: of this process where it is not the first.

    Raises:
        What another rank failed of. Where this is not the first rank, InterruptedRun once another one has ended.
    """
    world, accelerator = materials.study.config.run.devices, materials.device.accelerator
    if world == 1:
        yield ALONE
    elif place is not None:
        with _ended_by_others(), joined(arrived(place), place["rank"], world, accelerator) as ranks:
            yield ranks
    else:
        scratch = Scratch.make("ranks")
        executor = materials.make("executor", Use(use="processes", options={}), "run.devices")
        executor.slots = world - 1
        try:
            meeting = scratch.path / "meeting"
            for rank in range(1, world):
                given = {**arguments, "place": {"rank": rank, "meeting": str(meeting)}}
                executor.submit(Job(f"device {rank}", function, given, torch.get_num_threads()))
            _await(executor, meeting, world)
            with joined(meeting, 0, world, accelerator) as ranks:
                yield ranks
        except RankLostError as error:
            raise _cause(executor) or error from None
        finally:
            executor.close()
            scratch.close()


@contextmanager
def _ended_by_others() -> Iterator[None]:
    try:
        yield
    except RankLostError as error:
        raise InterruptedRun(error.problem) from None


def arrived(place: Place) -> Path:
    """Say that this rank is ready: whoever waits at the meeting looks out for processes that die before."""
    meeting = Path(place["meeting"])
    _sign(meeting, place["rank"]).touch()
    return meeting


def _sign(meeting: Path, rank: int) -> Path:
    return meeting.with_name(f"ready-{rank}")


def _await(executor: Executor[Any], meeting: Path, world: int) -> None:
    while not all(_sign(meeting, rank).exists() for rank in range(1, world)):
        if (cause := _cause(executor, 0.05)) is not None:
            raise cause


def _cause(executor: Executor[Any], within_s: float = REASON_S) -> KdsearchError | None:
    """Why the first rank to end did so; None where none has said."""
    until = time.monotonic() + within_s
    while True:
        for done in executor.wait(max(until - time.monotonic(), 0.0)):
            if done.error == "stopped":  # as another one had ended
                continue
            if done.error:
                return TrialError(f"{done.id}: {done.error}")
            if "ends" in done.value:
                return from_json(done.value["ends"])
            if "failed" in done.value:
                return TrialError(done.value["failed"])
        if time.monotonic() >= until:
            return None
