"""Teacher `tiny`: a causal model of characters, trained on a text in seconds; it writes, with log-probabilities, and embeds.

One GRU over embedded characters, p(c_t | c_<t), trained by cross entropy on random windows. It is no help to anyone's student: it
stands where a language model will, so that a recipe can be tried, and tested, without one.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from kdsearch.errors import DataError
from kdsearch.kinds import Access, Options, Reply, Services, Teacher, Writer
from kdsearch.kit.files import content
from kdsearch.kit.streams import stream

MOST = 4 << 20  # bytes of a text
WINDOW, BATCH, LR = 64, 32, 1e-2
UNKNOWN = 0  # of a character that the text has not; never written


class TinyOptions(Options):
    path: str | None = Field(
        None, description="a UTF-8 text, relative to the study; null = help texts of Python, in English"
    )
    steps: int = Field(
        300, ge=1, le=20_000, description="of training, 32 windows of 64 characters each; 300 take seconds"
    )
    width: int = Field(96, ge=4, le=1024, description="of its state, and of an embedding")


class Tiny(Teacher[TinyOptions]):
    """Tokens are characters. Weights are a function of text, options and the study's seed, made once for a study."""

    access = Access.LOGPROBS

    def preflight(self, services: Services) -> None:
        self._text(services)

    def writer(self, services: Services) -> Writer:
        return TinyWriter(self._model(services))

    def embed(self, texts: Sequence[str], services: Services) -> Tensor:
        """(N, width): the mean of the states over a text's characters; zeros for an empty one."""
        model = self._model(services)
        return torch.stack([model.embedded(text) for text in texts]) if texts else torch.zeros(0, self.options.width)

    def facts(self) -> Mapping[str, Any]:
        return {"source": Path(self.options.path).name if self.options.path else "Python's help texts, trained here"}

    def identity(self, services: Services) -> Mapping[str, Any]:
        """Python's help texts differ from one release to another."""
        text = "" if self.options.path else str(hash_of(self._text(services)))
        return {**self.options.model_dump(mode="json"), "text": text}

    def _text(self, services: Services) -> str:
        """Raise DataError for a file that is no UTF-8, or too short to learn from."""
        if self.options.path is None:
            return help_texts()
        file = services.file(self.options.path)
        try:
            text = content(file, "a text", most=MOST).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"byte {error.start:,} is no UTF-8", file=file, expected="a UTF-8 text") from None
        if len(text) <= WINDOW or len(set(text)) < 2:
            raise DataError(
                f"{len(text):,} characters", file=file, expected=f"more than {WINDOW}, of two kinds or more"
            )
        return text

    def _model(self, services: Services) -> Characters:
        text, o = self._text(services), self.options
        model = Characters("".join(sorted(set(text))), o.width)
        key = f"tiny {hash_of(text)} {o.steps} {o.width}"
        weights = services.once(key, lambda: trained(model, text, o.steps, services.rng(key)))
        model.load_state_dict(weights)
        return model.requires_grad_(False).eval()


class Characters(nn.Module):
    """(B, T) characters -> logits (B, T, K + 1) of the next ones; state (1, B, width)."""

    def __init__(self, alphabet: str, width: int) -> None:
        super().__init__()
        self.alphabet, self.width = alphabet, width
        self.place = {letter: i + 1 for i, letter in enumerate(alphabet)}
        self.embed = nn.Embedding(len(alphabet) + 1, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, len(alphabet) + 1)

    def forward(self, letters: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        states, last = self.gru(self.embed(letters), state)  # (B, T, D), (1, B, D)
        return self.out(states), states, last

    def encoded(self, text: str) -> Tensor:
        """(1, T)"""
        return torch.tensor([[self.place.get(letter, UNKNOWN) for letter in text]], dtype=torch.int64)

    @torch.no_grad()
    def embedded(self, text: str) -> Tensor:
        return self(self.encoded(text))[1][0].mean(0) if text else torch.zeros(self.width)

    @torch.no_grad()
    def reply(self, prompt: str, temperature: float, stop: Sequence[str], rng: Generator, max_tokens: int) -> Reply:
        """Goes on after the prompt; a line's end starts it where that is empty."""
        logits, _, state = self(self.encoded(prompt or "\n"))
        row, text, logprobs = logits[0, -1], "", list[float]()
        while len(text) < max_tokens:
            row[UNKNOWN] = -torch.inf
            scores = row.log_softmax(0)
            if temperature > 0:
                chosen = int(torch.multinomial((row / temperature).softmax(0), 1, generator=rng))
            else:
                chosen = int(scores.argmax())
            text += self.alphabet[chosen - 1]
            logprobs.append(float(scores[chosen]))
            for each in stop:
                if each and text.endswith(each):
                    text = text[: -len(each)]
                    return Reply(text, "stop", tuple(logprobs[: len(text)]), len(text), len(prompt))
            logits, _, state = self(torch.tensor([[chosen]]), state)
            row = logits[0, -1]
        return Reply(text, "length", tuple(logprobs), len(text), len(prompt))


class TinyWriter:
    def __init__(self, model: Characters) -> None:
        self._model = model

    def write(
        self,
        prompts: Sequence[str],
        n: int = 1,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        max_tokens: int = 256,
    ) -> list[list[Reply]]:
        """At temperature 0 the likeliest character each time, so that all n are equal; else drawn, by seed, prompt and number."""
        return [
            [
                self._model.reply(prompt, temperature, stop, stream(seed, prompt, number), max_tokens)
                for number in range(n)
            ]
            for prompt in prompts
        ]


@torch.enable_grad()
def trained(model: Characters, text: str, steps: int, rng: Generator) -> dict[str, Tensor]:
    """Weights after so many steps of Adam on windows that the stream draws."""
    letters = model.encoded(text)[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-(model.width**-0.5), model.width**-0.5, generator=rng)
    optimiser = torch.optim.Adam(model.parameters(), LR)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = LR * (1 - step / steps)
        starts = torch.randint(len(letters) - WINDOW, (BATCH,), generator=rng)
        windows = torch.stack([letters[at : at + WINDOW + 1] for at in starts.tolist()])
        loss = F.cross_entropy(model(windows[:, :-1])[0].flatten(0, 1), windows[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@functools.cache
def help_texts() -> str:
    """Prose on Python's syntax and types, which comes with it, without what is no ASCII."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore").decode()[:MOST]


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
