"""One row of the table of hostile inputs, and what every row must keep to."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdsearch.cli import main

LONGEST_S = 30  # of one row; what hangs is ended and has failed
STUDY = """\
data: {use: npz, options: {path: d.npz}}
teacher: {use: trained, options: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [4, 4, 4]}, epochs: 1}}
student: {space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [4, 4, 4]}}
recipe: {distillers: [{use: kd}]}
search: {candidates: 1, keep: 1, proxy: params}
refine: {trials: 1, epochs: 1}
distill: {epochs: 1, controls: []}
export: {formats: [onnx-fp32]}
"""


@dataclass(frozen=True)
class Row:
    """A command that must be refused.

    Args:
        name: unique in the table.
        message: regular expression that the one line on stderr must contain.
        arguments: of `kdsearch`; they run in an empty folder that `arrange` may fill.
        code: the exit code.
        sets: `--set`s that are added.
    """

    name: str
    message: str
    arguments: Sequence[str] = ("validate", "study.yaml")
    arrange: Callable[[Path], Any] = lambda _: None
    code: int = 2
    sets: Sequence[str] = field(default=())

    def __str__(self) -> str:
        return self.name


def sets(table: dict[str, str], verb: str = "validate") -> list[Row]:
    """Rows of settings alone: `--set` -> message."""
    return [
        Row(f"{verb} {shown(text)}", message, (verb, "study.yaml"), sets=(text,)) for text, message in table.items()
    ]


def shown(text: str) -> str:
    """A row's name from its text: short, and nothing in it that a terminal or a file system minds."""
    return re.sub(
        r"[^ -~]", lambda found: f"<{ord(found[0]):x}>", text if len(text) < 70 else f"{text[:60]}...({len(text)})"
    )


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in what takes longer."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def every(root: Path) -> dict[str, tuple[int, int]]:
    """What is below a folder: path -> mode and time of change."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            about = os.lstat(path)
            found[os.fsencode(path).decode("latin1")] = (about.st_mode, about.st_mtime_ns if name in files else 0)
    return found


def check(row: Row, capsys: Any, folder: Path, own: Path) -> None:
    """Run a row in `folder`; `own` is the only folder in which something new may be."""
    before = every(folder.parent)
    arguments = [*row.arguments, *(word for text in row.sets for word in ("--set", text))]
    with within(LONGEST_S):
        code = main(arguments)
    out, err = capsys.readouterr()
    assert code == row.code, (code, out, err)
    assert "Traceback" not in err
    assert re.search(row.message, err), err
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1, f"more than one line: {err}"
    assert len(err) < 6000, f"{len(err):,} characters"
    inside = os.fsencode(own).decode("latin1")
    after = {path: about for path, about in every(folder.parent).items() if not path.startswith(inside)}
    assert after == {path: about for path, about in before.items() if not path.startswith(inside)}
