"""The three standard files: closed, full, or steered by somebody's text."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kdsearch.cli import main
from kdsearch.errors import StudyError, printable
from kdsearch.store.folder import open_folder

SCORE = ["score", "--space", "nb201", "--proxies", "params", "--sample", "2", "--json"]


def shell(redirections: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(each for each in sys.path if each)
    command = f'exec "$@" {redirections}'
    words = ["sh", "-c", command, "sh", sys.executable, "-m", "kdsearch", *arguments]
    return subprocess.run(
        words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, errors="replace", check=False
    )


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_without_a_place_for_progress_the_work_is_done(redirection: str) -> None:
    done = shell(redirection, *SCORE)
    assert done.returncode == 0
    assert len(json.loads(done.stdout)["rows"]) == 2


def test_a_closed_stdout_is_said_before_any_work() -> None:
    done = shell(">&-", *SCORE)
    assert (done.returncode, done.stderr) == (
        1,
        "stdout is closed; nothing was done. Expected a place for the answer.\n",
    )


def test_a_full_stdout_is_one_message() -> None:
    done = shell(">/dev/full", *SCORE)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "the answer could not be written to stdout: No space left on device"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_letter_that_stdout_lacks_ends_nothing(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's name is in the answer, after hours of work perhaps; JSON stays JSON."""
    folder = tmp_path / "Größe \U0001f600"
    open_folder(folder)
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    told = shell("", "status", str(folder), "--json")
    assert (told.returncode, json.loads(told.stdout)["dir"]) == (0, str(folder))
    (folder / "work").mkdir()
    (folder / "work" / ".größe \U0001f600.7.part").write_text("x")
    cleaned = shell("", "clean", str(folder))
    assert (cleaned.returncode, cleaned.stderr) == (0, "")
    assert "\\U0001f600.7.part" in cleaned.stdout


def test_the_schema_is_json_where_stdout_lacks_a_letter_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    there = shell("", "schema")
    assert "\\u00b0" in there.stdout
    assert json.loads(there.stdout)["type"] == "object"


def test_a_table_that_nobody_reads_on_is_nobodys_fault() -> None:
    """As in `kdsearch plugins | true`."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "kdsearch", "plugins"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
    done = subprocess.run(command, env=environment, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07\x1b[2J", r"\x1b]0;owned\x07\x1b[2J"),
        ("two\nlines\tkept", "two\nlines\tkept"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202eb", r"a\u202eb"),
        ("\udcff", r"\udcff"),
        ("Größe drei ✓", "Größe drei ✓"),
    ],
)
def test_nobodys_text_steers_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
    one_line = shown.replace("\n", r"\n").replace("\t", r"\t")
    assert str(StudyError(f"got '{text}'")).startswith(f"got '{one_line}'")


def test_an_escape_in_a_study_is_shown_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.yaml").write_text('data: {use: "\\e[2Jdigits"}\nstudent: {space: cifar_resnet}\nrecipe: {}\n')
    assert main(["validate", str(tmp_path / "s.yaml")]) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert r"\x1b[2Jdigits" in err


@pytest.mark.parametrize(
    ("number", "ignored"), [(signal.SIGINT, ()), (signal.SIGTERM, ()), (signal.SIGTERM, (signal.SIGINT,))]
)
def test_an_interrupt_that_an_import_swallowed_still_counts(
    number: int, ignored: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ignored: as in the background of a shell's script."""
    from kdsearch.verbs import commands, run

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def work(**_: object) -> dict[str, str]:
        with contextlib.suppress(KeyboardInterrupt):  # as a library's bare `except:` does
            signal.raise_signal(number)
        with run.stoppable():
            return {"text": "the work began"}

    monkeypatch.setattr(commands, "status", work)
    for each in ignored:
        signal.signal(each, signal.SIG_IGN)
    try:
        assert main(["status", "x"]) == 130
        for each, handler in before.items():
            assert signal.getsignal(each) is (signal.SIG_IGN if each in ignored else handler)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert capsys.readouterr().err == "Interrupted.\n"


def test_code_that_ends_the_program_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kdsearch.verbs import commands

    monkeypatch.setattr(commands, "status", lambda **_: sys.exit(0))
    assert main(["status", "x"]) == 1
    err = capsys.readouterr().err
    assert "ended the program: sys.exit(0) in <lambda>" in err
    assert "test_streams.py:" in err
