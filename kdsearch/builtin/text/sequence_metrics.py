"""Metrics of next tokens: perplexity and accuracy over every token whose next one is known, and targets written exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kdsearch.builtin.passes import passes
from kdsearch.builtin.text.prepare import SEPARATOR as BOUNDARY
from kdsearch.builtin.text.sequence_source import NEXT
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Batch, DataSource, Measurement, Metric, NoOptions, Predict, Services

CHUNK = 64  # samples a forward pass, or fewer where the vocabulary is large


def foretelling(data: DataSource, split: str) -> Iterator[Batch]:
    """The samples of a split in their order, pass by pass."""
    return passes(data, split, CHUNK, NEXT, max((each.n_values or 1 for each in data.fields), default=1))


def judged(predict: Predict, data: DataSource, split: str) -> Iterator[tuple[Tensor, Tensor]]:
    """(N_i, V) logits and (N_i,) next tokens of each sample that has any which is known. Raise DataError where none has."""
    found = False
    for batch in foretelling(data, split):
        wanted = batch[NEXT].cpu()
        for logits, tokens in zip(predict(batch)["logits"].detach().float().cpu(), wanted, strict=True):
            known = tokens != HIDDEN
            if bool(known.any()):
                found = True
                yield logits[known], tokens[known]
    if not found:
        n = len(data.split(split).ids)
        raise DataError(f"split '{split}' has {n} samples and no token to foretell", expected="one or more")


def _each(predict: Predict, data: DataSource, split: str, value: str) -> Tensor:
    """(S, 2) of S samples: the sum over their tokens, of -log p in nats or of hits, and how many tokens they have."""
    rows = []
    for logits, tokens in judged(predict, data, split):
        if value == "nll":
            found = float(F.cross_entropy(logits.double(), tokens, reduction="sum"))
        else:
            found = float((logits.argmax(1) == tokens).sum())
        rows.append([found, float(len(tokens))])
    return torch.tensor(rows, dtype=torch.float64)


def _share(mean: Tensor) -> float:
    return float(mean[0] / mean[1])


def _perplexity(mean: Tensor) -> float:
    return math.exp(min(_share(mean), 700.0))  # what is worse is no float


class Perplexity(Metric[NoOptions]):
    """exp of the mean -log p(next token), lower is better, at least 1; its interval is over samples (texts, windows)."""

    direction: ClassVar[Literal["max", "min"]] = "min"
    reads_scores: ClassVar[bool] = True

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        rows = _each(predict, data, split, "nll")
        values = {"perplexity": _perplexity(rows.mean(0)), "n": float(len(rows)), "tokens": float(rows[:, 1].sum())}
        return Measurement(values, rows, _perplexity)


class NextTokenAccuracy(Metric[NoOptions]):
    """Share of tokens whose next one has the largest logit; its interval is over samples."""

    title = "next-token accuracy"
    unit = "share"

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        rows = _each(predict, data, split, "hits")
        values = {"next_token_accuracy": _share(rows.mean(0)), "n": float(len(rows)), "tokens": float(rows[:, 1].sum())}
        return Measurement(values, rows, _share)


class ExactMatch(Metric[NoOptions]):
    """Share of samples whose target is written exactly, up to its boundary, by the likeliest next token each time.

    One pass says it: what is written is the target where each of its tokens is the likeliest after those before it. Padding and
    unknown tokens are never written: a target with a token that the training texts lack counts as missed.
    """

    title = "exact match"
    unit = "share"
    proportion: ClassVar[bool] = True

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        hits = n = 0
        for logits, tokens in judged(predict, data, split):
            likeliest = logits[:, BOUNDARY:].argmax(1) + BOUNDARY
            hits, n = hits + int(bool((likeliest == tokens).all())), n + 1
        return {"exact_match": hits / n, "n": float(n)}
