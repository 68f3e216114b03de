"""A study of live objects that takes seconds: a tiny teacher, a tiny data set of the program's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset

import kdsearch
from kdsearch.stages.run import run_stages
from kdsearch.store.artifacts import Store
from kdsearch.store.folder import Events, open_folder
from kdsearch.training.materials import Materials
from kdsearch.training.tools import Progress, Tools


class Digits(Dataset[tuple[Tensor, int]]):
    """`noise`: a random transform of the program's own."""

    def __init__(self, n: int = 300, first: int = 0, noise: float = 0.0) -> None:
        digits = load_digits()
        self.images = torch.tensor(digits.images[first : first + n], dtype=torch.float32)[:, None] / 16
        self.targets, self.noise = digits.target[first : first + n].copy(), noise

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = self.images[i]
        return (image + self.noise * torch.randn_like(image) if self.noise else image), int(self.targets[i])


def teacher(seed: int = 0, width: int = 6) -> nn.Sequential:
    """Maps of 8x8 and 4x4, then logits."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * 16, 10),
    )


def tiny(**changes: Any) -> Any:
    """A checked Study; `changes` replace its arguments."""
    arguments: dict[str, Any] = {
        "teacher": teacher(),
        "train": Digits(),
        "test": Digits(60, first=1500),
        "student": {"space": "cifar_resnet", "spec": {"depths": [1, 1, 1], "widths": {"choices": [4, 6]}}},
        "recipe": ["kd"],
        "constraints": {"params": 20_000},
        "search": {"proxy": "params", "candidates": 4, "keep": 2},
        "refine": {"trials": 2, "epochs": 1},
        "distill": {"epochs": 1, "controls": []},
    }
    return kdsearch.Study(**{**arguments, **changes})


def made(materials: Materials, folder: Path, until: str) -> dict[str, Any]:
    """Facts of every stage up to `until`: seconds less than a whole run, as nothing is exported."""
    open_folder(folder)
    tools = Tools(Store(folder), Events(folder / "events.jsonl", lambda event: None), folder, Progress(False))
    return {name: each.facts for name, each in run_stages(materials, tools, until).items()}
