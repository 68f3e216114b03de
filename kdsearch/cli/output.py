"""What verbs print: JSON, or text for people."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from kdsearch.errors import RefusedError, printable


@contextlib.contextmanager
def stdout_kept() -> Iterator[None]:
    """What plugins, and programs that they start, print meanwhile goes to stderr: stdout holds the answer and nothing else."""
    sys.stdout.flush()
    try:
        kept = os.dup(1) if sys.stdout.fileno() == 1 else None
    except (OSError, ValueError):  # no file behind it
        kept = None
    try:
        if kept is not None:
            with contextlib.suppress(OSError):  # stderr is closed: let them print
                os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)


def print_json(value: Mapping[str, Any], indent: int | None = None) -> None:
    """One JSON object, on one line unless `indent` is given; NaN and infinities become null."""
    text = json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a letter that stdout lacks: JSON has escapes of its own
        text = json.dumps(_plain(value), indent=indent, allow_nan=False)
    print(text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | bool) or value is None:
        return value
    if isinstance(value, Iterable):
        return [_plain(each) for each in value]
    return str(value)


def answer(
    call: Callable[[], Mapping[str, Any]], as_json: bool, text: Callable[[Mapping[str, Any]], str] | None = None
) -> None:
    """Print what a stage's command returns, for people as `text` says it.

    A refusal's result is printed before the refusal ends the program.
    """

    def said(result: Mapping[str, Any]) -> None:
        show({**result, "text": text(result)} if text and "text" not in result else result, as_json)

    try:
        with stdout_kept():
            result = call()
        said(result)
    except RefusedError as error:
        if refused := getattr(error, "result", None):
            said(refused)
        raise


def show(result: Mapping[str, Any], as_json: bool) -> None:
    """A result as JSON, or as its `text` for people, else as indented keys and values."""
    if as_json:
        print_json({name: value for name, value in result.items() if name != "text"})
    elif "text" in result:
        print(printable(result["text"]))
    else:
        for line in _lines(result, ""):
            print(printable(line))


def _lines(value: Mapping[str, Any], indent: str) -> Iterable[str]:
    for name, each in value.items():
        if isinstance(each, Mapping):
            yield f"{indent}{name}:"
            yield from _lines(each, indent + "  ")
        elif isinstance(each, Sequence) and not isinstance(each, str):
            yield f"{indent}{name}:"
            for item in each:
                if isinstance(item, Mapping):
                    yield f"{indent}  - " + ", ".join(f"{key} {_short(inner)}" for key, inner in item.items())
                else:
                    yield f"{indent}  - {_short(item)}"
        else:
            yield f"{indent}{name}: {_short(each)}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """A table on stdout as wide as the terminal; without a terminal, wide enough for its longest line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")  # what does not fit goes on below: a command is never cut
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    console = Console(soft_wrap=False) if sys.stdout.isatty() else Console(width=220)
    console.print(shown)
