"""A split judged pass by pass, where answers are large: a class for each token or pixel."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kdsearch.kinds import Batch, DataSource

NUMBERS = 2**26  # that a pass may answer: 256 MiB


def passes(data: DataSource, split: str, most: int, target: str, n_classes: int) -> Iterator[Batch]:
    """The samples of a split in their order, `most` at a time, or as many as their answers allow: n_classes for each place of
    the field `target` (B, ...).
    """
    samples = data.split(split)
    for start in range(0, len(samples.ids), most):
        batch = samples.load(range(start, min(start + most, len(samples.ids))))
        places = batch[target][0].numel()
        n = max(1, NUMBERS // max(places * n_classes, 1))
        for at in range(0, len(batch), n):
            yield batch.rows(torch.arange(at, min(at + n, len(batch)))) if n < len(batch) else batch
