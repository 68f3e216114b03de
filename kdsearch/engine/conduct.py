"""How a training is run, the same in all its phases: device, precision, ranks, when it stops, what is shown of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdsearch.engine.precision import Precision
from kdsearch.engine.ranks import Ranks
from kdsearch.engine.setup import LiveSetup
from kdsearch.errors import PluginError
from kdsearch.store.hashing import derive


@dataclass(frozen=True)
class Device:
    """Where and how training computes."""

    accelerator: str = "cpu"  # cpu or cuda
    precision: str = "fp32"  # fp32, bf16 or fp16 (autocast)
    accumulate: int = 1
    workers: int = 0
    checkpoint_s: float = 30.0

    @property
    def torch(self) -> torch.device:
        return torch.device(self.accelerator)


def resolve_device(name: str, devices: int = 1) -> str:
    """auto -> cuda where there is one. Raise PluginError for cuda where there is none, or fewer GPUs than devices."""
    if name == "cuda" and not torch.cuda.is_available():
        raise PluginError("device 'cuda'", path="run.device", expected="cpu or auto: torch sees no CUDA device here")
    found = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if found == "cuda" and devices > torch.cuda.device_count():
        have = torch.cuda.device_count()
        raise PluginError(
            f"{devices} devices", path="run.devices", expected=f"at most {have}: the GPUs that torch sees"
        )
    return found


@dataclass
class Report:
    """Progress that a person sees: called after every optimiser step and at every epoch's end."""

    step: Callable[[str, int, int, float], None] = lambda phase, at, of, loss: None
    epoch: Callable[[Mapping[str, Any]], None] = lambda row: None


@dataclass(frozen=True)
class Conduct:
    """See `kdsearch.engine.loop.Training`, whose phases it is handed to."""

    setup: LiveSetup
    device: Device
    precision: Precision
    ranks: Ranks
    objective: str
    beside: tuple[str, ...]
    until: float
    stop: Callable[[], bool]
    report: Report

    def seed(self, *names: Any) -> None:
        """Seed the global generators (dropout, transforms) as a function of the training's seed and these names."""
        seed = derive(self.setup.seed, *names)
        torch.default_generator.manual_seed(
            seed
        )  # torch.manual_seed keeps a stack trace for each absent GPU: 1 ms a step
        if self.device.accelerator == "cuda":
            torch.cuda.manual_seed_all(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
