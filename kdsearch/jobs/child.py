"""The process that runs jobs of `JobProcesses`: jobs come in on stdin, a line each; results go to files; fd 3 of the parent's
choice says `t` when a job was taken, `s` when its work begins, `d` when its result is there and `f` when that cannot be written.
When its parent dies it clears the folder of the results and dies, with all it started.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from kdsearch.errors import InterruptedRun
from kdsearch.jobs.perform import perform
from kdsearch.kinds.executor import Done, Job


def main() -> None:
    """Run jobs until the parent closes stdin."""
    status, folder = int(sys.argv[1]), Path(sys.argv[2])
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines, folder), daemon=True).start()
    import torch  # noqa: F401 - the import is not the job's time

    while True:
        order = json.loads(lines.get())
        signal.signal(signal.SIGTERM, _interrupt)
        job = Job(**order["job"])
        os.write(status, b"t")
        try:
            done = perform(job, lambda: os.write(status, b"s"))
        except InterruptedRun:
            done = Done(job.id, error="stopped")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the result is on its way: nothing is left to interrupt
        os.write(status, b"d" if _write(Path(order["result"]), done) else b"f")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise InterruptedRun("stopped")


def _read(lines: queue.SimpleQueue[bytes], folder: Path) -> None:
    """Hand on whole lines; at the end of the pipe (the parent died) clear its folder, end this process and its children."""
    rest = b""
    while chunk := os.read(0, 1 << 20):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            lines.put(line)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _write(path: Path, done: Done) -> bool:
    """Whether the result is there: a disk may be full."""
    try:
        text = json.dumps(vars(done))
    except (TypeError, ValueError) as error:
        text = json.dumps(vars(_unwritable(done, error)))
    partial = path.with_suffix(".part")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except OSError as error:
        print(f"{partial}: {error}", file=sys.stderr)
        return False
    return True


def _unwritable(done: Done, error: Any) -> Done:
    return Done(done.id, error=f"the job's value is no JSON: {error}", seconds=done.seconds)


if __name__ == "__main__":
    main()
