"""Task `embedding`: vectors of texts, so that a query is nearest to its document; one network answers for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field as Option
from torch import Generator, Tensor
from torch.nn import functional as F

from kdsearch.builtin.text.retrieval_figures import retrieval_figures
from kdsearch.builtin.text.source import DOCUMENT, DOCUMENT_ID, EMBEDDING, PAIRED, QUERY_ID, is_pair
from kdsearch.errors import DataError
from kdsearch.kinds import (
    IO,
    Batch,
    Call,
    DataSource,
    Field,
    Figure,
    Graph,
    Model,
    Options,
    Outputs,
    Predict,
    Product,
    Services,
    Task,
    named,
)


class EmbeddingOptions(Options):
    width: int = Option(64, ge=1, le=4096, description="numbers of a vector")
    temperature: float = Option(0.05, gt=0, description="that cosines are divided by in the loss")


class Embedding(Task[EmbeddingOptions]):
    """Reads `tokens` and `mask` of a query, `document_tokens` and `document_mask` of what it should find.

    The target is `paired` (B,): 1, or NaN where nobody knows what the query should find, and the sample is two texts that have
    nothing to do with each other. Data without that field are pairs throughout.

    Answers `embedding` (B, 2, D): of the query, then of the document, by one network called twice. It ships for one text:
    (B, D), of any length; nearness is the cosine. Taps are those of the document.
    """

    objective: ClassVar[str] = "ndcg"
    metrics: ClassVar[tuple[str, ...]] = ("ndcg", "retrieval_recall", "mrr")

    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> IO:
        """Raise DataError without a query's and a document's fields, and where they are not alike."""
        by_name = {each.name: each for each in fields}
        inputs = tuple(each for each in fields if each.use == "input" and not each.name.startswith(DOCUMENT))
        has = ", ".join(f"{each.name} ({each.kind})" for each in fields) or "no field"
        if not inputs:
            raise DataError(f"embedding: the data set has {has}", expected="a query's inputs, such as tokens")
        for each in inputs:
            other = by_name.get(f"{DOCUMENT}{each.name}")
            if other is None or (other.kind, other.shape, other.n_values) != (each.kind, each.shape, each.n_values):
                raise DataError(
                    f"embedding: the data set has {has}", expected=f"a field {DOCUMENT}{each.name} like {each.name}"
                )
        for name in (QUERY_ID, DOCUMENT_ID):
            if name not in by_name:
                raise DataError(
                    f"embedding: the data set has {has}", expected=f"a field '{name}': equal texts, equal numbers"
                )
        return IO(inputs, (Field(EMBEDDING, "vector", (self.options.width,)),))

    def call(self, model: Model, batch: Batch) -> Mapping[str, Tensor]:
        """`embedding` (B, 2, D). What reads samples instead of texts, as a table of stored answers does, gives both by itself."""
        if not all(f"{DOCUMENT}{name}" in batch for name in model.inputs):
            return super().call(model, batch)
        return _both(model.inputs, lambda *inputs: named(model.module(*inputs), model.outputs)[EMBEDDING], batch)

    def answers(self, io: IO) -> tuple[Field, ...]:
        return (Field(EMBEDDING, "vector", (2, self.options.width)),)

    def loss(self, out: Outputs, batch: Batch) -> Tensor:
        """Cross entropy of each query over the batch's documents, and of each document over its queries, their mean, in nats.

        Of van den Oord et al. (2018, arXiv 1807.03748), eq. 4, with cosines; what equals the query or its document is no negative.
        Over the pairs alone.
        """
        known = is_pair(batch)
        if not bool(known.any()):
            return out[EMBEDDING].sum() * 0
        batch = batch.having(**{name: batch[name][known] for name in (QUERY_ID, DOCUMENT_ID)})
        query, document = F.normalize(out[EMBEDDING][known].float(), dim=-1).unbind(1)
        scores = query @ document.T / self.options.temperature
        same = _same(batch[QUERY_ID]) | _same(batch[DOCUMENT_ID])
        scores = scores.masked_fill(same & ~torch.eye(len(scores), dtype=torch.bool, device=same.device), -torch.inf)
        right = torch.arange(len(scores), device=scores.device)
        return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2

    def dummy(self, io: IO, n: int, rng: Generator) -> Batch:
        """Noise, of documents too, each a text of its own."""
        made = super().dummy(io, n, rng)
        documents = {f"{DOCUMENT}{each.name}": each.noise(n, rng) for each in io.inputs}
        ids = {name: torch.arange(n) for name in (QUERY_ID, DOCUMENT_ID)}
        return made.having(**documents, **ids, **{PAIRED: torch.ones(n)})

    def product(self, model: Model, io: IO) -> Product:
        """One graph `model`, of one text."""
        names = model.inputs

        def call(calls: Mapping[str, Call], batch: Batch) -> Mapping[str, Tensor]:
            return _both(names, lambda *inputs: calls["model"](*inputs)[EMBEDDING], batch)

        graph = Graph(model.module, tuple(io.input(name) for name in names), io.outputs)
        return Product({"model": graph}, call, facts={"nearness": "cosine"})

    def figures(self, predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
        """What is found among the first k, and queries with what stands first."""
        return retrieval_figures(predict, data, split, services)


def _both(names: Sequence[str], embed: Any, batch: Batch) -> dict[str, Tensor]:
    query = embed(*[batch[name] for name in names])
    return {EMBEDDING: torch.stack([query, embed(*[batch[f"{DOCUMENT}{name}"] for name in names])], 1)}


def _same(ids: Tensor) -> Tensor:
    return ids[:, None] == ids[None, :]
