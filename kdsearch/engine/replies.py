"""What teachers have written and embedded: kept in files that only grow, so that nothing is asked, or paid for, twice.

A line is one request with its replies, or one text with its vector. It is written as soon as it is there; a line that a kill
tore counts as not there.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsearch.errors import PluginError
from kdsearch.kinds import Reply, Writer
from kdsearch.store.files import append_line, read_lines
from kdsearch.store.hashing import digest

AT_ONCE = 32  # requests that a kill can lose at most
FINISHES = ("stop", "length", "error")


@dataclass
class KeptWriter:
    """A writer whose replies are kept; implements `Writer`.

    Args:
        teacher: its name, for messages. open: makes the writer, at the first request that is not there.
        file: of the replies; None = they are kept while this object lives.
        asker: what the requests are made for, such as a recipe's records: their cost is counted by it (`cost_of`).
    """

    teacher: str
    open: Callable[[], Writer]
    file: Path | None = None
    asker: str = ""

    @cached_property
    def _writer(self) -> Writer:
        return self.open()

    @cached_property
    def _there(self) -> dict[str, list[Reply]]:
        return {request: replies for request, _, replies in _read(self.file)} if self.file is not None else {}

    def write(
        self,
        prompts: Sequence[str],
        n: int = 1,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        max_tokens: int = 256,
    ) -> list[list[Reply]]:
        """See `Writer`. Raise PluginError where the teacher does not answer as it must."""
        asked = {"n": n, "temperature": temperature, "stop": list(stop), "seed": seed, "max_tokens": max_tokens}
        requests = [digest({**asked, "prompt": prompt}, 32) for prompt in prompts]
        missing = {key: prompt for key, prompt in zip(requests, prompts, strict=True) if key not in self._there}
        for some in _portions(list(missing), getattr(self._writer, "at_once", AT_ONCE) if missing else AT_ONCE):
            texts = [missing[key] for key in some]
            written = self._writer.write(texts, n, temperature, stop, seed, max_tokens)
            for key, replies in zip(some, self._checked(written, len(some), n), strict=True):
                if self.file is not None:
                    line = {"request": key, "asker": self.asker, "replies": [asdict(reply) for reply in replies]}
                    self.file.parent.mkdir(parents=True, exist_ok=True)
                    append_line(self.file, line)
                self._there[key] = replies
        return [list(self._there[key]) for key in requests]

    def _checked(self, written: Any, count: int, n: int) -> list[list[Reply]]:
        problem = ""
        if not isinstance(written, Sequence) or len(written) != count:
            problem = f"{len(written) if isinstance(written, Sequence) else type(written).__name__} for {count} prompts"
        elif wrong := [each for each in written if not isinstance(each, Sequence) or len(each) != n]:
            problem = f"{wrong[0]!r:.80} for one prompt"
        elif strange := [each for replies in written for each in replies if not isinstance(each, Reply)]:
            problem = f"{strange[0]!r:.80}"
        elif odd := [each for replies in written for each in replies if each.finish not in FINISHES]:
            problem = f"a reply that finished by '{odd[0].finish}'"
        if problem:
            raise PluginError(f"teacher '{self.teacher}' answers {problem}", expected=f"{n} Reply a prompt, in order")
        return [list(replies) for replies in written]


@dataclass
class KeptEmbedder:
    """Texts -> (N, D) float32; each text is embedded once. `embed`: the teacher's own, called with texts that are not there."""

    teacher: str
    embed: Callable[[Sequence[str]], Tensor]
    file: Path | None = None

    @cached_property
    def _there(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for line in read_lines(self.file) if self.file is not None else []:
            try:
                row = torch.from_numpy(np.frombuffer(base64.b64decode(line["vector"]), dtype="<f4").copy())
            except (KeyError, TypeError, ValueError):
                continue  # changed by hand: it is embedded anew
            if not found or len(row) == len(next(iter(found.values()))):
                found[str(line.get("text"))] = row
        return found

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Raise PluginError where the teacher gives no matrix of one finite row a text, always of one width."""
        keys = [digest(text, 32) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._there}
        for some in _portions(list(missing)):
            rows = self.embed([missing[key] for key in some])
            self._check(rows, len(some))
            for key, row in zip(some, rows.detach().cpu().float(), strict=True):
                if self.file is not None:
                    self.file.parent.mkdir(parents=True, exist_ok=True)
                    vector = base64.b64encode(row.numpy().astype("<f4").tobytes()).decode()
                    append_line(self.file, {"text": key, "vector": vector})
                self._there[key] = row.clone()
        return torch.stack([self._there[key] for key in keys]) if keys else torch.zeros(0, 0)

    def _check(self, rows: Any, n: int) -> None:
        width = len(next(iter(self._there.values()))) if self._there else None
        fits = isinstance(rows, Tensor) and rows.ndim == 2 and len(rows) == n and width in (None, rows.shape[1])
        if not fits or not bool(torch.isfinite(rows).all()):
            got = f"{tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
            problem = f"teacher '{self.teacher}' embeds {n} texts as {got}"
            raise PluginError(problem, expected=f"finite numbers ({n}, {width or 'D'})")


def cost_of(file: Path, asker: str) -> dict[str, int]:
    """`calls` (requests that the teacher answered), `prompt_tokens` and `tokens` that were spent for an asker."""
    found = {"calls": 0, "prompt_tokens": 0, "tokens": 0}
    for _, of, replies in _read(file):
        if of == asker:
            found["calls"] += 1
            found["prompt_tokens"] += sum(reply.prompt_tokens for reply in replies)
            found["tokens"] += sum(reply.tokens for reply in replies)
    return found


def _read(file: Path) -> Iterator[tuple[str, str, list[Reply]]]:
    """(request, asker, replies) of each line that is one."""
    for line in read_lines(file):
        replies = line.get("replies") if isinstance(line, Mapping) else None
        try:
            found = [Reply(**{**each, "logprobs": tuple(each["logprobs"])}) for each in replies or ()]
        except (KeyError, TypeError):
            continue  # changed by hand: it is asked anew
        if found and all(isinstance(each.text, str) and each.finish in FINISHES for each in found):
            yield str(line.get("request")), str(line.get("asker")), found


def _portions(keys: list[str], size: int = AT_ONCE) -> Iterator[list[str]]:
    for at in range(0, len(keys), size):
        yield keys[at : at + size]
