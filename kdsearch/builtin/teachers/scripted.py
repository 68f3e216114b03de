"""Teacher `scripted`: writes what a file says, by prompt or by the id of the sample that the prompt speaks of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kdsearch.errors import DataError, nearest
from kdsearch.kinds import Access, Options, Reply, Services, Teacher, Writer
from kdsearch.kit.tables import Table, TableFiles, read_table


class ScriptedOptions(Options):
    path: str = Field(
        description="JSON Lines, relative to the study: `prompt` or `id`, and `text` (or a list: the nth for the nth reply), "
        "`vector` (an embedding of the prompt), or both"
    )
    missing: Literal["refuse", "error"] = Field(
        "refuse",
        description="a prompt that no line answers: an error that names it, or an empty reply that has ended in one",
    )


class Scripted(Teacher[ScriptedOptions]):
    """A line with a `prompt` answers that prompt; one with an `id` answers every prompt that has it as a word."""

    access = Access.TEXT

    def preflight(self, services: Services) -> None:
        self._script(services)

    def writer(self, services: Services) -> Writer:
        """Raise DataError, with the line, for a file that is none of this form."""
        return ScriptedWriter(self._script(services), self.options.missing == "refuse")

    def embed(self, texts: Sequence[str], services: Services) -> Tensor:
        """Raise DataError for a text that no line has a vector of: there is no empty one."""
        script = self._script(services)
        rows = [script.vector(text) for text in texts]
        return torch.tensor(rows, dtype=torch.float32).view(len(rows), -1)

    def facts(self) -> Mapping[str, Any]:
        return {"source": Path(self.options.path).name}

    def _script(self, services: Services) -> Script:
        return Script(read_table(services.file(self.options.path), TableFiles(path=self.options.path, copies="keep")))


class Script:
    """What a file answers."""

    def __init__(self, table: Table) -> None:
        self.table = table
        columns = set(table.columns)
        if not columns & {"prompt", "id"} or not columns & {"text", "vector"}:
            expected = "`prompt` or `id`, and `text` or `vector`, in each line"
            raise DataError(f"its lines have {', '.join(table.columns)}", file=table.file, expected=expected)
        self.prompts, self.ids = self._keys("prompt"), self._keys("id")
        width: int | None = None
        for row in range(len(table)):
            if (self._at("prompt", row) is None) == (self._at("id", row) is None):
                raise table.fault(row, "", "a line with neither or both of `prompt` and `id`", "one of them")
            self.texts(row)
            if (vector := self._at("vector", row)) is not None:
                width = self._checked(vector, row, width)

    def _keys(self, column: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for row in range(len(self.table)):
            key = self._at(column, row)
            if key is None:
                continue
            if not isinstance(key, str) or not key.strip():
                raise self.table.fault(row, column, f"{key!r:.60}", "a text")
            if key in found:
                raise self.table.fault(row, column, f"'{key:.60}' is answered twice", "one line for each")
            found[key] = row
        return found

    def _at(self, column: str, row: int) -> Any:
        return self.table.values[column][row] if column in self.table.values else None

    def _checked(self, vector: Any, row: int, width: int | None) -> int:
        is_numbers = isinstance(vector, list) and vector and all(type(each) in (int, float) for each in vector)
        if not is_numbers or width not in (None, len(vector)):
            raise self.table.fault(row, "vector", f"{vector!r:.60}", f"a list of {width or 'one or more'} numbers")
        return len(vector)

    def texts(self, row: int) -> list[str]:
        found = self._at("text", row)
        every = found if isinstance(found, list) else [] if found is None else [found]
        if (isinstance(found, list) and not found) or not all(isinstance(each, str) for each in every):
            raise self.table.fault(row, "text", f"{found!r:.60}", "a text, or a list of texts")
        return every

    def row(self, prompt: str) -> int | None:
        """The line that answers it. Raise DataError where several ids are words of it."""
        if prompt in self.prompts:
            return self.prompts[prompt]
        words = {word for word in prompt.split() if word in self.ids}
        if len(words) > 1:
            first, second, *_ = sorted(words)
            problem = f"a prompt has two ids of this file as words: '{first}' and '{second}'"
            raise DataError(problem, file=self.table.file, expected="prompts about one sample")
        return self.ids[words.pop()] if words else None

    def vector(self, prompt: str) -> list[float]:
        row = self.row(prompt)
        found: list[float] | None = None if row is None else self._at("vector", row)
        if found is None:
            raise self.lacks(prompt, "no vector of")
        return found

    def lacks(self, prompt: str, what: str) -> DataError:
        close = nearest(prompt, self.prompts)
        return DataError(
            f"has {what} '{prompt:.80}'",
            file=self.table.file,
            nearest=close,
            expected=f"a line for every prompt; there are {len(self.table):,}",
        )


class ScriptedWriter:
    """Tokens are words. The nth reply is the line's nth text, the first one again after the last."""

    def __init__(self, script: Script, refuses: bool) -> None:
        self._script, self._refuses = script, refuses

    def write(
        self,
        prompts: Sequence[str],
        n: int = 1,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        max_tokens: int = 256,
    ) -> list[list[Reply]]:
        """Raise DataError for a prompt without an answer, unless `missing` says otherwise."""
        return [self._replies(prompt, n, stop, max_tokens) for prompt in prompts]

    def _replies(self, prompt: str, n: int, stop: Sequence[str], max_tokens: int) -> list[Reply]:
        row = self._script.row(prompt)
        texts = [] if row is None else self._script.texts(row)
        asked = len(prompt.split())
        if not texts:
            if self._refuses:
                raise self._script.lacks(prompt, "no text for")
            return [Reply("", "error", prompt_tokens=0 if i else asked) for i in range(n)]
        return [_cut(texts[i % len(texts)], stop, max_tokens, 0 if i else asked) for i in range(n)]


def _cut(text: str, stop: Sequence[str], max_tokens: int, prompt_tokens: int) -> Reply:
    """The text up to the first stop, and no more than so many words."""
    ends = [at for each in stop if (at := text.find(each)) >= 0]
    text = text[: min(ends)] if ends else text
    words = text.split()
    if len(words) > max_tokens:
        return Reply(" ".join(words[:max_tokens]), "length", (), max_tokens, prompt_tokens)
    return Reply(text, "stop", (), len(words), prompt_tokens)
