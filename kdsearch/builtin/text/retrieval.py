"""Metrics of retrieval: every query of a split against every document of it, by the cosine of their `embedding`s."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal

import torch
from pydantic import Field as Option
from torch import Tensor

from kdsearch.builtin.text.source import DOCUMENT_ID, EMBEDDING, QUERY_ID, is_pair
from kdsearch.errors import DataError
from kdsearch.kinds import DataSource, Measurement, Metric, NoOptions, Options, Predict, Services
from kdsearch.kinds.options import O

CHUNK = 256  # samples at once, and queries that are ranked at once


@dataclass(frozen=True)
class Ranking:
    """Of Q queries, in the order of their numbers, that have at most R documents among the D of a split.

    Args:
        queries, documents: (Q,) and (D,) their numbers.
        places: (Q, R) of a query's documents, from 1, the best first, 0 behind those of a query that has fewer than R.
        n_right: (Q,) how many it has.
        first, right: (Q,) numbers of the document that is nearest, and of the nearest one of the query's own.
    """

    queries: Tensor
    documents: Tensor
    places: Tensor
    n_right: Tensor
    first: Tensor
    right: Tensor


def ranked(predict: Predict, data: DataSource, split: str) -> Ranking:
    """Every query of a split against every document of it.

    Samples that are not known to be pairs are left out. Equal texts are one query or one document. Of equally near documents the
    wrong ones go first, so that a network that answers one vector for all gains nothing.
    """
    samples = data.split(split)
    queries: dict[int, Tensor] = {}
    documents: dict[int, Tensor] = {}
    wanted: dict[int, set[int]] = {}
    for start in range(0, len(samples.ids), CHUNK):
        batch = samples.load(range(start, min(start + CHUNK, len(samples.ids))))
        vectors = predict(batch)[EMBEDDING].detach().cpu().double()
        vectors = vectors / vectors.norm(dim=-1, keepdim=True)  # NaN of zeros: they point nowhere
        ids = (batch[name].tolist() for name in (QUERY_ID, DOCUMENT_ID))
        for pair, query, document, known in zip(vectors, *ids, is_pair(batch).tolist(), strict=True):
            if known:
                queries.setdefault(query, pair[0])
                documents.setdefault(document, pair[1])
                wanted.setdefault(query, set()).add(document)
    if not queries:
        raise DataError(
            f"split '{split}' has {len(samples.ids)} samples and no pair",
            expected="at least one query with its document",
        )
    names, named = sorted(queries), sorted(documents)
    place = {document: i for i, document in enumerate(named)}
    all_documents = torch.stack([documents[name] for name in named])
    n_right = torch.tensor([len(wanted[name]) for name in names])
    found = torch.zeros(len(names), int(n_right.max()), dtype=torch.int64)
    nearest, own = torch.zeros(len(names), dtype=torch.int64), torch.zeros(len(names), dtype=torch.int64)
    for start in range(0, len(names), CHUNK):
        some = names[start : start + CHUNK]
        scores = torch.stack([queries[name] for name in some]) @ all_documents.T  # (q, D)
        scores = scores.nan_to_num(-2.0)  # a vector of zeros, or none at all: behind every other
        right = torch.zeros(scores.shape, dtype=torch.bool)
        for row, name in enumerate(some):
            right[row, [place[document] for document in wanted[name]]] = True
        order = right.to(torch.int8).argsort(dim=1, stable=True)  # wrong ones first, then by nearness
        order = order.gather(1, scores.gather(1, order).round(decimals=9).argsort(dim=1, descending=True, stable=True))
        hits = right.gather(1, order)
        nearest[start : start + CHUNK] = order[:, 0]
        own[start : start + CHUNK] = order.gather(1, hits.to(torch.int8).argmax(1, keepdim=True))[:, 0]
        for row in range(len(some)):
            at = hits[row].nonzero()[:, 0] + 1
            found[start + row, : len(at)] = at
    numbers = torch.tensor(named)
    return Ranking(torch.tensor(names), numbers, found, n_right, numbers[nearest], numbers[own])


class Retrieval(Metric[O], Generic[O]):
    """A mean over queries of what their documents' places are worth."""

    unit = "share"
    name: ClassVar[str]

    @abstractmethod
    def worth(self, places: Tensor, n_right: Tensor) -> Tensor:
        """(Q,) in [0, 1] of (Q, R) places from 1, 0 where there is none, and of (Q,) numbers of right documents."""

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        found = ranked(predict, data, split)
        rows = self.worth(found.places, found.n_right).double()
        return Measurement({self.name: float(rows.mean()), "n": float(len(rows))}, rows)


class CutOptions(Options):
    k: int = Option(10, ge=1, description="documents that are looked at")


class Cut(Retrieval[CutOptions]):
    """Of the first k documents."""

    called: ClassVar[str]

    def __init__(self, options: CutOptions) -> None:
        super().__init__(options)
        self.title = f"{self.called}@{options.k}"


class Ndcg(Cut):
    """Normalised discounted cumulative gain of the first k, right or wrong (Järvelin and Kekäläinen, ACM TOIS 2002)."""

    name: ClassVar[str] = "ndcg"
    called: ClassVar[str] = "nDCG"

    def worth(self, places: Tensor, n_right: Tensor) -> Tensor:
        k = self.options.k
        gains = torch.where((places > 0) & (places <= k), 1 / (places.double() + 1).log2(), 0.0).sum(1)
        ideal = (1 / (torch.arange(1, k + 1, dtype=torch.float64) + 1).log2()).cumsum(0)
        return gains / ideal[n_right.clamp(max=k) - 1]


class RetrievalRecall(Cut):
    """Share of a query's documents that are among the first k."""

    name: ClassVar[str] = "retrieval_recall"
    called: ClassVar[str] = "recall"

    def worth(self, places: Tensor, n_right: Tensor) -> Tensor:
        return ((places > 0) & (places <= self.options.k)).sum(1) / n_right


class Mrr(Retrieval[NoOptions]):
    """Mean reciprocal rank: 1 / the place of the first right document."""

    title = "MRR"
    name: ClassVar[str] = "mrr"
    direction: ClassVar[Literal["max", "min"]] = "max"

    def worth(self, places: Tensor, n_right: Tensor) -> Tensor:
        return 1 / places[:, 0].double()
