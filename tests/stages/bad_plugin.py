"""Distillers that fail in every way a plugin can, and the entry point that spawned processes find them by."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import torch

from kdsearch.errors import PluginError
from kdsearch.hooks import Register, hookimpl
from kdsearch.kinds import (
    DataSource,
    Distiller,
    Metric,
    NoOptions,
    Options,
    Predict,
    Probe,
    Proxy,
    Services,
    TapShapes,
)

DIST_INFO = "kdsearch_bad-1.0.dist-info"


class BadOptions(Options):
    how: Literal[
        "raise",
        "nan",
        "hang",
        "swallow",
        "segfault",
        "leave",
        "leave well",
        "memory",
        "well",
        "exit",
        "late",
        "stop late",
        "numbers",
        "change",
        "print",
    ] = "raise"


class Stop(BaseException):
    """What no `except Exception` takes."""


class Bad(Distiller[BadOptions]):
    """A term that goes wrong as `how` says."""

    needs_teacher = False

    def terms(self, step: Any) -> dict[str, Any]:
        how = self.options.how
        logits = step.student["logits"]
        if how == "raise":
            raise ValueError("a plugin's own fault")
        if how == "memory":
            raise MemoryError("no more")
        if how == "hang":
            threading.Event().wait()
        if how == "swallow":
            self.held = bytearray(3 << 30)
            self.held[::4096] = b"x" * len(self.held[::4096])
            threading.Event().wait()
        if how == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if how.startswith("leave"):
            os._exit(7 if how == "leave" else 0)
        if how == "exit":
            sys.exit(0)
        if how.endswith("late") and step.clock.epoch:
            raise ValueError("too late") if how == "late" else Stop("here")
        if how == "numbers":
            return {1: 0.0 * logits.mean()}  # type: ignore[dict-item]
        if how == "change":
            return {f"bad{step.clock.step}": 0.0 * logits.mean()}
        if how == "print":
            print("a line of a distiller")
            os.system("echo a line of a program that it starts")
        return {"bad": logits.mean() * (float("nan") if how == "nan" else 0.0) + torch.zeros(())}


class SubclassesOptions(Options):
    subclasses: int = 5


class Subclasses(Distiller[SubclassesOptions]):
    """Fits a student that is wide enough for it."""

    def build(self, shapes: TapShapes) -> None:
        if self.options.subclasses > 16:
            problem = f"{self.options.subclasses} subclasses"
            raise PluginError(problem, expected="at most 16, the width of the vector that they are cut from")
        n = shapes.student.of("logits")[0]
        assert n is not None
        self.cut = torch.nn.Linear(n, n)

    def lr_factors(self) -> dict[str, float]:
        return {"cut.*": 0.1}

    def terms(self, step: Any) -> dict[str, Any]:
        return {"apart": (self.cut(step.student["logits"]) - step.teacher["logits"]).square().mean()}


class Exits(Proxy[NoOptions]):
    """Asks for the end of the program."""

    def score(self, student: Any, probe: Probe) -> float:
        sys.exit(0)


class Raises(Proxy[NoOptions]):
    """Raises for every candidate."""

    def score(self, student: Any, probe: Probe) -> float:
        raise ValueError("a proxy's own fault")


class Infinite(Proxy[NoOptions]):
    """Is not finite for any candidate."""

    def score(self, student: Any, probe: Probe) -> float:
        return float("inf")


class Worded(Metric[NoOptions]):
    """A word on more samples than the dry step has."""

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> Any:
        n = len(data.split(split).ids)
        return {"worded": 0.5 if n < 10 else "good", "n": n}


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.metric("worded", "tests.stages.bad_plugin:Worded")
    register.distiller("bad", "tests.stages.bad_plugin:Bad")
    register.distiller("subclasses", "tests.stages.bad_plugin:Subclasses")
    for name in ("Exits", "Raises", "Infinite"):
        register.proxy(name.lower(), f"tests.stages.bad_plugin:{name}")


@hookimpl
def kdsearch_report(study: Any) -> list[tuple[str, str]]:
    study["student"]["accuracy"] = 1.0  # what a hook does to its copy is its own affair
    for row in study["exports"]:
        row["accuracy"] = 1.0
    return []


@hookimpl
def kdsearch_event(event: Any) -> None:
    event["event"] = "changed"


def install(folder: Path) -> Path:
    """A folder for `sys.path` in which this plugin is an installed distribution."""
    about = folder / DIST_INFO
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: kdsearch-bad\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[kdsearch.v1]\nbad = tests.stages.bad_plugin\n")
    return folder
