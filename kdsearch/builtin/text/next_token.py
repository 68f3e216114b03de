"""What tasks that write a token after another share: which fields they read, and their loss."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from kdsearch.builtin.text.sequence_source import NEXT
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Batch, Field


def read_tokens(task: str, fields: Sequence[Field], tokens: str, mask: str) -> tuple[Field, Field]:
    """The input fields of these names. Raise DataError where one is missing, of another kind, or without its vocabulary."""
    found = {each.name: each for each in fields if each.use == "input"}
    has = ", ".join(f"{each.name} ({each.kind})" for each in fields) or "no field"
    ids, real = found.get(tokens), found.get(mask)
    if ids is None or ids.kind != "tokens" or len(ids.shape) != 1 or ids.n_values is None:
        expected = f"an input '{tokens}' of kind tokens that says its vocabulary (n_values)"
        raise DataError(f"{task}: the data set has {has}", expected=expected)
    if real is None or real.kind != "mask" or real.shape != ids.shape:
        raise DataError(
            f"{task}: the data set has {has}", expected=f"an input '{mask}' of kind mask as long as {tokens}"
        )
    return ids, real


def next_token_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross entropy in nats of logits (B, N, V), mean over the known tokens of `next` (B, N); 0 where none is known."""
    wanted = batch[NEXT]
    known = (wanted != HIDDEN).sum().clamp(min=1)
    total = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=HIDDEN, reduction="sum")
    return total / known
