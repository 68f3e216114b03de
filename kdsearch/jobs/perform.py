"""A job run in this process: by executors that have no other, and by the processes of those that have."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

from kdsearch.errors import FOREIGN, UserError, told
from kdsearch.kinds import Done, Job, listening


def perform(job: Job, begins: Callable[[], object] = lambda: None) -> Done:
    """Run a job here, with its number of torch threads; what it raises becomes the error; an interrupt goes through.

    begins: called once, when the job's work begins.
    """
    from kdsearch.ops.threads import cpu_threads

    begun: list[float] = []

    def begin() -> None:
        if not begun:
            begun.append(time.monotonic())
            begins()

    def seconds() -> float:
        return time.monotonic() - begun[0] if begun else 0.0

    try:
        with cpu_threads(job.threads), listening(begin):
            if not job.opens:
                begin()
            value = resolve(job.function)(**job.arguments)
        return Done(job.id, value, seconds=seconds())
    except FOREIGN as error:
        is_fatal = isinstance(error, UserError)
        return Done(job.id, error=told(error), seconds=seconds(), fatal=is_fatal)


def resolve(function: str) -> Any:
    """The callable at "module:function"."""
    module, _, name = function.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found
