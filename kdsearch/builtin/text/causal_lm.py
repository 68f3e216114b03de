"""Task `causal_lm`: the next token of a text, at each of its tokens; padding counts nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from kdsearch.builtin.text.next_token import next_token_loss, read_tokens
from kdsearch.builtin.text.sequence_figures import continuation_figures
from kdsearch.builtin.text.sequence_source import NEXT, PREFIX
from kdsearch.errors import DataError
from kdsearch.kinds import (
    HIDDEN,
    IO,
    Batch,
    DataSource,
    Field,
    Figure,
    NoOptions,
    Outputs,
    Predict,
    Services,
    Task,
)


class CausalLm(Task[NoOptions]):
    """Reads `tokens` (B, N) and `mask` (B, N), not 0 at tokens, padding last; the target is `next` (B, N).

    Answers `logits` (B, N, V) of the V tokens of the vocabulary. In a batch of texts of several lengths, or of packed ones, each
    token that is known weighs the same.
    """

    objective: ClassVar[str] = "perplexity"
    metrics: ClassVar[tuple[str, ...]] = ("perplexity", "next_token_accuracy")

    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> IO:
        """Raise DataError without tokens that say their vocabulary, their mask, and `next`."""
        tokens, mask = read_tokens("causal_lm", fields, "tokens", "mask")
        has = ", ".join(f"{each.name} ({each.kind})" for each in fields)
        is_pair = any(each.name == PREFIX for each in fields)
        if is_pair or not any(
            each.name == NEXT and each.use == "target" and each.shape == tokens.shape for each in fields
        ):
            expected = (
                "texts without a target of their own" if is_pair else f"a target '{NEXT}': what follows each token"
            )
            raise DataError(f"causal_lm: the data set has {has}", expected=expected)
        shape = (tokens.shape[0], tokens.n_values)
        return IO((tokens, mask), (Field("logits", "logits", shape, open_size=tokens.open_size, mask=mask.name),))

    def loss(self, out: Outputs, batch: Batch) -> Tensor:
        """Cross entropy of the next token in nats, mean over all tokens of the batch whose next one is known."""
        return next_token_loss(out["logits"], batch)

    def truth(self, batch: Batch) -> Tensor | None:
        return batch.tensors.get(NEXT)

    def counted(self, batch: Batch) -> Tensor:
        return batch["mask"] != 0

    def dummy(self, io: IO, n: int, rng: Generator) -> Batch:
        """Noise; what follows a token is drawn, too."""
        noise = super().dummy(io, n, rng)
        n_values = io.output("logits").sizes[-1]
        drawn = torch.randint(n_values, noise["tokens"].shape, generator=rng)
        return noise.having(**{NEXT: drawn.masked_fill(noise["mask"] == 0, HIDDEN)})

    def figures(self, predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
        """Perplexity by how much was read, and how texts go on."""
        return continuation_figures(predict, data, split, services)
