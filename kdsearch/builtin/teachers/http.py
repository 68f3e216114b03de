"""Teacher `http`: an endpoint of the OpenAI form, hosted or local, that writes or embeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kdsearch.builtin.teachers.endpoint import AnswerError, Endpoint, Retries
from kdsearch.kinds import Access, Options, Reply, Services, Teacher, Writer

Answer = Mapping[str, Any]


class HttpOptions(Options):
    base_url: str = Field(
        pattern=r"^https?://[^/@\s?#]+(/[^\s?#]*)?$", description="up to and with `/v1`; no user or password in it"
    )
    model: str = Field(min_length=1, description="as the endpoint calls it")
    api: Literal["chat", "completions"] = Field("chat", description="which of the two writes")
    system: str = Field("", description="of chat: the system's message")
    key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="environment variable that holds the key; never the key itself",
    )
    logprobs: bool = Field(False, description="ask for log-probabilities of the reply's tokens")
    timeout_s: float = Field(60.0, gt=0, le=3600, description="of one request")
    retries: int = Field(4, ge=0, le=20, description="after a request that failed, was refused by 429 or by the server")
    backoff_s: float = Field(1.0, ge=0, le=60, description="before the first retry; doubled for each further one")
    per_minute: int | None = Field(None, gt=0, description="most requests a minute")
    concurrency: int = Field(4, gt=0, le=64, description="requests at a time")


class Http(Teacher[HttpOptions]):
    """Replies and vectors are kept by request in the study's folder: what was answered costs nothing again."""

    def __init__(self, options: HttpOptions) -> None:
        super().__init__(options)
        self.access = Access.LOGPROBS if options.logprobs else Access.TEXT
        self._endpoint: Endpoint | None = None

    def writer(self, services: Services) -> Writer:
        """Raise PluginError where the environment variable of the key is not set."""
        return HttpWriter(self._opened(), self.options)

    def embed(self, texts: Sequence[str], services: Services) -> Tensor:
        """By `/embeddings`. Raises as `Endpoint.post`."""
        rows: list[list[float]] = self._opened().post(
            "embeddings",
            {"model": self.options.model, "input": list(texts)},
            lambda answer: vectors(answer, len(texts)),
        )
        return torch.tensor(rows, dtype=torch.float32)

    def identity(self, services: Services) -> Mapping[str, Any]:
        """Not the key, nor how patiently the endpoint is asked."""
        return self.options.model_dump(include={"base_url", "model", "api", "system", "logprobs"})

    def facts(self) -> Mapping[str, Any]:
        return {"source": self.options.base_url, "model": self.options.model}

    def _opened(self) -> Endpoint:
        if self._endpoint is None:
            o = self.options
            patience = Retries(o.retries, o.backoff_s, o.timeout_s)
            self._endpoint = Endpoint(o.base_url, o.key_env, patience, o.per_minute, o.concurrency)
        return self._endpoint


class HttpWriter:
    """One request a prompt, `at_once` of them at a time."""

    def __init__(self, endpoint: Endpoint, options: HttpOptions) -> None:
        self._endpoint, self._options = endpoint, options
        self.at_once = options.concurrency

    def write(
        self,
        prompts: Sequence[str],
        n: int = 1,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        max_tokens: int = 256,
    ) -> list[list[Reply]]:
        """Raises as `Endpoint.post`."""
        settings: dict[str, Any] = {"temperature": temperature, "seed": seed, "max_tokens": max_tokens}
        if stop:
            settings["stop"] = list(stop)
        return self._endpoint.each(lambda prompt: self._replies(prompt, n, settings), prompts)

    def _replies(self, prompt: str, n: int, settings: Mapping[str, Any]) -> list[Reply]:
        """n of them, by several requests where the endpoint gives one at a time."""
        o, found = self._options, list[Reply]()
        path = "chat/completions" if o.api == "chat" else "completions"
        while len(found) < n:
            body = {"model": o.model, **settings, "n": n - len(found), "seed": settings["seed"] + len(found)}
            if o.api == "chat":
                system = [{"role": "system", "content": o.system}] if o.system else []
                body["messages"] = [*system, {"role": "user", "content": prompt}]
                body |= {"logprobs": True} if o.logprobs else {}
            else:
                body["prompt"] = prompt
                body |= {"logprobs": 1} if o.logprobs else {}
            found += self._endpoint.post(path, body, lambda answer: replies(answer, o.logprobs))
        return found[:n]


def replies(answer: Answer, logprobs: bool) -> list[Reply]:
    """The choices of an answer; the first one has the tokens of all. Raise AnswerError for an answer of another form."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise AnswerError("an answer without `choices`")
    usage = answer.get("usage") or {}
    found = []
    for nth, choice in enumerate(choices):
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        if text is not None and not isinstance(text, str):
            raise AnswerError("a reply that is no text")
        ended = choice.get("finish_reason") or "stop"
        found.append(
            Reply(
                text or "",
                ended if ended in ("stop", "length") else "error",
                _logprobs(choice) if logprobs else (),
                int(usage.get("completion_tokens") or 0) if nth == 0 else 0,
                int(usage.get("prompt_tokens") or 0) if nth == 0 else 0,
            )
        )
    return found


def _logprobs(choice: Mapping[str, Any]) -> tuple[float, ...]:
    given = choice.get("logprobs")
    if not given:
        raise AnswerError("a reply without the log-probabilities that were asked for")
    tokens = given.get("content")
    values = [each["logprob"] for each in tokens] if tokens is not None else given["token_logprobs"]
    return tuple(float(value) for value in values if value is not None)  # a prompt's first token has none


def vectors(answer: Answer, n: int) -> list[list[float]]:
    """n vectors, in the order of the texts. Raise AnswerError for an answer of another form."""
    rows = answer.get("data")
    if not isinstance(rows, list) or len(rows) != n:
        raise AnswerError(f"{len(rows) if isinstance(rows, list) else 'no'} vectors for {n} texts")
    ordered = sorted(rows, key=lambda row: int(row.get("index", 0)))
    found = [[float(value) for value in row["embedding"]] for row in ordered]
    if len({len(row) for row in found}) != 1:
        raise AnswerError("vectors of several lengths")
    return found
