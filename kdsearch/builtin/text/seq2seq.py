"""Task `seq2seq`: the target of a text, a token after another, each foretold after the right ones before it (teacher forcing)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from kdsearch.builtin.text.next_token import next_token_loss, read_tokens
from kdsearch.builtin.text.sequence_figures import target_figures
from kdsearch.builtin.text.sequence_source import NEXT, PREFIX, PREFIX_MASK
from kdsearch.errors import DataError
from kdsearch.kinds import (
    HIDDEN,
    IO,
    Batch,
    Call,
    DataSource,
    Field,
    Figure,
    Graph,
    Model,
    NoOptions,
    Outputs,
    Predict,
    Product,
    Services,
    Task,
)

MEMORY, PARTS = "memory", ("encoder", "decoder")


class Seq2Seq(Task[NoOptions]):
    """Reads a text, `tokens` and `mask` (B, N), and what has been written of its target, `prefix` and `prefix_mask` (B, M).

    Answers `logits` (B, M, V); the target is `next` (B, M). A network of the parts `encoder` (tokens, mask) and `decoder` (prefix,
    prefix_mask, memory, mask), with a tap `memory` between them, ships as these two: a text is read once, however long its target.
    """

    objective: ClassVar[str] = "exact_match"
    metrics: ClassVar[tuple[str, ...]] = ("exact_match", "next_token_accuracy", "perplexity")

    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> IO:
        """Raise DataError without a text and a prefix, their masks, one vocabulary, and `next`."""
        tokens, mask = read_tokens("seq2seq", fields, "tokens", "mask")
        prefix, written = read_tokens("seq2seq", fields, PREFIX, PREFIX_MASK)
        has = ", ".join(f"{each.name} ({each.kind})" for each in fields)
        if not any(each.name == NEXT and each.use == "target" and each.shape == prefix.shape for each in fields):
            expected = f"a target '{NEXT}' as long as '{PREFIX}': what follows each of its tokens"
            raise DataError(f"seq2seq: the data set has {has}", expected=expected)
        shape = (prefix.shape[0], prefix.n_values)
        logits = Field("logits", "logits", shape, open_size=prefix.open_size, mask=written.name)
        return IO((tokens, mask, prefix, written), (logits,))

    def loss(self, out: Outputs, batch: Batch) -> Tensor:
        """Cross entropy of the next token in nats, mean over all tokens of the batch whose next one is known."""
        return next_token_loss(out["logits"], batch)

    def hide(self, batch: Batch, hidden: Tensor, targets: Sequence[Field]) -> Batch:
        """What has been written of a hidden target is its boundary alone."""
        made = super().hide(batch, hidden, targets)
        later = hidden[:, None] & (torch.arange(batch[PREFIX].shape[1]) > 0)
        return made.having(**{name: batch[name].masked_fill(later, 0) for name in (PREFIX, PREFIX_MASK)})

    def truth(self, batch: Batch) -> Tensor | None:
        return batch.tensors.get(NEXT)

    def counted(self, batch: Batch) -> Tensor:
        return batch[PREFIX_MASK] != 0

    def dummy(self, io: IO, n: int, rng: Generator) -> Batch:
        """Noise; what follows a token is drawn, too."""
        noise = super().dummy(io, n, rng)
        drawn = torch.randint(io.output("logits").sizes[-1], noise[PREFIX].shape, generator=rng)
        return noise.having(**{NEXT: drawn.masked_fill(noise[PREFIX_MASK] == 0, HIDDEN)})

    def product(self, model: Model, io: IO) -> Product:
        """Two graphs, `encoder` and `decoder`, of a network that has these parts; else one."""
        parts = dict(model.module.named_children())
        if not set(PARTS) <= set(parts) or not any(tap.name == MEMORY for tap in model.taps):
            return super().product(model, io)
        tokens, mask, prefix, written = io.inputs
        memory = Field(
            MEMORY, "sequence", (tokens.shape[0], model.width(MEMORY)), open_size=tokens.open_size, mask=mask.name
        )
        graphs = {
            "encoder": Graph(parts["encoder"], (tokens, mask), (memory,)),
            "decoder": Graph(parts["decoder"], (prefix, written, memory, mask), io.outputs),
        }

        def call(calls: Mapping[str, Call], batch: Batch) -> Mapping[str, Tensor]:
            seen = calls["encoder"](batch[tokens.name], batch[mask.name])[MEMORY]
            return calls["decoder"](batch[prefix.name], batch[written.name], seen, batch[mask.name])

        return Product(
            graphs, call, facts={"written": "from the boundary token on, the likeliest next token each time"}
        )

    def figures(self, predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
        """Exact targets by length, and texts with what is written."""
        return target_figures(predict, data, split, services)
