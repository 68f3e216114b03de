"""Runs the tiny study as a program of its own that checkpoints at every step and, if asked, kills itself.

    python -m tests.stages.driver FOLDER [--kill STAGE:N [--whom run|worker|both]] [--workers N] [--set KEY=VALUE ...]

What changes the study's folder (opening a file to write, renaming, removing, making a folder) is counted by stage. With `--kill`
the process gets SIGKILL right before the N-th such operation of the stage, or the `kdsearch worker` that joined does; without,
`FOLDER/counts.json` gets the counts.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdsearch.errors import InterruptedRun, KdsearchError
from kdsearch.jobs import joined
from kdsearch.store.folder import workers_of
from tests.stages.tiny import run_tiny, watching

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.copyfile", "shutil.rmtree")


class Counted:
    """An audit hook: counts what changes the folder, by the stage that runs."""

    def __init__(self, folder: Path, kill: str, whom: str) -> None:
        self.whom = whom
        self.folder, self.stage, self.counts = str(folder), "prepare", Counter[str]()
        stage, _, number = kill.partition(":")
        self.kill = (stage, int(number)) if kill else None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE)
        if not writes or not str(arguments[0]).startswith(self.folder):
            return
        self.counts[self.stage] += 1
        if self.kill == (self.stage, self.counts[self.stage]):
            for each in workers_of(Path(self.folder)) if self.whom != "run" else ():
                with suppress(ProcessLookupError):  # killed before, and not missed yet
                    os.kill(each["pid"], signal.SIGKILL)
            if self.whom != "worker":
                os.kill(os.getpid(), signal.SIGKILL)

    def seen(self, event: Any) -> None:
        if event["event"] == "stage" and event["state"] == "begun":
            self.stage = event["stage"]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill", default="")
    parser.add_argument("--whom", choices=("run", "worker", "both"), default="run")
    parser.add_argument(
        "--processes", action="store_true", help="with one worker, too; what joined is missed after seconds"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    asked = parser.parse_args()
    counted = Counted(asked.folder / "study", asked.kill, asked.whom)
    if asked.processes:
        joined.LOST_S, joined.BEAT_S = 4.0, 0.3
        asked.sets.append("run.executor={use: processes}")
    sys.addaudithook(counted)
    try:
        result = run_tiny(asked.folder, *asked.sets, workers=asked.workers, host=watching(counted.seen), checkpoint_s=0)
    except (KdsearchError, InterruptedRun) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    (asked.folder / "counts.json").write_text(json.dumps(counted.counts))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
