"""Data recipe: training data that teachers write, label or judge, record by record."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

from kdsearch.kinds.data import DataSource
from kdsearch.kinds.options import Capability, O
from kdsearch.kinds.services import Services


@dataclass(frozen=True)
class Record:
    """One record of a recipe: its key, JSON-able fields, and why it was rejected ("" = kept)."""

    key: str
    fields: Mapping[str, Any]
    rejected: str = ""


class DataRecipe(Capability, Generic[O]):
    """Synthesises, curates or relabels training data, in stage `prepare`. Recipes chain: the next one's source has what this
    one gave as `train`; what the last one gives is what students train on. Validation and test stay the data set's.

    An option of type `TextTeacher` or `EmbeddingTeacher`, or `TeacherNamed("logits")`, names a teacher that it may ask.
    Not its work: files, retries, threads, caches. Keys that the store has are never asked again.
    """

    chunk: ClassVar[int | None] = 16  # keys per call of `make`; None = all at once

    def __init__(self, options: O) -> None:
        self.options = options

    @abstractmethod
    def keys(self, source: DataSource) -> Sequence[str]:
        """Stable keys of the records to be made."""

    @abstractmethod
    def make(self, keys: Sequence[str], source: DataSource, services: Services) -> Iterable[Record]:
        """One record a key, in order; a pure function of (keys, source, teachers, seed). `source` has no test split."""

    def open(self, records: Sequence[Record], source: DataSource) -> DataSource | None:
        """What the kept records are as data, with a split `train`. Default: None, the samples that they describe.

        A record whose key is the id of a sample in the source's `train` is that sample, with the record's fields in place of its
        own; any other one is a new sample, whose target nobody knows where the record has none. A number is a field's value, a
        list of numbers a vector's; a text becomes what the source's `encode` gives for it (see `Encodes`).
        """
        return None
