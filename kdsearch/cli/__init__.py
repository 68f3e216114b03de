"""The command line: one file a verb, which parses, calls and prints. Heavy imports are inside the verbs."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from kdsearch.errors import InterruptedRun, KdsearchError, UserError, printable, wanted

ENDED = "a plugin, or code that the study names, ended the program"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 2 wrong input, 3 refused, 130 interrupted, 1 anything else.

    Every error is one message on stderr, and with `--json` also an object on stdout, `{"error": {...}, "exit_code": n}`, where no
    answer is there; only an error of our own has a traceback.
    """
    with _noting_interrupts() as came:
        return _main(arguments, came)


def _main(arguments: Sequence[str] | None, came: Callable[[], bool]) -> int:
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    _open_closed()
    if sys.stdout is None:
        say("stdout is closed; nothing was done. Expected a place for the answer.")
        return 1
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a letter that its encoding lacks ends no run
    try:
        try:
            code = _called(arguments)
        except Exception as error:
            if came():  # a library that was being imported swallowed it, and is torn since
                raise KeyboardInterrupt from error
            if (blamed := _of_a_plugin(error)) is not None:
                raise blamed from error
            raise
    except (KdsearchError, InterruptedRun) as error:
        say(str(error))
        return _ended(error.facts(), error.exit_code, as_json and not hasattr(error, "result"))
    except KeyboardInterrupt:
        code = 130
    except SystemExit as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        if {"click", "typer", "rich"} & set(
            Path(where.filename).parts
        ):  # shell completion ends so, and a table nobody reads
            return error.code if isinstance(error.code, int) else 0
        problem = f"{ENDED}: sys.exit({error.code!r}) in {where.name}, {where.filename}:{where.lineno}"
        say(problem)
        return _ended({"type": "SystemExit", "problem": problem}, 1, as_json)
    except BrokenPipeError:  # `kdsearch plugins | head`
        _let_go_of_stdout()
        return 1
    except OSError as error:
        if not is_output(error):
            raise
        _let_go_of_stdout()
        say(f"the answer could not be written to stdout: {error.strerror}")
        return 1
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a bare `kdsearch`
            print(error.format_message())  # type: ignore[attr-defined]
            return 0
        if not hasattr(error, "format_message"):  # the parser's own: an unknown option, a missing argument
            raise
        problem = _refusal(error)
        say(problem)
        return _ended({"type": "UsageError", "problem": problem}, int(getattr(error, "exit_code", 2)), as_json)
    if code == 130:  # the parser turns Ctrl-C into its exit code
        say("Interrupted.")
        return _ended(InterruptedRun("interrupted").facts(), 130, as_json)
    return code if isinstance(code, int) else 0


def _called(arguments: Sequence[str] | None) -> object:
    from kdsearch.cli.app import command

    _refuse_bytes(sys.argv[1:] if arguments is None else arguments)
    code = command()(args=None if arguments is None else list(arguments), prog_name="kdsearch", standalone_mode=False)
    sys.stdout.flush()
    return code


def _of_a_plugin(error: Exception) -> KdsearchError | None:
    """What an installed plugin's code raised, with the plugin's name; None of an error of ours, the parser's, or of a full disk."""
    if isinstance(error, KdsearchError) or hasattr(error, "format_message"):
        return None
    from kdsearch.host import Host
    from kdsearch.store.files import is_disk_error

    return None if is_disk_error(error) else Host.load().blamed(error)


def _ended(error: Mapping[str, object], code: int, as_json: bool) -> int:
    """Tell programs of an error, where they asked for JSON; returns the exit code."""
    if as_json:
        with contextlib.suppress(OSError):
            print(json.dumps({"error": {**KdsearchError("").facts(), **error}, "exit_code": code}), flush=True)
    return code


def _refuse_bytes(arguments: Sequence[str]) -> None:
    """Raise UserError for an argument that is no text: what it names could not be said in JSON, YAML or a page."""
    for each in arguments:
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in each):
            raise UserError(f"argument '{each}' is no text", expected="UTF-8, without NUL")


@contextlib.contextmanager
def _noting_interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C as Python has it, SIGTERM likewise, and whether one came: an import of somebody's may swallow it. `verbs.run` asks
    before it begins. A signal that somebody else handles, or ignores, stays theirs."""

    def on_signal(number: int, _: object) -> None:
        on_signal.came = True  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    on_signal.came = False  # type: ignore[attr-defined]
    pythons = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.Handlers.SIG_DFL}
    is_main = threading.current_thread() is threading.main_thread()
    ours = {each: handler for each, handler in pythons.items() if is_main and signal.getsignal(each) is handler}
    for each in ours:
        signal.signal(each, on_signal)
    try:
        yield lambda: bool(on_signal.came)  # type: ignore[attr-defined]
    finally:
        for each, handler in ours.items():
            signal.signal(each, handler)


def _open_closed() -> None:
    """Of the three standard files those that are closed, on the null device: a file of ours must not take their number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the program runs


def say(text: str) -> None:
    """A line for people. Where stderr is closed or full, nobody can be told: the exit code still tells."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(printable(text), file=sys.stderr, flush=True)


def is_output(error: OSError) -> bool:
    """Whether it was met while stdout was written: it names no file, and stdout fails again."""
    if error.filename is not None:
        return False
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return error.errno in (errno.EBADF, errno.ENOSPC)


def _let_go_of_stdout() -> None:
    """So that the interpreter does not fail once more when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refusal(error: Exception) -> str:
    """The parser's complaint as one line: verb, what is wrong, where to read on."""
    complaints = getattr(error.__cause__, "errors", None)
    if complaints is not None:  # pydantic's, of an option's value, which it does not repeat
        first = complaints()[0]
        error.message = f"got '{first['input']}'. Expected {wanted(first['type'], first['msg'])}"  # type: ignore[attr-defined]
    verb = getattr(getattr(error, "ctx", None), "command_path", "kdsearch")
    problem = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    end = "" if problem.endswith((".", "?")) else "."
    return f"{verb}: {problem[:1].lower()}{problem[1:]}{end} See `{verb} --help`."
