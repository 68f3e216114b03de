"""Samples of tasks that write a token after another: what has been read so far, and the token that comes next.

A boundary token begins each sequence and ends it. Without a target column a sequence is a text, for the task `causal_lm`; with one
it is the target, which is written for a text, for the task `seq2seq`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from kdsearch.builtin.text import generate
from kdsearch.builtin.text.prepare import SEPARATOR as BOUNDARY
from kdsearch.builtin.text.prepare import UNKNOWN
from kdsearch.builtin.text.tokenizer import Tokenizer, TokenizerOptions
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Batch, Field, Split, split_of
from kdsearch.kit.tables import unrepeated
from kdsearch.ops.padding import stacked

NEXT, PREFIX, PREFIX_MASK = "next", "prefix", "prefix_mask"
Piece = str | None  # None = the boundary
Pieces = tuple[Piece, ...]
UNTOLD: Pieces = (None,)  # a target that nobody knows: its boundary, and nothing that follows


@dataclass(frozen=True)
class Written:
    """The samples of one split, in pieces: each of `target` is written, after `text` has been read where there is one.

    `groups`: of each sample, where there are equal ones.
    """

    ids: tuple[str, ...]
    target: Sequence[Pieces]
    text: Sequence[Pieces] | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class SequenceSplit:
    """`tokens` and `mask` (B, N), and `next` (B, N): what follows each token; N as long as a batch's longest sample.

    Of pairs `tokens` and `mask` (B, N) are the text, `prefix` and `prefix_mask` (B, M) the target from its boundary on, and `next`
    (B, M) what follows each of its tokens.
    """

    rows: Written
    numbers: Mapping[str, int]

    @property
    def ids(self) -> tuple[str, ...]:
        return self.rows.ids

    @property
    def groups(self) -> tuple[str, ...]:
        return self.rows.groups

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        at, rows = list(index), self.rows
        written = [self._numbered(rows.target[i]) for i in at]
        names = ("tokens", "mask") if rows.text is None else (PREFIX, PREFIX_MASK)
        nobody = torch.tensor([HIDDEN])
        tensors = dict(zip(names, _padded([each[: max(1, len(each) - 1)] for each in written]), strict=True))
        tensors[NEXT] = _padded([each[1:] if len(each) > 1 else nobody for each in written], HIDDEN)[0]
        if rows.text is not None:
            read = [self._numbered(rows.text[i]) for i in at]
            tensors |= dict(zip(("tokens", "mask"), _padded(read), strict=True))
        return Batch(tuple(self.ids[i] for i in at), tensors)

    def _numbered(self, pieces: Pieces) -> Tensor:
        found = [BOUNDARY if piece is None else self.numbers.get(piece, UNKNOWN) for piece in pieces]
        return torch.tensor(found, dtype=torch.int64)


def _padded(rows: Sequence[Tensor], padding: float = 0) -> tuple[Tensor, Tensor]:
    """(B, N) and its mask."""
    if not rows:
        return torch.zeros((0, 1), dtype=torch.int64), torch.zeros((0, 1), dtype=torch.int64)
    return stacked(rows, padding), stacked([torch.ones_like(row) for row in rows])


class SequenceSource:
    """The vocabulary is that of the training samples, of a study's own once it has split them; texts and targets share it."""

    def __init__(
        self,
        splits: Mapping[str, Written],
        options: TokenizerOptions,
        facts: Mapping[str, Any],
        learned: Collection[str] | None = None,
        labeled: Collection[str] | None = None,
    ) -> None:
        """`learned`: ids of the samples whose tokens are the vocabulary, `labeled`: of those whose targets' are, too; None = all.

        A text that has no target is its own: it is read as any input is.
        """
        self._rows, self._options, self._facts = dict(splits), options, dict(facts)
        train = self._rows["train"]
        kept = [i for i, sample in enumerate(train.ids) if learned is None or sample in learned]
        told = kept if labeled is None or train.text is None else [i for i in kept if train.ids[i] in labeled]
        told = [i for i in told if len(train.target[i]) > 1]
        self._columns = ("text",) if train.text is None else ("text", "target")
        self._typical_text = int(median(len(train.text[i]) for i in kept)) if train.text is not None else 0
        self._typical = int(median(len(train.target[i]) - 1 for i in told)) if told else self._typical_text
        read = [train.text[i] for i in kept] if train.text is not None else []
        self._tokenizer = _tokenizer(options, self._columns, [*(train.target[i] for i in told), *read])
        self._splits = {name: SequenceSplit(rows, self._tokenizer.ids) for name, rows in self._rows.items()}

    @property
    def fields(self) -> tuple[Field, ...]:
        written, read, n = self._typical, self._typical_text or self._typical, self._tokenizer.n_values
        found = [
            Field("tokens", "tokens", (None,), "int64", n_values=n, open_size=read),
            Field("mask", "mask", (None,), "int64", open_size=read),
        ]
        if len(self._columns) > 1:
            found.append(Field(PREFIX, "tokens", (None,), "int64", n_values=n, open_size=written))
            found.append(Field(PREFIX_MASK, "mask", (None,), "int64", open_size=written))
        return *found, Field(NEXT, "tokens", (None,), "int64", "target", n, open_size=written)

    @property
    def facts(self) -> Mapping[str, Any]:
        about = {"level": self._options.level, "vocabulary": len(self._tokenizer.vocabulary), "length": self._typical}
        return {**self._facts, "content": self._content, "tokenizer": about, "boundary": BOUNDARY}

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def split(self, name: str) -> Split:
        return split_of(self._splits, name)

    def measured_on(self, ids: Collection[str], labeled: Collection[str]) -> SequenceSource:
        """With the vocabulary of these samples of `train`, and of the labeled ones' targets."""
        return SequenceSource(self._rows, self._options, self._facts, frozenset(ids), frozenset(labeled))

    def encode(self, texts: Mapping[str, Sequence[str]]) -> Mapping[str, Tensor]:
        """What a teacher writes becomes samples too: `text`, and `target` where samples have one."""
        if lacks := next((name for name in self._columns if name not in texts), None):
            raise DataError(f"no text '{lacks}'", expected=", ".join(self._columns))
        ids = tuple(str(i) for i in range(len(texts["text"])))
        most = self._options.max_length
        read = [tuple(self._tokenizer.pieces(each)[:most]) for each in texts["text"]]
        if len(self._columns) == 1:
            rows = Written(ids, [(None, *pieces, None)[: most + 1] for pieces in read])
        else:
            rows = Written(ids, [bounded(self._tokenizer.pieces(each)[:most]) for each in texts["target"]], read)
        return SequenceSplit(rows, self._tokenizer.ids).load(range(len(ids))).tensors

    def decode(self, ids: Sequence[int]) -> str:
        """Their pieces; "?" is one that is unknown."""
        return self._tokenizer.decode(ids)

    def files(self) -> Mapping[str, bytes]:
        """The vocabulary, `prepare.py`, and `generate.py`, which writes with exported networks and needs no kdsearch."""
        return {**self._tokenizer.files(), "generate.py": Path(generate.__file__).read_bytes()}

    @cached_property
    def _content(self) -> str:
        seen = hashlib.sha256()
        for name, rows in self._rows.items():
            seen.update(f"\0{name}\0{len(rows.ids)}\0".encode())
            for part in (rows.text or (), rows.target):
                for pieces in part:
                    seen.update(_joined(pieces).encode("utf-8", "surrogatepass"))
        return seen.hexdigest()


