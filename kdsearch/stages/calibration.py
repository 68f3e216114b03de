"""Training samples that quantizers see."""

from __future__ import annotations

from typing import Any

import torch

from kdsearch.deploy.capture import received
from kdsearch.kinds import Batch
from kdsearch.stages.products import Shipped
from kdsearch.store.hashing import stream
from kdsearch.training.materials import Materials

CALIBRATION_BATCH = 32


def calibration(materials: Materials, n: int) -> list[Batch]:
    """n training samples, drawn by a stream of the study's own, unaugmented."""
    split = materials.data.split("train")
    index = torch.randperm(len(split.ids), generator=stream(materials.seed, "calibration"))[:n].tolist()
    return [split.load(index[at : at + CALIBRATION_BATCH]) for at in range(0, len(index), CALIBRATION_BATCH)]


def feeds(made: Shipped, graph: str, batches: list[Batch]) -> list[dict[str, Any]]:
    """What a graph (the first one, if none is named) receives for these samples, NumPy arrays by input name."""
    name = graph or next(iter(made.product.graphs))
    return [
        {each: value.numpy() for each, value in batch.tensors.items()}
        for batch in received(made.product, made.calls, name, batches)
    ]
