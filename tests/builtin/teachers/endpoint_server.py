"""A small endpoint of the OpenAI form on 127.0.0.1; what it answers next may be scripted, what it was asked is kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, bytes | Mapping[str, Any], Mapping[str, str]]


def answered(path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """As a model would: the last word in capitals, two logprobs; vectors of a text's length and its number of 'a'."""
    if path.endswith("/embeddings"):
        rows = [{"index": i, "embedding": [len(text), text.count("a")]} for i, text in enumerate(body["input"])]
        return {"data": rows[::-1]}
    said = (body["messages"][-1]["content"] if "messages" in body else body["prompt"]).split()[-1].upper()
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    if "messages" in body:
        probs = {"content": [{"logprob": -0.25}, {"logprob": -0.5}]} if body.get("logprobs") else None
        return {
            "choices": [{"message": {"content": said}, "finish_reason": "stop", "logprobs": probs}],
            "usage": usage,
        }
    probs = {"token_logprobs": [None, -0.75]} if body.get("logprobs") else None
    return {"choices": [{"text": said, "finish_reason": "length", "logprobs": probs}], "usage": usage}


class Server:
    """`next`: answers (status, body, headers) that come before all others."""

    def __init__(self) -> None:
        self.next: list[Answer] = []
        self.asked: list[tuple[str, Mapping[str, Any], Mapping[str, str]]] = []
        self.on_request: Callable[[], object] = lambda: None
        self.answer: Callable[[str, Mapping[str, Any]], Mapping[str, Any]] = answered
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.on_request()
                with outer._lock:
                    outer.asked.append((self.path, body, dict(self.headers)))
                    status, said, headers = (
                        outer.next.pop(0) if outer.next else (200, outer.answer(self.path, body), {})
                    )
                raw = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
