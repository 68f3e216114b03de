"""Teacher `http` against a server on 127.0.0.1: requests, retries, refusals, keys that are never shown, replies that are kept."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdsearch.builtin.teachers.endpoint import SHOWN, Endpoint, Pace, Retries
from kdsearch.builtin.teachers.http import Http, HttpOptions
from kdsearch.engine.replies import KeptEmbedder, KeptWriter, cost_of
from kdsearch.engine.setup import Site
from kdsearch.errors import KdsearchError, PluginError, StudyError, UnreachableError, UserError
from kdsearch.host import Host
from kdsearch.kinds import Access, Reply
from kdsearch.kinds.options import validate
from kdsearch.study import load_study
from tests.builtin.teachers.endpoint_server import Server, serving

KEY = "sk-not-to-be-seen-123"
HERE = Site(seed=0, base=Path())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("OWN_KEY", KEY)
    with serving() as found:
        yield found


def http(server: Server, **options: Any) -> Http:
    given = {"base_url": server.url, "model": "small", "backoff_s": 0.0, "concurrency": 1, **options}
    return Http(validate(HttpOptions, given))


def write(server: Server, *prompts: str, **options: Any) -> list[list[Reply]]:
    return http(server, **options).writer(HERE).write(prompts or ["say hello"])


def test_chat_sends_what_it_is_asked_and_reads_text_tokens_and_end(server: Server) -> None:
    writer = http(server, key_env="OWN_KEY", system="Be brief.").writer(HERE)
    (reply,) = writer.write(["say hello"], temperature=0.5, stop=["."], seed=3, max_tokens=9)[0]
    assert reply == Reply("HELLO", "stop", (), 2, 7)
    ((path, body, headers),) = server.asked
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "small",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "say hello"}],
        "n": 1,
        "temperature": 0.5,
        "stop": ["."],
        "seed": 3,
        "max_tokens": 9,
    }
    assert headers["Authorization"] == f"Bearer {KEY}"


def test_completions_and_logprobs(server: Server) -> None:
    assert write(server, api="completions")[0][0] == Reply("HELLO", "length", (), 2, 7)
    assert server.asked[-1][0] == "/v1/completions"
    assert "Authorization" not in server.asked[-1][2]
    assert write(server, logprobs=True)[0][0].logprobs == (-0.25, -0.5)
    assert write(server, logprobs=True, api="completions")[0][0].logprobs == (-0.75,)
    assert http(server).access == Access.TEXT
    assert http(server, logprobs=True).access == Access.LOGPROBS


def test_several_replies_of_an_endpoint_that_gives_one_at_a_time(server: Server) -> None:
    (replies,) = http(server).writer(HERE).write(["say hello"], n=3, seed=5)
    assert len(replies) == 3
    assert [(body["n"], body["seed"]) for _, body, _ in server.asked] == [(3, 5), (2, 6), (1, 7)]


def test_prompts_are_answered_in_order_whoever_is_first(server: Server) -> None:
    """Four at a time, and no more: all four are there before the first is answered."""
    meeting = threading.Barrier(4)
    server.on_request = lambda: meeting.wait(30)
    prompts = [f"say word{i}" for i in range(8)]
    found = write(server, *prompts, concurrency=4)
    assert [reply.text for (reply,) in found] == [f"WORD{i}" for i in range(8)]


@pytest.mark.parametrize(
    "failing",
    [
        (429, {"error": "slow down"}, {"Retry-After": "0"}),
        (503, b"", {}),
        (200, b"<html>oops</html>", {}),
        (200, {"choices": []}, {}),
        (200, {"error": {"message": "overloaded"}}, {}),
        (200, {"choices": [{"message": {}}]}, {}),
        (200, [1], {}),
    ],
    ids=["429", "503", "html", "no choice", "error", "no content", "a list"],
)
def test_what_may_pass_is_asked_again(server: Server, failing: Any) -> None:
    server.next = [failing, failing]
    assert write(server)[0][0].text == "HELLO"
    assert len(server.asked) == 3


def test_an_endpoint_that_stays_down_is_said_and_no_key_is(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.next = [(503, f"no, {KEY} is over its limit".encode(), {})] * 3
    with pytest.raises(UnreachableError) as error, caplog.at_level(logging.DEBUG):
        write(server, key_env="OWN_KEY", retries=2)
    said = str(error.value)
    assert f"{server.url}/chat/completions gave no answer in 3 tries" in said
    assert "status 503: no, *** is over its limit" in said
    assert "What it answered before is kept: run the same command again" in said
    assert error.value.exit_code == 1
    assert KEY not in said + caplog.text


@pytest.mark.parametrize("status", [200, 503])
def test_half_a_key_is_not_said_either(server: Server, status: int) -> None:
    server.next = [(status, f"{'x' * (SHOWN - len(KEY) // 2)}{KEY}".encode(), {})]
    with pytest.raises(UnreachableError) as error:
        write(server, key_env="OWN_KEY", retries=0)
    assert "xxx" in str(error.value)
    assert KEY[:4] not in str(error.value)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    options = validate(HttpOptions, {"base_url": url, "model": "m", "retries": 1, "backoff_s": 0.0})
    with pytest.raises(UnreachableError, match="in 2 tries, at last: ConnectionRefusedError"):
        Http(options).writer(HERE).write(["a"])


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ((401, {"error": f"bad key {KEY}"}, {}), r"status 401: .*\*\*\*.* Set the environment variable OWN_KEY"),
        ((404, {"error": "no model 'small'"}, {}), r"status 404: .*no model 'small'"),
        ((302, b"", {"Location": "http://example.invalid/"}), r"status 302.* a key is not taken to another host"),
    ],
)
def test_what_no_retry_mends_ends_at_once(server: Server, answer: Any, match: str) -> None:
    server.next = [answer]
    with pytest.raises(PluginError, match=match) as error:
        write(server, key_env="OWN_KEY")
    assert error.value.exit_code == 2
    assert KEY not in str(error.value)
    assert len(server.asked) == 1


@pytest.mark.parametrize(("value", "match"), [(None, "is not set"), (" ", "is not set"), ("a\tb", "no key can be")])
def test_a_key_that_is_none(server: Server, monkeypatch: pytest.MonkeyPatch, value: str | None, match: str) -> None:
    monkeypatch.delenv("OWN_KEY")
    if value is not None:
        monkeypatch.setenv("OWN_KEY", value)
    with pytest.raises(PluginError, match=f"environment variable OWN_KEY.*{match}"):
        http(server, key_env="OWN_KEY").writer(HERE)
    assert server.asked == []


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "file:///etc/passwd"},
        {"base_url": "http://me:secret@host/v1"},
        {"base_url": "http://host/v1?key=1"},
        {"key_env": "sk-a-key-itself"},
        {"concurrency": 0},
        {"timeout_s": 0.0},
    ],
)
def test_options_that_cannot_be(options: Any) -> None:
    with pytest.raises(StudyError):
        validate(HttpOptions, {"base_url": "http://host/v1", "model": "m", **options})


def test_what_it_gives_a_distiller_is_by_its_options(tmp_path: Path) -> None:
    """Its class alone would give taps."""
    file = tmp_path / "study.yaml"
    file.write_text(
        "data: {use: digits}\nteacher: {use: http, options: {base_url: 'http://localhost:9/v1', model: m}}\n"
        "student: {space: cifar_resnet}\nrecipe:\n  distillers: [kd]\n"
    )
    with pytest.raises(
        UserError, match=r"distiller 'kd' needs LOGITS of the teacher; 'http' \(teacher\) gives TEXT"
    ) as caught:
        load_study(file, Host.load())
    assert (caught.value.line, caught.value.path) == (5, "recipe.distillers[0]")


def test_embeddings_come_in_the_order_of_the_texts(server: Server) -> None:
    rows = http(server).embed(["a", "bcd", "aaaa"], HERE)
    assert torch.equal(rows, torch.tensor([[1.0, 1.0], [3.0, 0.0], [4.0, 4.0]]))
    server.next = [(200, {"data": [{"index": 0, "embedding": [1.0]}]}, {})]
    assert http(server).embed(["a", "b"], HERE).shape == (2, 2), "one vector for two texts is asked again"


def test_kept_replies_cost_no_call_and_are_counted_once(server: Server, tmp_path: Path) -> None:
    teacher, file = http(server), tmp_path / "replies.jsonl"
    first = KeptWriter("llm", lambda: teacher.writer(HERE), file, "one")
    found = first.write(["say a", "say b", "say a"])
    assert [reply.text for (reply,) in found] == ["A", "B", "A"]
    assert len(server.asked) == 2
    later = KeptWriter("llm", lambda: teacher.writer(HERE), file, "two")
    assert later.write(["say b", "say c"]) == [found[1], [Reply("C", "stop", (), 2, 7)]]
    assert later.write(["say b"], temperature=1.0) == [found[1]], "another request, another call"
    assert len(server.asked) == 4
    assert cost_of(file, "one") == {"calls": 2, "prompt_tokens": 14, "tokens": 4}
    assert cost_of(file, "two") == {"calls": 2, "prompt_tokens": 14, "tokens": 4}

    def nothing() -> Any:
        raise AssertionError("what is kept needs no teacher")

    assert KeptWriter("llm", nothing, file).write(["say a", "say c"])[0] == found[0]


def test_an_endpoint_that_goes_down_loses_nothing_that_it_answered(server: Server, tmp_path: Path) -> None:
    teacher, file = http(server, retries=0), tmp_path / "replies.jsonl"
    writer = KeptWriter("llm", lambda: teacher.writer(HERE), file)
    calls = iter(range(100))
    server.on_request = lambda: server.next.append((500, b"", {})) if next(calls) == 3 else None
    with pytest.raises(UnreachableError):
        writer.write([f"say word{i}" for i in range(6)])
    assert len(server.asked) == 4
    again = KeptWriter("llm", lambda: teacher.writer(HERE), file)
    assert [reply.text for (reply,) in again.write([f"say word{i}" for i in range(6)])] == [
        f"WORD{i}" for i in range(6)
    ]
    assert len(server.asked) == 7


def test_lines_that_are_torn_or_changed_by_hand_are_asked_anew(server: Server, tmp_path: Path) -> None:
    teacher, file = http(server), tmp_path / "replies.jsonl"
    KeptWriter("llm", lambda: teacher.writer(HERE), file).write(["say a", "say b", "say c"])
    lines = file.read_bytes().splitlines(keepends=True)
    changed = lines[1].replace(b'"text": "B"', b'"text": 5')
    assert changed != lines[1]
    file.write_bytes(lines[0] + changed + b"[1, 2]\n" + lines[2][:20])
    found = KeptWriter("llm", lambda: teacher.writer(HERE), file).write(["say a", "say b", "say c"])
    assert [reply.text for (reply,) in found] == ["A", "B", "C"]
    assert len(server.asked) == 5


def test_kept_vectors_are_embedded_once(server: Server, tmp_path: Path) -> None:
    teacher, file = http(server), tmp_path / "vectors.jsonl"
    one = KeptEmbedder("llm", lambda texts: teacher.embed(texts, HERE), file)(["a", "bb", "a"])
    assert server.asked[0][1]["input"] == ["a", "bb"]
    file.write_bytes(file.read_bytes() + b'{"text": "x", "vector": "!"}\n{"text"')
    two = KeptEmbedder("llm", lambda texts: teacher.embed(texts, HERE), file)(["bb", "a", "ccc"])
    assert server.asked[1][1]["input"] == ["ccc"]
    assert torch.equal(two[:2], one[[1, 0]])


@pytest.mark.parametrize(
    ("written", "match"),
    [
        ([], "0 for 1 prompts"),
        ([[]], "for one prompt"),
        ([["text"]], "'text'"),
        ([[Reply("a", "because")]], "finished by 'because'"),
        (None, "NoneType for 1 prompts"),
    ],
)
def test_a_writer_that_answers_otherwise_is_named(written: Any, match: str) -> None:
    class Odd:
        def write(self, *_: Any) -> Any:
            return written

    with pytest.raises(PluginError, match=rf"teacher 'odd' answers .*{match}"):
        KeptWriter("odd", Odd).write(["a"])


@pytest.mark.parametrize("rows", [torch.zeros(2), torch.zeros(1, 3), torch.full((2, 3), torch.nan), [[1.0], [2.0]]])
def test_an_embedder_that_gives_no_matrix_is_named(rows: Any) -> None:
    with pytest.raises(PluginError, match=r"teacher 'odd' embeds 2 texts"):
        KeptEmbedder("odd", lambda texts: rows)(["a", "b"])


def test_starts_are_spaced_by_the_rate() -> None:
    now = [100.0]
    pace = Pace(30, clock=lambda: now[0])
    waits = []
    for _ in range(3):
        waits.append(pace.due())
        now[0] += waits[-1] + 0.5  # each request takes half a second
    assert waits == pytest.approx([0.0, 1.5, 1.5])
    now[0] += 60
    assert pace.due() == 0.0
    assert Pace(None).due() == 0.0


def test_waits_double_and_heed_what_the_endpoint_asks(server: Server) -> None:
    endpoint, waits = Endpoint(server.url, None, Retries(4, 1.0, 5.0)), []
    endpoint._ended.wait = lambda seconds: waits.append(seconds) or False  # type: ignore[method-assign, func-returns-value]
    busy = [(429, b"", {}), (429, b"", {"Retry-After": "7"}), (503, b"", {"Retry-After": "soon"}), (500, b"", {})]
    server.next = [*busy]  # type: ignore[list-item]
    assert endpoint.post("x", {"prompt": "a"}, lambda answer: answer["choices"][0]["text"]) == "A"
    assert waits == [1.0, 7.0, 4.0, 8.0]


def test_an_error_ends_those_that_wait(server: Server) -> None:
    """One prompt is refused for good while the others wait for a retry: nobody waits a minute."""
    endpoint = Endpoint(server.url, None, Retries(1, 60.0, 5.0), concurrency=2)
    together = threading.Barrier(2)

    def call(name: str) -> None:
        together.wait(30)
        if name == "refused":
            raise PluginError("for good")
        server.next.append((503, b"", {}))
        endpoint.post("x", {"prompt": "a"}, dict)

    with pytest.raises(KdsearchError, match="for good"):
        endpoint.each(call, ["refused", "waits"])


def test_what_is_asked_after_an_error_is_tried_again_as_before(server: Server) -> None:
    endpoint = Endpoint(server.url, None, Retries(1, 0.0, 5.0), concurrency=2)

    def refused(name: str) -> None:
        raise PluginError("for good")

    with pytest.raises(PluginError, match="for good"):
        endpoint.each(refused, ["a", "b"])
    server.next.append((503, b"", {}))
    assert endpoint.post("x", {"prompt": "a"}, dict)["choices"]
