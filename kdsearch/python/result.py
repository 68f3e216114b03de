"""The result of a study in Python: the final JSON, with its figures and tables for a notebook."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from kdsearch.errors import ArtifactError
from kdsearch.report.figures import figures
from kdsearch.report.frames import candidate_rows, export_rows, frame, trial_rows
from kdsearch.report.notebook import Figures
from kdsearch.verbs.finished import evidence_of_last, result_of
from kdsearch.verbs.summary import summary_of


def _told(result: Mapping[str, Any]) -> dict[str, str]:
    """Name -> what a result says, as JSON; without what a run is told of its place and time."""
    return {name: json.dumps(value, sort_keys=True) for name, value in result.items() if name not in ("dir", "seconds")}


class Result(dict[str, Any]):
    """The final JSON of a run, and what is known beside it, which is read from the study's folder when it is asked for.

    The three tables need pandas and raise UserError without it.
    """

    def __init__(self, *told: Any, **named: Any) -> None:
        super().__init__(*told, **named)
        self._folder = Path(self["dir"]).absolute()  # the working directory may change

    @classmethod
    def open(cls, dir: Path | str) -> Result:
        """The result of a finished study. Raise ArtifactError for a folder that is none, or not finished."""
        return cls({**result_of(Path(dir)), "dir": str(dir)})

    def __repr__(self) -> str:
        return summary_of(self, Path(self["dir"]))

    @cached_property
    def evidence(self) -> Mapping[str, Any]:
        """What the page's figures draw: candidates, trials, objectives, curves, ladder, finals and the task's figures.

        Raise ArtifactError where the folder holds another result by now.
        """
        folder = self._folder
        mine, now = _told(self), _told(result_of(folder))
        if changed := [name for name in now if name in mine and mine[name] != now[name]]:
            raise ArtifactError(
                "the folder holds the result of a later run", file=folder, path=changed[0], fix="Open it again."
            )
        return evidence_of_last(folder)

    @property
    def figures(self) -> Figures:
        """Name -> figure that shows itself in a notebook: ladder, weights, front, history, proxies, curves and the task's own."""
        return Figures(figures(self, self.evidence))

    def trials_dataframe(self) -> Any:
        """Trials as a pandas DataFrame: number, state, objectives, costs, architecture in words, what was searched by its path."""
        return frame(trial_rows(self.evidence))

    def candidates_dataframe(self) -> Any:
        """What was scored without training as a pandas DataFrame, the best first."""
        return frame(candidate_rows(self.evidence))

    def exports_dataframe(self) -> Any:
        """The files as a pandas DataFrame: the objective with its interval, bytes, latency, parity."""
        return frame(export_rows(self))
