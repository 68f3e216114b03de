"""Executor: where trials run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

from kdsearch.errors import PluginError
from kdsearch.kinds.options import Capability, O

PLACE = "run.executor"  # where a study names it


@dataclass(frozen=True)
class Job:
    """`function` is "module:function", called with the keyword arguments `arguments` (JSON); it returns a JSON value.

    It may be begun again where it was cut off by no fault of its own, and goes on from what it has written.

    alone: in a process that has run nothing before, where jobs run in processes of their own.
    opens: it first opens what it works on, and calls `work_begins` then: `timeout_s` and `Done.seconds` count from there.
    folder: that it reads and writes, as an absolute path: on whatever machine it runs, it has to be there; "" = none.
    """

    id: str
    function: str
    arguments: Mapping[str, Any]
    threads: int = 1
    timeout_s: float | None = None
    memory_bytes: int | None = None
    alone: bool = False
    opens: bool = False
    folder: str = ""


@dataclass(frozen=True)
class Done:
    """A finished job: its JSON value, or the error's text.

    fatal: the error is the study's, not the trial's.
    over: the limit of the job that it was ended for, `timeout_s` or `memory_bytes`: with a higher one it is tried again.
    """

    id: str
    value: Any = None
    error: str = ""
    seconds: float = 0.0
    fatal: bool = False
    over: str = ""


_listener: ContextVar[Callable[[], None] | None] = ContextVar("listener", default=None)


def work_begins() -> None:
    """Said by the function of a job that `opens`: what it works on is open, its time counts from now. The first word counts."""
    if (listener := _listener.get()) is not None:
        listener()


@contextmanager
def listening(begins: Callable[[], None]) -> Iterator[None]:
    """For executors: `begins` is called where the job that runs inside says `work_begins`, perhaps more than once."""
    before = _listener.set(begins)
    try:
        yield
    finally:
        _listener.reset(before)


class Executor(Capability, Generic[O]):
    """Not its work: pickles; jobs that failed, which are never run again. One whose machine was lost has not failed: an executor
    that can lose machines runs it again on another, so many times, and says then that it failed of that.

    `submit` and `wait` raise KdsearchError where no job can run at all.

    remote: False = jobs run in the process that waits for them, one at a time: live objects are at hand there, and no limit
        of time or memory can be kept. A study with live objects takes such an executor, and one with several workers does not.
    joinable: its jobs may also be done by `kdsearch worker DIR`, wherever that runs.
    slots: how many jobs run at once; a study sets it to its workers.
    """

    remote: ClassVar[bool] = True
    joinable: ClassVar[bool] = False
    slots: int = 1

    def __init__(self, options: O) -> None:
        self.options = options

    @abstractmethod
    def submit(self, job: Job) -> None: ...

    @abstractmethod
    def wait(self, timeout_s: float) -> list[Done]:
        """Jobs that ended since the last call; waits at most so long for the first."""

    @abstractmethod
    def stop(self, id: str) -> None:
        """End a job: its process is asked to checkpoint and is killed when it does not."""

    def close(self) -> None:
        """Stop every job."""


def ended(executor: Executor[Any], timeout_s: float) -> list[Done]:
    """What the study's executor says has ended. Raise PluginError where it says something else than that."""
    found: object = executor.wait(timeout_s)
    if not isinstance(found, list | tuple) or not all(isinstance(each, Done) for each in found):
        problem = f"`wait` of executor {type(executor).__name__} gives {found!r}"
        raise PluginError(problem, path=PLACE, expected="a list of kdsearch.kinds.Done, empty where nothing has ended")
    return [*found]
