"""Data recipes: labels that experts agree on, and samples that have one modality alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import torch
from pydantic import Field as Option

from kdsearch.kinds import HIDDEN, Batch, DataRecipe, DataSource, NoOptions, Options, Record, Services, TeacherNamed
from kdsearch.kit.modalities import is_present, without
from kdsearch_origins import prepare
from kdsearch_origins.data import PARTS, module_docs

VIEWS = (*PARTS, "body")


class AgreedOptions(Options):
    teacher: Annotated[str, TeacherNamed("logits")] = Option("main", description="is asked about each modality")
    share: float = Option(0.6, gt=0, le=1, description="of the modalities that have to name the class")


class Agreed(DataRecipe[AgreedOptions]):
    """Co-training (Blum and Mitchell, COLT 1998): a sample without a label gets one where views of it agree on it."""

    chunk = 128

    def keys(self, source: DataSource) -> Sequence[str]:
        return list(source.split("train").ids)

    def make(self, keys: Sequence[str], source: DataSource, services: Services) -> Iterable[Record]:
        split = source.split("train")
        place = {sample: i for i, sample in enumerate(split.ids)}
        batch = split.load([place[key] for key in keys])
        whole = self.said(batch, services)
        votes, voters = torch.zeros(len(batch)), torch.zeros(len(batch))
        for part in VIEWS:
            alone = batch
            for other in VIEWS:
                if other != part:
                    alone = without(alone, other)
            there = is_present(batch, part)
            votes, voters = votes + (there & (self.said(alone, services) == whole)), voters + there
        for i, key in enumerate(keys):
            label = int(batch["label"][i])
            if label != HIDDEN:
                yield Record(key, {"label": label})
            else:
                agreed = votes[i] >= self.options.share * voters[i]
                yield Record(key, {"label": int(whole[i])}, "" if agreed else "views disagree")

    def said(self, batch: Batch, services: Services) -> torch.Tensor:
        return services.predict(self.options.teacher, batch)["logits"].argmax(1).cpu()


class Modules(DataRecipe[NoOptions]):
    """What modules say of themselves, as further samples: they have documentation, and lack everything else."""

    chunk = None

    def keys(self, source: DataSource) -> Sequence[str]:
        return [*source.split("train").ids, *module_docs()]

    def make(self, keys: Sequence[str], source: DataSource, services: Services) -> Iterable[Record]:
        known, docs = set(source.split("train").ids), module_docs()
        for key in keys:
            if key in known:
                yield Record(key, {})  # the sample as it is
            else:
                text, label = docs[key]
                doc = prepare.ids("doc", prepare.words(text))
                yield Record(key, {"doc": doc, "doc_mask": [1] * len(doc), "label": label})
