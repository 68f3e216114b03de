"""The first test samples with what student and teachers answer: kept by `export`, shown by plugins' sections of the report."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from kdsearch.errors import DataError
from kdsearch.kinds import Batch, Predict, Samples
from kdsearch.store.weights import read, write
from kdsearch.training.materials import Materials

NAME = "samples.safetensors"  # `<who>/<field>` -> (B, ...)
MOST, MOST_BYTES = 64, 8 << 20


def write_samples(materials: Materials, predicts: Mapping[str, Predict], folder: Path) -> None:
    """Answers by who gives them, of as many samples as fit into MOST_BYTES."""
    found: dict[str, Tensor] = {}
    n = len(_first(materials, MOST))
    for who, predict in predicts.items():
        with suppress(DataError):  # a teacher's stored answers to other samples
            found |= {f"{who}/{name}": each.detach().cpu() for name, each in predict(_first(materials, n)).items()}
    taken = sum(each.numel() * each.element_size() for each in found.values())
    if taken > MOST_BYTES:
        n = max(1, n * MOST_BYTES // taken)
    write(folder / NAME, {name: each[:n].clone() for name, each in found.items()})


def read_samples(materials: Materials, folder: Path) -> Samples:
    """What `write_samples` kept."""
    answers: dict[str, dict[str, Tensor]] = {}
    for name, answer in read(folder / NAME).items():
        who, _, field = name.rpartition("/")
        answers.setdefault(who, {})[field] = answer
    n = min((len(answer) for each in answers.values() for answer in each.values()), default=0)
    return Samples(_first(materials, n), answers)


def _first(materials: Materials, n: int) -> Batch:
    split = materials.data.split("test")
    return split.load(range(min(n, len(split.ids))))
