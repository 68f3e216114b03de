"""A teacher that only writes and embeds, by rule. What it is asked goes to $TEXTS_LOG; it dies at prompt $TEXTS_KILL."""

from __future__ import annotations

import os
import re
import signal
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from kdsearch_texts.topics import TOPICS, sentence
from pydantic import Field
from torch import Tensor

from kdsearch.kinds import Access, Options, Reply, Services, Teacher, Writer


class ScriptedOptions(Options):
    wrong: float = Field(0.1, ge=0, le=1, description="share of wrong answers")
    manner: str = Field("", description="nothing that an answer depends on")


class Scripted(Teacher[ScriptedOptions]):
    """Labels a text by its words, or writes one about a topic."""

    access = Access.TEXT

    def writer(self, services: Services) -> Writer:
        return ScriptedWriter(self.options)

    def embed(self, texts: Sequence[str], services: Services) -> Tensor:
        """(N, 16): words hashed and counted."""
        noted("embed", len(texts))
        rows = torch.zeros(len(texts), 16)
        for i, text in enumerate(texts):
            for word in text.split():
                rows[i, zlib.crc32(word.encode()) % 16] += 1
        return rows

    def identity(self, services: Services) -> dict[str, float]:
        return {"wrong": self.options.wrong}


class ScriptedWriter:
    answered: ClassVar[int] = 0

    def __init__(self, options: ScriptedOptions) -> None:
        self.options = options

    def write(
        self,
        prompts: Sequence[str],
        n: int = 1,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        max_tokens: int = 256,
    ) -> list[list[Reply]]:
        return [[self.reply(prompt, i) for i in range(n)] for prompt in prompts]

    def reply(self, prompt: str, number: int) -> Reply:
        type(self).answered += 1
        noted(prompt, 1)
        if type(self).answered == int(os.environ.get("TEXTS_KILL", 0)):
            os.kill(os.getpid(), signal.SIGKILL)
        chance = zlib.crc32(f"{prompt}/{number}".encode())
        task, _, rest = prompt.partition(": ")
        if task == "write":
            rng = torch.Generator().manual_seed(chance)
            text = sentence(rest.partition(" ")[0], 40, 0.5, rng)
        else:
            counts = Counter(re.findall(r"[a-z]+", rest))
            text = max(TOPICS, key=lambda topic: counts[topic])
            text = "no idea" if chance % 1000 < 500 * self.options.wrong else text
            text = TOPICS[chance % 3] if chance % 1000 > 1000 - 500 * self.options.wrong else text
        return Reply(text, tokens=len(text.split()), prompt_tokens=len(prompt.split()))


def noted(what: str, count: int) -> None:
    if log := os.environ.get("TEXTS_LOG"):
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{what}\n" * count)
