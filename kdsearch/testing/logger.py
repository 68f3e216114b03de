"""What every logger keeps. A test class inherits `LoggerContract` and says how to make one, and how to read what it wrote."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdsearch.kinds import Logger, Run
from kdsearch.testing.contract import require

BEGUN = Run(
    "refine-0a1b2c/trial-3",
    "trial 3",
    "running",
    {"kd.weight": 0.25, "train.optimizer": "sgd", "train.batch_size": 64, "flag": True},
    {"loss": [(1, 2.5)], "accuracy": [(1, 0.5)]},
)
PAUSED = replace(BEGUN, state="paused", curves={"loss": [(1, 2.5), (2, 1.25)], "accuracy": [(1, 0.5), (2, 0.625)]})
DONE = replace(
    PAUSED,
    state="complete",
    curves={"loss": [(1, 2.5), (2, 1.25), (3, 1.0)], "accuracy": [(1, 0.5), (2, 0.625), (3, 0.75)]},
    values={"accuracy": 0.75, "params": 4096.0},
    about={"architecture": "widths 4-8"},
    files={"student.onnx": Path("somewhere") / "student.onnx"},
)
FAILED = Run("refine-0a1b2c/trial-4", "trial 4", "failed", about={"error": "NaN in kd"})


class LoggerContract:
    """Set `logger` and `read`."""

    def logger(self) -> Logger[Any]:
        """A new one."""
        raise NotImplementedError

    def read(self, folder: Path) -> Mapping[str, Run]:
        """What is in the folder, by id, as the tool's own reader has it; of a run at least state, params, curves and values.

        Params may be texts there. A run whose end is not mirrored may be `running`.
        """
        raise NotImplementedError

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Logger[Any]]:
        """One that was opened for a study, closed afterwards."""
        made = self.logger()
        made.open(folder, "tiny")
        try:
            yield made
        finally:
            made.close()

    def check(self, folder: Path, *runs: Run) -> None:
        """That the folder has these runs, each once and whole, and no others."""
        found = self.read(folder)
        require(sorted(found) == sorted(run.id for run in runs), f"runs {sorted(found)} are there")
        for run in runs:
            seen = found[run.id]
            states = {"paused": "running"}
            of = states.get(seen.state, seen.state), states.get(run.state, run.state)
            require(of[0] == of[1], f"{run.id} is '{of[0]}', and was put as '{of[1]}'")
            params = {name: str(value) for name, value in seen.params.items()}
            require(
                params.keys() == run.params.keys() and all(_alike(params[name], run.params[name]) for name in params),
                f"{run.id} has the params {params}",
            )
            curves, put = _pairs(seen), _pairs(run)
            require(curves == put, f"{run.id} has the curves {curves}, and was put with {put}")
            values, put_values = dict(seen.values), dict(run.values)
            require(values == put_values, f"{run.id} has the values {values}, and was put with {put_values}")

    def test_a_run_is_followed_to_its_end(self) -> None:
        with TemporaryDirectory() as folder:
            place = Path(folder) / "log"
            with self.opened(place) as logger:
                for run in (BEGUN, PAUSED, DONE, FAILED):
                    logger.put(run)
            self.check(place, DONE, FAILED)

    def test_what_is_told_twice_is_there_once(self) -> None:
        with TemporaryDirectory() as folder:
            place = Path(folder) / "log"
            for _ in range(2):
                with self.opened(place) as logger:
                    logger.put(BEGUN)
                    logger.put(BEGUN)
                    logger.put(DONE)
            self.check(place, DONE)

    def test_it_goes_on_with_what_an_earlier_run_of_the_study_left(self) -> None:
        with TemporaryDirectory() as folder:
            place = Path(folder) / "log"
            for runs in ((BEGUN, PAUSED), (DONE,)):
                with self.opened(place) as logger:
                    for run in runs:
                        logger.put(run)
            self.check(place, DONE)

    def test_it_knows_the_ends_that_it_was_told(self) -> None:
        with TemporaryDirectory() as folder:
            place = Path(folder) / "log"
            with self.opened(place) as logger:
                require(not logger.knows(DONE.id), "it knows a run that it was never told of")
                logger.put(PAUSED)
                require(not logger.knows(DONE.id), "it knows the end of a run that is at a rung")
                logger.put(FAILED)
            with self.opened(place) as logger:
                require(logger.knows(FAILED.id), "it has forgotten a run's end when it is opened again")
                require(not logger.knows(DONE.id), "it knows the end of a run that never had one")
                logger.put(DONE)
                require(logger.knows(DONE.id), "it does not know a run's end right after it was told")


def _alike(text: str, value: object) -> bool:
    """Whether a param reads as it was put: tools keep numbers as texts of their own."""
    try:
        return text == str(value) or math.isclose(float(text), float(value), rel_tol=1e-6)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _pairs(run: Run) -> dict[str, list[tuple[int, float]]]:
    """The curves, whose points a reader may have as lists."""
    return {name: [(epoch, value) for epoch, value in points] for name, points in run.curves.items()}
