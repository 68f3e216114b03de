"""Samples of texts, and pairs of a query and a document, as token ids with their mask."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median
from typing import Any

import torch
from torch import Tensor

from kdsearch.builtin.tables.columns import class_names
from kdsearch.builtin.text.prepare import SEPARATOR
from kdsearch.builtin.text.tokenizer import Tokenizer, TokenizerOptions
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Batch, Field, Split, split_of
from kdsearch.ops.padding import stacked

LABEL = "label"
DOCUMENT, QUERY_ID, DOCUMENT_ID, PAIRED = "document_", "query", "document", "paired"  # fields of pairs
EMBEDDING = "embedding"  # what is answered for them


@dataclass(frozen=True)
class Rows:
    """The samples of one split.

    Args:
        texts: column -> a text a sample; a document's column too.
        labels: (N,) classes, HIDDEN where there is none; None = samples have none.
        groups: of each sample, where there are equal ones.
    """

    ids: tuple[str, ...]
    texts: Mapping[str, Sequence[str]]
    labels: Tensor | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextSplit:
    """`tokens` and `mask` (B, N), N as long as the longest text of a batch.

    Of pairs those of the document too, for both a number that equal texts share, `query` and `document` (B,), and `paired` (B,), 1:
    the document is what the query should find. Where a study hides that it is NaN.
    """

    rows: Rows
    tokenizer: Tokenizer
    columns: tuple[str, ...]
    document: str | None
    numbers: Mapping[str, int] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        return self.rows.ids

    @property
    def labels(self) -> Tensor | None:
        return self.rows.labels

    @property
    def groups(self) -> tuple[str, ...]:
        return self.rows.groups

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        at = list(index)
        texts = {name: [column[i] for i in at] for name, column in self.rows.texts.items()}
        tensors = fed(self.tokenizer, [texts[name] for name in self.columns])
        if self.document is not None:
            of_document = fed(self.tokenizer, [texts[self.document]])
            tensors |= {f"{DOCUMENT}{name}": tensor for name, tensor in of_document.items()}
            tensors[QUERY_ID] = self._numbers([_joined(texts, self.columns, i) for i in range(len(at))])
            tensors[DOCUMENT_ID] = self._numbers(texts[self.document])
            tensors[PAIRED] = torch.ones(len(at))
        if self.labels is not None:
            tensors[LABEL] = self.labels[torch.as_tensor(at, dtype=torch.int64)]
        return Batch(tuple(self.ids[i] for i in at), tensors, texts=texts)

    def _numbers(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([self.numbers[text] for text in texts], dtype=torch.int64)


def _joined(texts: Mapping[str, Sequence[str]], columns: Sequence[str], i: int) -> str:
    return "\n".join(texts[name][i] for name in columns)


def fed(tokenizer: Tokenizer, columns: Sequence[Sequence[str]]) -> dict[str, Tensor]:
    """`tokens` and `mask` (B, N) of B samples; `columns`: B texts each."""
    rows = [torch.tensor(tokenizer.encode(texts), dtype=torch.int64) for texts in zip(*columns, strict=True)]
    tokens = stacked(rows) if rows else torch.zeros((0, 1), dtype=torch.int64)
    return {"tokens": tokens, "mask": (tokens > 0).to(torch.int64)}


class TextSource:
    """Texts with a class each, or pairs. The vocabulary is that of the training texts, of a study's own once it has split them."""

    def __init__(
        self,
        splits: Mapping[str, Rows],
        columns: Sequence[str],
        options: TokenizerOptions,
        facts: Mapping[str, Any],
        document: str | None = None,
        learned: Collection[str] | None = None,
    ) -> None:
        """`learned`: ids of the samples whose texts the vocabulary is of; None = all of `train`."""
        self._rows, self._columns, self._document = dict(splits), tuple(columns), document
        self._options, self._facts = options, dict(facts)
        least = 2 * len(self._columns) - 1
        if options.max_length < least:
            expected = f"{least} or more: a token of each of {len(self._columns)} texts, and one between two"
            raise DataError(f"max_length {options.max_length}", path="data.options.max_length", expected=expected)
        train = self._rows["train"]
        kept = [i for i, sample in enumerate(train.ids) if learned is None or sample in learned]
        both = [*self._columns, *([document] if document is not None else [])]
        self._tokenizer = Tokenizer.of(options, columns, (train.texts[name][i] for i in kept for name in both))
        if not self._tokenizer.vocabulary:
            raise DataError(
                f"no token occurs {options.min_count} times in the training texts",
                path="data.options.min_count",
                expected="texts with tokens in common, or a lower number",
            )
        lengths = [len(self._tokenizer.encode([train.texts[name][i] for name in self._columns])) for i in kept]
        self._typical = int(median(lengths))
        numbers: dict[str, int] = {}
        if document is not None:
            for name in sorted(self._rows):
                rows = self._rows[name]
                for i in range(len(rows.ids)):
                    numbers.setdefault(_joined(rows.texts, self._columns, i), len(numbers))
                    numbers.setdefault(rows.texts[document][i], len(numbers))
        self._splits = {
            name: TextSplit(rows, self._tokenizer, self._columns, document, numbers)
            for name, rows in self._rows.items()
        }

    @property
    def fields(self) -> tuple[Field, ...]:
        between = SEPARATOR if len(self._columns) > 1 else None
        tokens = Field(
            "tokens",
            "tokens",
            (None,),
            "int64",
            n_values=self._tokenizer.n_values,
            open_size=self._typical,
            separator=between,
        )
        mask = Field("mask", "mask", (None,), "int64", open_size=self._typical)
        if self._document is None:
            has_labels = self._rows["train"].labels is not None
            return tokens, mask, *([Field(LABEL, "label", (), "int64", "target")] if has_labels else [])
        documents = tuple(replace(each, name=f"{DOCUMENT}{each.name}", separator=None) for each in (tokens, mask))
        ids = (Field(name, "id", (), "int64", "extra") for name in (QUERY_ID, DOCUMENT_ID))
        return tokens, mask, *documents, *ids, Field(PAIRED, "paired", (), use="target")

    @property
    def facts(self) -> Mapping[str, Any]:
        """Of pairs `columns` too: which of a batch's texts are a query, and which one a document."""
        about = {"level": self._options.level, "vocabulary": len(self._tokenizer.vocabulary), "length": self._typical}
        columns = {"query": list(self._columns), "document": [self._document]} if self._document is not None else None
        return {
            **self._facts,
            "content": self._content,
            "tokenizer": about,
            **({"columns": columns} if columns is not None else {}),
        }

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def split(self, name: str) -> Split:
        return split_of(self._splits, name)

    def measured_on(self, ids: Collection[str], labeled: Collection[str]) -> TextSource:
        """With the vocabulary of these samples of `train`."""
        return TextSource(self._rows, self._columns, self._options, self._facts, self._document, frozenset(ids))

    def encode(self, texts: Mapping[str, Sequence[str]]) -> Mapping[str, Tensor]:
        if lacks := next((name for name in self._columns if name not in texts), None):
            raise DataError(f"no text '{lacks}'", expected=", ".join(self._columns))
        return fed(self._tokenizer, [texts[name] for name in self._columns])

    def files(self) -> Mapping[str, bytes]:
        return self._tokenizer.files()

    @cached_property
    def _content(self) -> str:
        seen = hashlib.sha256()
        for name, rows in self._rows.items():
            seen.update(f"\0{name}\0".encode())
            for column in rows.texts.values():
                for text in column:
                    seen.update(f"{len(text)}\0{text}".encode("utf-8", "surrogatepass"))
        return seen.hexdigest()


def classes_of(names: Mapping[str, Sequence[str | None]]) -> tuple[list[str], dict[str, Tensor]]:
    """The classes as `class_names` orders them, and of each split (N,) the index of every name, HIDDEN where there is none."""
    classes = class_names({name for each in names.values() for name in each if name is not None})
    index = {name: i for i, name in enumerate(classes)}
    return classes, {
        split: torch.tensor([HIDDEN if name is None else index[name] for name in each], dtype=torch.int64)
        for split, each in names.items()
    }


def is_pair(batch: Batch) -> Tensor:
    """(B,) bool: whether the document is known to be what the query should find."""
    if PAIRED in batch:
        return batch[PAIRED] == 1
    return torch.ones(len(batch), dtype=torch.bool, device=batch[QUERY_ID].device)
