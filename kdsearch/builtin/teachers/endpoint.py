"""Requests to an HTTP endpoint: few at a time, not too often, again where that helps; a key is sent and never shown."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kdsearch.errors import PluginError, UnreachableError

V = TypeVar("V")
T = TypeVar("T")

ANSWER_BYTES = 1 << 26  # most of one answer that is read
AGAIN = (408, 409, 425, 429)  # and every 5xx: the same request may be answered later
LONGEST_S = 60.0  # wait before a retry, but where the endpoint asks for another one by Retry-After
RETRY_AFTER_S = 600.0  # most that is granted
SHOWN = 200  # characters of an answer in a message


class AnswerError(Exception):
    """An answer of another form than was promised; the request is tried again."""


@dataclass(frozen=True)
class Retries:
    """`times` after the first try; seconds before the first of them, doubled for each; seconds that one try may take."""

    times: int = 4
    backoff_s: float = 1.0
    timeout_s: float = 60.0


@dataclass
class Pace:
    """At most `per_minute` starts a minute, evenly spaced; None = as many as there are."""

    per_minute: int | None
    clock: Callable[[], float] = time.monotonic
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def due(self) -> float:
        """Seconds to wait before the next start, which is taken."""
        if self.per_minute is None:
            return 0.0
        with self._lock:
            now = self.clock()
            at = max(now, self._next)
            self._next = at + 60.0 / self.per_minute
            return at - now


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Endpoint:
    """JSON answers to JSON requests below `base_url`.

    Args:
        key_env: environment variable with the key, which is sent as a bearer token; None = there is none.

    Raises:
        PluginError: the variable is not set, or holds what no key can be.
    """

    def __init__(
        self,
        base_url: str,
        key_env: str | None = None,
        retries: Retries = Retries(),
        per_minute: int | None = None,
        concurrency: int = 1,
    ) -> None:
        self.base_url, self.key_env, self.retries, self.concurrency = base_url, key_env, retries, concurrency
        self._key, self._pace, self._ended = _key(key_env), Pace(per_minute), threading.Event()
        self._opener = urllib.request.build_opener(_NoRedirect)

    def each(self, call: Callable[[T], V], items: Sequence[T]) -> list[V]:
        """`call` of every item, `concurrency` at a time. The first error, in order, is raised once none is running."""
        if self.concurrency == 1 or len(items) < 2:
            return [call(item) for item in items]
        try:
            with ThreadPoolExecutor(self.concurrency) as pool:
                try:
                    return list(pool.map(call, items))
                except BaseException:
                    self._ended.set()  # those that wait for a retry give up
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        finally:
            self._ended.clear()

    def post(self, path: str, body: Mapping[str, Any], read: Callable[[Mapping[str, Any]], V]) -> V:
        """What `read` makes of the answer; tried again where the endpoint is busy, down, or answers nonsense.

        Raises:
            PluginError: the endpoint refuses the key or the request.
            UnreachableError: it did not answer, as often as it was asked.
        """
        url, failed = f"{self.base_url.rstrip('/')}/{path}", ""
        for nth in range(self.retries.times + 1):
            wait = self._pace.due()
            if (wait and self._ended.wait(wait)) or (nth and self._ended.is_set()):
                break
            pause = min(self.retries.backoff_s * 2**nth, LONGEST_S)
            try:
                return read(self._answer(url, body))
            except urllib.error.HTTPError as error:
                failed = self._refused(url, error)
                pause = max(pause, _asked_for(error))
            except (AnswerError, KeyError, TypeError, ValueError, AttributeError) as error:
                failed = str(error) if isinstance(error, AnswerError) else "an answer of another form"
            except (OSError, http.client.HTTPException) as error:
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                failed = f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else str(reason)
            if nth < self.retries.times and pause and self._ended.wait(pause):
                break
        raise UnreachableError(
            f"{url} gave no answer in {self.retries.times + 1} tries, at last: {self._hidden(failed)}",
            fix="What it answered before is kept: run the same command again once it is there.",
        )

    def _answer(self, url: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        with self._opener.open(request, timeout=self.retries.timeout_s) as response:
            raw = response.read(ANSWER_BYTES + 1)
        if len(raw) > ANSWER_BYTES:
            raise AnswerError(f"more than {ANSWER_BYTES:,} bytes")
        try:
            found = json.loads(raw)
        except ValueError:
            raise AnswerError(f"no JSON, but '{self._start(raw)}'") from None
        if not isinstance(found, Mapping):
            raise AnswerError(f"no JSON object, but '{self._start(raw)}'")
        return found

    def _refused(self, url: str, error: urllib.error.HTTPError) -> str:
        """What a status says where a retry may help. Raise PluginError where it cannot."""
        with error:
            said = self._start(error.read(4096))
        told = f"status {error.code}" + (f": {said}" if said else "")
        if error.code in AGAIN or error.code >= 500:
            return told
        fix = ""
        if error.code in (401, 403):
            named = f"the environment variable {self.key_env}" if self.key_env else "a variable that `key_env` names"
            fix = f"Set {named} to a key that is valid there."
        elif error.code < 400:
            fix = "Write the address that it leads to; a key is not taken to another host."
        raise PluginError(f"{url} refuses the request ({told})", fix=fix)

    def _start(self, raw: bytes) -> str:
        """The beginning of an answer, for a message; a key is hidden before the text is cut, which may leave half of it."""
        text = self._hidden(" ".join(raw[:4096].decode(errors="replace").split()))
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _key(name: str | None) -> str:
    if name is None:
        return ""
    value = os.environ.get(name, "").strip()
    if not value:
        raise PluginError(f"the environment variable {name} is not set", expected="the key of the endpoint")
    if not value.isascii() or not value.isprintable():
        raise PluginError(f"the environment variable {name} holds what no key can be", expected="printable ASCII")
    return value


def _asked_for(error: urllib.error.HTTPError) -> float:
    """Seconds that the endpoint asks to be left alone; a date counts as 0."""
    try:
        seconds = float(error.headers.get("Retry-After") or 0)
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), RETRY_AFTER_S) if seconds == seconds else 0.0
