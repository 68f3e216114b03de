"""Short texts of three topics: words of the topic among words of all, as token ids with their mask and as text."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence

import torch
from pydantic import Field as Option
from torch import Tensor

from kdsearch.errors import DataError
from kdsearch.kinds import Batch, Dataset, Field, Options, Services, Split

TOPICS = ("sport", "kitchen", "weather")
LENGTH, VOCABULARY = 10, 512


class TopicsOptions(Options):
    n: int = Option(300, ge=9, description="texts")
    words: int = Option(40, ge=1, description="of each topic; as many are common to all")
    share: float = Option(0.5, gt=0, le=1, description="of a text's words that are its topic's")


def sentence(topic: str, words: int, share: float, rng: torch.Generator) -> str:
    """6 to 10 words."""
    found = []
    for _ in range(int(torch.randint(6, LENGTH + 1, (), generator=rng))):
        is_own = float(torch.rand((), generator=rng)) < share
        number = int(torch.randint(words, (), generator=rng))
        found.append(f"{topic if is_own else 'word'}{number}")
    return " ".join(found)


def encode(texts: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """Words hashed to 1 .. 511; 0 and a mask of 0 where there is none."""
    rows = [[1 + zlib.crc32(word.encode()) % (VOCABULARY - 1) for word in text.split()] for text in texts["text"]]
    tokens = torch.tensor([[*row[:LENGTH], *[0] * (LENGTH - len(row))] for row in rows], dtype=torch.int64)
    tokens = tokens.view(-1, LENGTH)
    return {"tokens": tokens, "mask": (tokens > 0).long()}


class TopicsSplit:
    def __init__(self, options: TopicsOptions) -> None:
        self.ids = tuple(f"text-{i:04d}" for i in range(options.n))
        self.labels = torch.arange(options.n) % len(TOPICS)
        rng = torch.Generator().manual_seed(0)
        self.texts = [sentence(TOPICS[label], options.words, options.share, rng) for label in self.labels]
        self.fed = encode({"text": self.texts})

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        at = torch.as_tensor(list(index), dtype=torch.int64)
        tensors = {name: rows[at] for name, rows in self.fed.items()}
        texts = {"text": [self.texts[i] for i in index]}
        return Batch(tuple(self.ids[i] for i in index), {**tensors, "label": self.labels[at]}, texts=texts)


class TopicsSource:
    fields = (
        Field("tokens", "tokens", (LENGTH,), "int64", n_values=VOCABULARY),
        Field("mask", "mask", (LENGTH,), "int64"),
        Field("label", "label", (), "int64", "target"),
    )
    facts: Mapping[str, object] = {"classes": list(TOPICS), "source": "drawn", "licence": "none"}
    splits = ("train",)

    def __init__(self, options: TopicsOptions) -> None:
        self._train = TopicsSplit(options)

    def split(self, name: str) -> Split:
        if name != "train":
            raise DataError(f"no split '{name}'", expected="train")
        return self._train

    def encode(self, texts: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
        return encode(texts)

    def files(self) -> dict[str, bytes]:
        """How words become tokens."""
        return {"words.json": json.dumps({"hash": "crc32", "values": VOCABULARY, "length": LENGTH}).encode()}


class Topics(Dataset[TopicsOptions]):
    """Texts that any machine has."""

    def open(self, services: Services) -> TopicsSource:
        return TopicsSource(self.options)
