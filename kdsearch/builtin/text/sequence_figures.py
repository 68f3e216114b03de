"""Figures of what is written: tokens by what was read before them, targets by length, and texts of truth, teacher and student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

import torch
from torch import Tensor
from torch.nn import functional as F

from kdsearch.builtin.text.compared import compared, lines, of_each
from kdsearch.builtin.text.greedy import greedy
from kdsearch.builtin.text.prepare import SEPARATOR as BOUNDARY
from kdsearch.builtin.text.sequence_metrics import foretelling
from kdsearch.builtin.text.sequence_source import NEXT, PREFIX, PREFIX_MASK
from kdsearch.kinds import HIDDEN, Batch, DataSource, Decodes, Figure, Predict, Services, Table
from kdsearch.kinds.figure import Cell

SAMPLES = 8  # that are shown
BEGUN, WRITTEN = 48, 48  # tokens of a text that are given, and that are written, at most
LENGTHS = 12  # of targets, that a chart has places for


@dataclass(frozen=True)
class Foretold:
    """Of every sample of a split its next tokens.

    Args:
        nll: (S, N) -log p in nats, NaN where there is no token that is known.
        hits: (S, N) bool, whether it is the likeliest one of those that may be written; True where there is none.
    """

    nll: Tensor
    hits: Tensor

    @property
    def lengths(self) -> Tensor:
        """(S,) known tokens."""
        return (~self.nll.isnan()).sum(1)


def foretold(predict: Predict, data: DataSource, split: str) -> Foretold:
    nll: list[Tensor] = []
    hits: list[Tensor] = []
    for batch in foretelling(data, split):
        for logits, wanted in zip(predict(batch)["logits"].detach().cpu(), batch[NEXT].cpu(), strict=True):
            known = wanted != HIDDEN
            lost = F.cross_entropy(logits.double(), wanted, ignore_index=HIDDEN, reduction="none")
            nll.append(lost.masked_fill(~known, torch.nan))
            hits.append((logits[:, BOUNDARY:].argmax(1) + BOUNDARY == wanted) | ~known)
    longest = max(len(row) for row in nll)
    return Foretold(
        torch.stack([F.pad(row, (0, longest - len(row)), value=torch.nan) for row in nll]),
        torch.stack([F.pad(row, (0, longest - len(row)), value=1) for row in hits]),
    )


def continuation_figures(predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
    """Of `causal_lm`: `places`, and `texts` where the data set says what tokens stand for (`kinds.Decodes`)."""
    who = compared(predict, services, data.split(split).load([0]), "logits")
    found = of_each(who, lambda each: foretold(each, data, split))
    source = getattr(data, "source", data)
    samples = continuations(found, who, data, split, source) if isinstance(source, Decodes) else None
    return [places(found), *([samples] if samples is not None else [])]


def target_figures(predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
    """Of `seq2seq`: `lengths`, and `texts` where the data set says what tokens stand for (`kinds.Decodes`)."""
    who = compared(predict, services, data.split(split).load([0]), "logits")
    found = of_each(who, lambda each: foretold(each, data, split))
    source = getattr(data, "source", data)
    return [lengths(found), *([targets(found, who, data, split, source)] if isinstance(source, Decodes) else [])]


def places(found: Mapping[str, Foretold]) -> Figure:
    """Perplexity by how many tokens of the sample were read, in ranges that double: 1, 2-3, 4-7, ..."""
    n_places = next(iter(found.values())).nll.shape[1]
    ranges = [(2**i, min(2 ** (i + 1) - 1, n_places)) for i in range(n_places.bit_length())]
    value: dict[tuple[str, str], float] = {}
    n: dict[str, int] = {}
    for low, high in ranges:
        read = str(low) if low == high else f"{low}-{high}"
        for name, each in found.items():
            here = each.nll[:, low - 1 : high]
            n[read] = int((~here.isnan()).sum())
            if n[read]:
                value[name, read] = exp(min(float(here.nanmean()), 700.0))
    n = {read: count for read, count in n.items() if count}
    rows = [{"who": name, "read": read, "perplexity": each, "n": n[read]} for (name, read), each in value.items()]
    last = [*n][-1]
    says = "; ".join(f"{name}: {value[name, last]:.2f} after {last}" for name in found)
    chart = lines("perplexity", says, rows, ("read", "tokens read"), ("perplexity", "perplexity"), log=True)
    body: list[list[Cell]] = [[read, *(f"{value[name, read]:.3f}" for name in found), n[read]] for read in n]
    return Figure(
        "places",
        "By how much was read",
        "Perplexity of the next token by how many tokens of its sample were read, its boundary among them: lower is better.",
        [chart],
        [Table("Perplexity by tokens read", ["tokens read", *found, "tokens"], body)],
    )


def lengths(found: Mapping[str, Foretold]) -> Figure:
    """Share of targets that are written exactly, by their length: each, or ranges of equal width where there are many."""
    sizes = found["student"].lengths - 1  # without the boundary
    known = sizes >= 0
    low, high = int(sizes[known].min()), int(sizes[known].max())
    step = (high - low) // LENGTHS + 1
    value: dict[tuple[str, str], Tensor] = {}
    n: dict[str, int] = {}
    for start in range(low, high + 1, step):
        end = min(start + step - 1, high)
        here = known & (sizes >= start) & (sizes <= end)
        if bool(here.any()):
            length = str(start) if start == end else f"{start}-{end}"
            n[length] = int(here.sum())
            value |= {(name, length): each.hits[here].all(1) for name, each in found.items()}
    rows = [
        {"who": name, "length": length, "exact": float(exact.double().mean()), "n": n[length]}
        for (name, length), exact in value.items()
    ]
    says = "; ".join(f"{name}: {_share(each.hits[known].all(1))} in all" for name, each in found.items())
    chart = lines("share written exactly", says, rows, ("length", "tokens"), ("exact", "exact"), share=True)
    body: list[list[Cell]] = [[length, *(_share(value[name, length]) for name in found), n[length]] for length in n]
    return Figure(
        "lengths",
        "By length",
        "Share of targets that are written exactly, up to their end, by how many tokens they have.",
        [chart],
        [Table("Written exactly, by length", ["tokens", *found, "targets"], body)],
    )


def continuations(
    found: Mapping[str, Foretold], who: Mapping[str, Predict], data: DataSource, split: str, source: Decodes
) -> Figure | None:
    """How texts of the split go on: truth, and the likeliest token each time by who answers. None where all are too short."""
    n = found["student"].lengths
    begun = min(BEGUN, int(n.max()) // 2)
    if begun < 2:
        return None
    chosen = _spread((n >= 2 * begun).nonzero()[:, 0].tolist(), SAMPLES)
    batch = data.split(split).load(chosen)
    given = batch["tokens"][:, :begun]
    said = of_each(who, lambda each: greedy(each, Batch((), {}), given, ("tokens", "mask"), WRITTEN))
    body: list[list[Cell]] = []
    for row in range(len(chosen)):
        truth = batch[NEXT][row][begun - 1 : begun - 1 + WRITTEN].tolist()
        texts = [truth, *(each[row] for each in said.values())]
        body.append([_shown(source.decode(given[row].tolist())), *(_shown(source.decode(ids)) for ids in texts)])
    return Figure(
        "texts",
        "How texts go on",
        "Texts of the test split, how they go on, and what is written: the likeliest token each time, which soon repeats itself.",
        tables=[Table("Continuations", ["text", "truth", *said], body)],
    )


def targets(
    found: Mapping[str, Foretold], who: Mapping[str, Predict], data: DataSource, split: str, source: Decodes
) -> Figure:
    """Targets that the student writes wrong, then others: the text, the truth, and what is written."""
    exact, known = found["student"].hits.all(1), found["student"].lengths > 0
    wrong, right = ((known & each).nonzero()[:, 0].tolist() for each in (~exact, exact))
    n_wrong = min(len(wrong), max(SAMPLES - len(right), SAMPLES * 3 // 4))
    chosen = [*_spread(wrong, n_wrong), *_spread(right, SAMPLES - n_wrong)]
    batch = data.split(split).load(chosen)
    most = int(found["student"].lengths.max()) + 8  # a target too long is seen to be
    begun = torch.full((len(chosen), 1), BOUNDARY)
    said = of_each(who, lambda each: greedy(each, batch, begun, (PREFIX, PREFIX_MASK), most))
    body: list[list[Cell]] = []
    for row in range(len(chosen)):
        truth = batch[NEXT][row][batch[NEXT][row] != HIDDEN].tolist()
        read = batch["tokens"][row][batch["mask"][row] != 0].tolist()
        texts = [read, truth, *(each[row] for each in said.values())]
        body.append([*(_shown(source.decode(ids)) for ids in texts), "yes" if bool(exact[chosen[row]]) else "no"])
    return Figure(
        "texts",
        "Text by text",
        f"{len(wrong)} of {int(known.sum())} targets are not written exactly; some of them first, then some that are.",
        tables=[Table("What is written", ["text", "truth", *said, "exact"], body)],
    )


def _spread(of: Sequence[int], n: int) -> list[int]:
    """At most n of them, evenly spaced."""
    n = min(n, len(of))
    return [of[i * len(of) // n] for i in range(n)]


def _shown(text: str) -> str:
    return text or "(nothing)"


def _share(exact: Tensor) -> str:
    return f"{100 * float(exact.double().mean()):.1f} %"