def bounded(pieces: Sequence[str]) -> Pieces:
    return None, *pieces, None


def windows(
    texts: Mapping[str, Sequence[str]], length: int, packed: bool, split: str = "train", equal: Sequence[str] = ()
) -> Written:
    """Texts, in pieces, by id, as samples of at most `length` tokens that are read: every piece is to be foretold once.

    Args:
        packed: texts one after the other, a boundary between them, in windows of `length`; else each text begins a sample,
            of which a long one has several.
        equal: of each text, what equal ones have in common; () = there are none.
    """
    if packed:
        stream: list[Piece] = [None]
        for pieces in texts.values():
            stream += [*pieces, None]
        cut = list(_windows(stream, length))
        held = tuple(f"{split}-{_digest(each)}" for each in cut)
        return Written(tuple(unrepeated(held)), cut, groups=held)
    ids, found, groups = [], [], []
    for (sample, pieces), group in zip(texts.items(), equal or texts, strict=True):
        for i, each in enumerate(_windows(bounded(pieces), length)):
            ids.append(sample if i == 0 else f"{sample}+{i}")
            groups.append(group if i == 0 else f"{group}+{i}")
            found.append(each)
    return Written(tuple(ids), found, groups=tuple(groups))


def _windows(pieces: Sequence[Piece], length: int) -> Iterator[Pieces]:
    """The last piece of each is the first of the next one."""
    for start in range(0, len(pieces) - 1, length):
        yield tuple(pieces[start : start + length + 1])


def _digest(pieces: Pieces) -> str:
    return hashlib.blake2b(_joined(pieces).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _joined(pieces: Pieces) -> str:
    return "\1".join("\2" if piece is None else piece for piece in pieces) + "\0"


def _tokenizer(options: TokenizerOptions, columns: tuple[str, ...], texts: Iterable[Pieces]) -> Tokenizer:
    """Raise DataError where no token is frequent enough."""
    counts = Counter(piece for each in texts for piece in each if piece is not None)
    often = sorted((piece for piece, n in counts.items() if n >= options.min_count), key=lambda p: (-counts[p], p))
    if not often:
        raise DataError(
            f"no token occurs {options.min_count} times in the training texts",
            path="data.options.min_count",
            expected="texts with tokens in common, or a lower number",
        )
    vocabulary = tuple(often[: options.vocabulary])
    made = options.level, options.lowercase, options.max_length, columns, vocabulary, columns[-1]
    return Tokenizer(*made, options.form)
