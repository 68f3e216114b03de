"""Logger: a mirror of a study's trainings in another tool."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

from kdsearch.kinds.options import Capability, O


@dataclass(frozen=True)
class Run:
    """A training as far as it is; told again, with all of it, whenever there is more. The finished study is one, too.

    Args:
        id: in one study unique, and the same after a kill: parts of letters, digits, `_`, `.` and `-`, between slashes.
        name: as a person says it: `trial 3`.
        state: `running` and `paused` (at a rung) go on; the others are its end.
        params: what it was asked for, by names that a person reads.
        curves: name -> points (epoch, value), by epoch; there only grow more. Epochs count from 1, values are finite.
        values: what it came to, finite; units are the metrics' own.
        about: texts: its architecture in words, why it failed.
        files: what it left, by a name that a person reads; not to be copied, but linked.
    """

    id: str
    name: str
    state: str
    params: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return self.state not in ("running", "paused")


class Logger(Capability, Generic[O]):
    """Not its work: what is told, and when. What it raises ends the mirror, and never the study.

    The constructor raises ImportError where its library is not installed, which is said before any work, with the `extra` that it
    was registered with.
    """

    def __init__(self, options: O) -> None:
        self.options = options

    @abstractmethod
    def open(self, folder: Path, study: str) -> None:
        """Once, before anything is put.

        folder: of its own in the study's folder, not made yet. What an earlier run of the study put there is there still.
        study: its name.
        """

    @abstractmethod
    def put(self, run: Run) -> None:
        """Mirror all of it that is not mirrored yet, from an earlier run of the study too: whatever is told twice is there once."""

    @abstractmethod
    def knows(self, id: str) -> bool:
        """Whether the run of that id was put as one that is over, in an earlier run of the study too."""

    def close(self) -> None:
        """Nothing more is put: let go of files and connections."""
