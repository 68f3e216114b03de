"""Data recipe `sequence_kd`: the teacher writes the targets that nobody has, and students learn from what it wrote.

Sequence-level knowledge distillation of Kim and Rush (EMNLP 2016, arXiv 1606.07947, section 3.2). Ours: the likeliest token each
time instead of a beam, and a target that is known stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated

import torch
from pydantic import Field as Option

from kdsearch.builtin.text.greedy import greedy
from kdsearch.builtin.text.prepare import SEPARATOR as BOUNDARY
from kdsearch.builtin.text.sequence_source import NEXT, PREFIX, PREFIX_MASK
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, DataRecipe, DataSource, Options, Record, Services, TeacherNamed


class SequenceKdOptions(Options):
    teacher: Annotated[str, TeacherNamed("logits")] = Option("main", description="writes the targets")
    max_length: int = Option(
        128, ge=1, le=65_536, description="tokens of a target; a text whose target does not end by then is left out"
    )


class SequenceKd(DataRecipe[SequenceKdOptions]):
    """Every training sample with its target, the known one or the teacher's, of the task `seq2seq`."""

    chunk = 64

    def keys(self, source: DataSource) -> Sequence[str]:
        """Raise DataError for data whose samples are not a text and its target."""
        names = {each.name for each in source.fields}
        if not {PREFIX, PREFIX_MASK, NEXT} <= names:
            raise DataError(
                f"sequence_kd: the data set has {', '.join(sorted(names))}",
                expected="texts with targets, as of seq2seq",
            )
        return list(source.split("train").ids)

    def make(self, keys: Sequence[str], source: DataSource, services: Services) -> Iterable[Record]:
        split, most = source.split("train"), self.options.max_length
        place = {sample: i for i, sample in enumerate(split.ids)}
        batch = split.load([place[key] for key in keys])
        is_known = (batch[NEXT] != HIDDEN).any(1)
        wanted: dict[int, list[int]] = {
            i: batch[NEXT][i][batch[NEXT][i] != HIDDEN].tolist() for i in is_known.nonzero()[:, 0].tolist()
        }
        unknown = (~is_known).nonzero()[:, 0]
        if len(unknown):
            begun, names = torch.full((len(unknown), 1), BOUNDARY), (PREFIX, PREFIX_MASK)
            answers = greedy(partial(services.predict, self.options.teacher), batch.rows(unknown), begun, names, most)
            wanted |= dict(zip(unknown.tolist(), answers, strict=True))
        for i, key in enumerate(keys):
            found = wanted[i]
            fields = {PREFIX: [BOUNDARY, *found[:-1]], PREFIX_MASK: [1] * len(found), NEXT: found}
            yield Record(key, fields, "" if found[-1] == BOUNDARY else "its target does not end")
