"""`kdsearch status DIR`: how far a study is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from kdsearch.cli.options import Folder, Json, option


def status(
    folder: Folder,
    follow: Annotated[
        bool,
        option(
            "--follow",
            help="Say it again whenever it changes, until nobody runs the study; with --json an object a line.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say which stages are done, what runs, and the best so far."""
    from kdsearch.cli.output import answer, show
    from kdsearch.verbs import commands

    if not follow:
        answer(lambda: commands.status(dir=folder), as_json)
    elif sys.stdout.isatty() and not as_json:
        _in_place(commands.follow(dir=folder))
    else:
        for found in commands.follow(dir=folder):
            show(found, as_json)
            sys.stdout.flush()


def _in_place(found: Iterator[Mapping[str, Any]]) -> None:
    """On a terminal the text that was there is replaced."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from kdsearch.errors import printable

    with Live(console=Console(), auto_refresh=False) as live:
        for each in found:
            live.update(Text(printable(each["text"])), refresh=True)
