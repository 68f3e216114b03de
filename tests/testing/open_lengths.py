"""A small world of open lengths: texts of 2 to 7 tokens, a tag for each of them, padded to the longest of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, IO, Batch, Field, Measurement, Metric, NoOptions, Task

WORDS, TAGS = 6, 3
FIELDS = (
    Field("tokens", "tokens", (None,), "int64", n_values=WORDS),
    Field("mask", "mask", (None,), "int64"),
    Field("tags", "labels", (None,), "int64", "target"),
)


class Sentences:
    def __init__(self, n: int, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.ids = tuple(f"{seed}-{i}" for i in range(n))
        lengths = torch.randint(2, 8, (n,), generator=rng).tolist()
        self.rows = [torch.randint(1, WORDS, (length,), generator=rng) for length in lengths]

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        rows = [self.rows[i] for i in index]
        longest = max([0, *map(len, rows)])
        empty = torch.zeros((0, longest), dtype=torch.int64)
        tokens = torch.stack([F.pad(row, (0, longest - len(row))) for row in rows]) if rows else empty
        mask = (tokens > 0).long()
        tags = torch.where(mask > 0, tokens % TAGS, HIDDEN)
        return Batch(tuple(self.ids[i] for i in index), {"tokens": tokens, "mask": mask, "tags": tags})


class SentenceSource:
    fields = FIELDS
    facts: Mapping[str, object] = {"source": "drawn", "licence": "none"}
    splits = ("train", "val")

    def split(self, name: str) -> Sentences:
        if name not in self.splits:
            raise DataError(f"no split '{name}'", expected="train or val")
        return Sentences(16, self.splits.index(name))


class Tagging(Task[NoOptions]):
    """One of three classes a token."""

    objective: ClassVar[str] = "tagged"
    metrics: ClassVar[tuple[str, ...]] = ("tagged",)

    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> IO:
        inputs = tuple(each for each in fields if each.use == "input")
        if not inputs:
            raise DataError("no tokens")
        return IO(inputs, (Field("logits", "logits", (None, TAGS), mask="mask"),))

    def loss(self, out: Any, batch: Batch) -> Tensor:
        known = (batch["tags"] != HIDDEN).sum().clamp(min=1)
        return (
            F.cross_entropy(out["logits"].transpose(1, 2), batch["tags"], ignore_index=HIDDEN, reduction="sum") / known
        )

    def truth(self, batch: Batch) -> Tensor | None:
        return batch.tensors.get("tags")

    def counted(self, batch: Batch) -> Tensor:
        return batch["mask"] != 0

    def strata(self, batch: Batch, targets: Sequence[Field]) -> Tensor:
        return torch.where((batch["tags"] != HIDDEN).any(1), 0, HIDDEN)

    def dummy(self, io: IO, n: int, rng: Any) -> Batch:
        made = super().dummy(io, n, rng)
        return made.having(tags=torch.randint(0, TAGS, made["tokens"].shape, generator=rng))


class Tagged(Metric[NoOptions]):
    """Share of tokens that get their tag."""

    unit = "share"

    def measure(self, predict: Any, data: Any, split: str, services: Any) -> dict[str, float]:
        rows, samples = [], data.split(split)
        for i in range(len(samples.ids)):
            batch = samples.load([i])
            hits = self.hits(predict(batch)["logits"].argmax(-1), batch)
            rows += hits.double().tolist()
        if not rows:
            raise DataError("no tag is known")
        each = torch.tensor(rows)
        return Measurement({"tagged": float(each.mean()), "n": float(len(each))}, each)

    def hits(self, answers: Tensor, batch: Batch) -> Tensor:
        known = batch["tags"] != HIDDEN
        return (answers == batch["tags"])[known]
