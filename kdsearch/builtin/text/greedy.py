"""Writing: after each token the likeliest one, up to the boundary."""

from __future__ import annotations

import torch
from torch import Tensor

from kdsearch.builtin.text.prepare import SEPARATOR as BOUNDARY
from kdsearch.kinds import Batch, Predict


def greedy(predict: Predict, batch: Batch, begun: Tensor, names: tuple[str, str], most: int) -> list[list[int]]:
    """What is written of each sample, never padding or unknown; what has no boundary at its end did not end within `most` tokens.

    Args:
        batch: what is read beside the tokens that are written, such as the text of a target.
        begun: (B, N) tokens that are there, the boundary first.
        names: fields that hold what is there, and its mask.
    """
    ids, ended = begun.cpu(), torch.zeros(len(begun), dtype=torch.bool)
    others = tuple(f"written-{i}" for i in range(len(begun)))  # nobody has stored what a teacher says of these
    while ids.shape[1] < begun.shape[1] + most and not bool(ended.all()):
        so_far = dict(zip(names, (ids, torch.ones_like(ids)), strict=True))
        answer = predict(Batch(others, {**batch.tensors, **so_far}))["logits"]
        follows = answer[:, -1].detach().float().cpu()[:, BOUNDARY:].argmax(1) + BOUNDARY
        ids = torch.cat([ids, follows[:, None]], 1)
        ended |= follows == BOUNDARY
    rows = (row[begun.shape[1] :] for row in ids.tolist())
    return [row[: row.index(BOUNDARY) + 1] if BOUNDARY in row else row for row in rows]
