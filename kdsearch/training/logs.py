"""A study's mirrors (`run.log`): told of every training, guarded, so that none of them can end or change the study."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdsearch.errors import FOREIGN, told
from kdsearch.kinds import Logger, Run
from kdsearch.training.materials import Materials, placing

FOLDER = "log"  # in the study's


class Logs:
    """The loggers by name. One that raises is closed and told no more; `notes` says so."""

    def __init__(self, loggers: dict[str, Logger[Any]] | None = None) -> None:
        self._loggers = loggers or {}
        self.notes: list[str] = []

    @classmethod
    def of(cls, materials: Materials) -> Logs:
        """Those that the study names. Raise PluginError, naming the pip command, where what one needs is not installed."""
        found: dict[str, Logger[Any]] = {}
        for i, use in enumerate(materials.study.config.run.log):
            path = f"run.log[{i}]"
            name = use.use.rpartition(":")[2]
            name = name if name not in found else f"{name}-{i}"
            with placing(materials.study, path):
                found[name] = materials.make("logger", use, path)
        return cls(found)

    def __bool__(self) -> bool:
        return bool(self._loggers)

    def open(self, folder: Path, study: str) -> None:
        """folder: the study's, which holds one for each logger."""
        self._each(lambda name, logger: logger.open(folder / FOLDER / name, study))

    def put(self, run: Run, is_new: bool = True) -> None:
        """is_new: False = a logger that knows the run's end, from an earlier run of the study, is not told again."""

        def tell(_: str, logger: Logger[Any]) -> None:
            if is_new or not logger.knows(run.id):
                logger.put(run)

        self._each(tell)

    def close(self) -> None:
        self._each(lambda _, logger: logger.close())
        self._loggers = {}

    def _each(self, call: Callable[[str, Logger[Any]], None]) -> None:
        for name, logger in [*self._loggers.items()]:
            try:
                with _unnoticed():
                    call(name, logger)
            except FOREIGN as error:
                del self._loggers[name]
                self.notes.append(f"Logger '{name}' failed: {told(error)}; the study went on without it.")
                with contextlib.suppress(*FOREIGN), _unnoticed():
                    logger.close()


@contextmanager
def _unnoticed() -> Iterator[None]:
    """What is printed goes to stderr, and global generators are as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with contextlib.redirect_stdout(sys.stderr), torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
