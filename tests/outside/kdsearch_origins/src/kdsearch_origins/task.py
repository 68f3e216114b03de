"""Task `origins`: a class of each sample, by any of several modalities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

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
    Table,
    Task,
)
from kdsearch.kit.modalities import is_present, may_lack


class Origins(Task[NoOptions]):
    """Reads every input, answers `logits` (K,); the target is `label`."""

    objective: ClassVar[str] = "any_subset"
    metrics: ClassVar[tuple[str, ...]] = ("any_subset",)

    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> IO:
        inputs = tuple(each for each in fields if each.use == "input")
        if not any(each.kind == "present" for each in inputs) or not any(each.kind == "label" for each in fields):
            shown = ", ".join(each.name for each in fields) or "no field"
            raise DataError(f"origins: the data set has {shown}", expected="fields that may be missing, and a label")
        return IO(inputs, (Field("logits", "logits", (len(facts["classes"]),)),))

    def loss(self, out: Outputs, batch: Batch) -> Tensor:
        known = (batch["label"] != HIDDEN).sum().clamp(min=1)
        return F.cross_entropy(out["logits"], batch["label"], ignore_index=HIDDEN, reduction="sum") / known

    def dummy(self, io: IO, n: int, rng: Generator) -> Batch:
        return super().dummy(io, n, rng).having(label=torch.randint(io.outputs[0].sizes[0], (n,), generator=rng))

    def figures(self, predict: Predict, data: DataSource, split: str, services: Services) -> Sequence[Figure]:
        """How many samples have which modalities, and how many of them are answered rightly."""
        samples = data.split(split)
        names = may_lack(each.name for each in data.fields if each.use == "input")
        n, right = Counter[str](), Counter[str]()
        for start in range(0, len(samples.ids), 256):
            batch = samples.load(range(start, min(start + 256, len(samples.ids))))
            hits = (predict(batch)["logits"].argmax(1).cpu() == batch["label"]).tolist()
            there = torch.stack([is_present(batch, name) for name in names], 1).tolist()
            for has, hit in zip(there, hits, strict=True):
                kind = " + ".join(name for name, is_there in zip(names, has, strict=True) if is_there)
                n[kind], right[kind] = n[kind] + 1, right[kind] + hit
        rows = [(kind, count, f"{right[kind] / count:.1%}") for kind, count in n.most_common()]
        values = [{"has": kind, "samples": count, "right": right[kind] / count} for kind, count in n.most_common()]
        bars = {
            "description": "share of right answers by what samples have",
            "data": {"values": values},
            "width": "container",
            "mark": {"type": "bar", "tooltip": True},
            "encoding": {
                "x": {"field": "right", "type": "quantitative", "axis": {"format": ".0%"}, "title": "right"},
                "y": {"field": "has", "type": "nominal", "sort": None, "title": None},
            },
        }
        says = "Right answers among the samples that have these modalities and lack the others; most samples first."
        table = Table("By what is there", ["has", "samples", "right"], rows)
        return [Figure("modalities", "What samples have", says, [bars], [table])]
