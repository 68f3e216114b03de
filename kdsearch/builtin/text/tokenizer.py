"""Texts to token ids: words or characters, those that training texts have; stored as JSON and shipped with a student."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field as Option

from kdsearch.builtin.text import prepare
from kdsearch.kinds import Options

Form = Literal["none", "NFC", "NFD", "NFKC", "NFKD"]
LONGEST = 65_536  # tokens of a text
RESERVED = prepare.SEPARATOR + 1  # ids before the vocabulary's


class TokenizerOptions(Options):
    level: Literal["word", "char"] = Option("word", description="what a token is: a word or a mark, or a character")
    lowercase: bool = Option(True, description="capital letters are small ones")
    form: Form = Option(
        "none",
        description="Unicode's normal form of the texts: NFD takes letters from their marks, and syllables to letters",
    )
    vocabulary: Annotated[int, Option(ge=1, le=1_000_000)] = Option(
        8192,
        description="at most so many tokens, the most frequent ones of the training texts; all others are one, unknown",
    )
    min_count: int = Option(2, ge=1, description="tokens that the training texts have less often are unknown")
    max_length: int = Option(128, ge=1, le=LONGEST, description="tokens of a text; what is longer is cut")


@dataclass(frozen=True)
class Tokenizer:
    """Ids: 0 padding, 1 unknown, 2 between the texts of a sample, then the vocabulary's, the most frequent first.

    Args:
        columns: names of the texts that make a sample.
        written: the last of them, where that is written a token after another, from a boundary on; "" = none is.
        form: Unicode's normal form that texts are brought to first.
    """

    level: str
    lowercase: bool
    max_length: int
    columns: tuple[str, ...]
    vocabulary: tuple[str, ...]
    written: str = ""
    form: str = "none"

    @classmethod
    def of(cls, options: TokenizerOptions, columns: Sequence[str], texts: Iterable[str]) -> Tokenizer:
        """With the vocabulary of these texts; equally frequent tokens are in alphabetical order."""
        bare = cls(options.level, options.lowercase, options.max_length, tuple(columns), (), form=options.form)
        counts = Counter(piece for text in texts for piece in bare.pieces(text))
        often = [piece for piece, n in counts.items() if n >= options.min_count]
        often.sort(key=lambda piece: (-counts[piece], piece))
        return replace(bare, vocabulary=tuple(often[: options.vocabulary]))

    @cached_property
    def ids(self) -> Mapping[str, int]:
        return prepare.numbered(self.about)

    @cached_property
    def about(self) -> dict[str, object]:
        return asdict(self)

    @property
    def n_values(self) -> int:
        return RESERVED + len(self.vocabulary)

    def pieces(self, text: str) -> list[str]:
        return prepare.pieces(text, self.about)

    def encode(self, texts: Sequence[str]) -> list[int]:
        """Ids of one sample of these texts, by column."""
        return prepare.encoded(texts, self.about, self.ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids: padding and separators are nothing, an unknown token is "?", between words is a space."""
        found = [
            self.vocabulary[i - RESERVED] if i >= RESERVED else "?"
            for i in ids
            if i == prepare.UNKNOWN or i >= RESERVED
        ]
        return (" " if self.level == "word" else "").join(found)

    def files(self) -> dict[str, bytes]:
        """`tokenizer.json`, and `prepare.py`, which reads it without kdsearch."""
        text = json.dumps(self.about, ensure_ascii=False, indent=1)
        return {"tokenizer.json": text.encode(), "prepare.py": Path(prepare.__file__).read_bytes()}
