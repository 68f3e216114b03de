"""Data set `hangul`: Korean syllables, in the letters they are made of, and their names in Latin letters, as Unicode has them."""

from __future__ import annotations

import unicodedata

import torch
from pydantic import Field as Option

from kdsearch.builtin.text.sequence_options import SequenceOptions, pieces_of
from kdsearch.builtin.text.sequence_source import SequenceSource, Written, bounded
from kdsearch.builtin.text.tokenizer import Form
from kdsearch.errors import DataError
from kdsearch.kinds import Dataset, Services

FIRST, COUNT = 0xAC00, 11_172  # the syllables of Unicode, in order
NAME = "HANGUL SYLLABLE "


class HangulOptions(SequenceOptions):
    form: Form = Option(
        "NFD", description="Unicode's normal form of what is read: NFD = a syllable is two or three letters"
    )
    n: int = Option(1500, ge=10, le=100_000, description="words")
    syllables: int = Option(3, ge=1, le=20, description="of a word, at most; drawn, as its syllables are")


class Hangul(Dataset[HangulOptions]):
    """Words of drawn syllables, each once. A Korean letter is up to three Latin ones, by its place in the syllable."""

    task = "seq2seq"

    def open(self, services: Services) -> SequenceSource:
        """Raise DataError for more words than there are."""
        there_are = sum(COUNT**n for n in range(1, self.options.syllables + 1))
        if self.options.n > there_are // 2:
            problem = f"{self.options.n:,} words of at most {self.options.syllables} syllables"
            raise DataError(
                problem, path="data.options.n", expected=f"at most {there_are // 2:,}, half of all there are"
            )
        rng = torch.Generator().manual_seed(0)
        words: dict[str, None] = {}
        while len(words) < self.options.n:
            length = int(torch.randint(1, self.options.syllables + 1, (), generator=rng))
            words["".join(chr(FIRST + int(i)) for i in torch.randint(COUNT, (length,), generator=rng))] = None
        read = [tuple(pieces_of(self.options, word)) for word in words]
        written = [bounded(pieces_of(self.options, romanised(word))) for word in words]
        ids = tuple("-".join(f"{ord(each):x}" for each in word) for word in words)
        facts = {"source": f"names of Unicode {unicodedata.unidata_version}", "licence": "Unicode-3.0"}
        return SequenceSource({"train": Written(ids, written, read)}, self.options, facts)


def romanised(word: str) -> str:
    """The names of its syllables, in small letters."""
    return "".join(unicodedata.name(each).removeprefix(NAME).lower() for each in word)
