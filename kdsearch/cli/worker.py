"""`kdsearch worker DIR`: lend this machine to a study that runs on another one."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

from kdsearch.cli.options import AllowCode, Folder, Json, option
from kdsearch.errors import printable
from kdsearch.limits import WORKERS


def worker(
    folder: Folder,
    slots: Annotated[int, option("--slots", min=1, max=WORKERS, help="Trials at once on this machine.")] = 1,
    stays: Annotated[bool, option("--stay", help="Wait for the next run where one is over.")] = False,
    allow_code: AllowCode = None,
    as_json: Json = False,
) -> None:
    """Do trials of a study that runs on another machine. Both share its folder. Ctrl-C ends it."""
    from kdsearch.cli.output import answer
    from kdsearch.verbs import commands

    def told(line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads it, and the work goes on
            print(printable(line), file=sys.stderr, flush=True)

    answer(
        lambda: commands.worker(dir=folder, slots=slots, stay=stays, allow_code=tuple(allow_code or ()), told=told),
        as_json,
    )
