"""`kdsearch dashboard DIR`: the trials in a browser."""

from __future__ import annotations

from typing import Annotated

from kdsearch.cli.options import Folder, option


def dashboard(
    folder: Folder,
    port: Annotated[
        int, option("--port", min=0, max=65535, help="Of 127.0.0.1; no other machine can see it. 0 = a free one.")
    ] = 8080,
    opens: Annotated[bool, option("--open/--no-open", help="Show it in the browser.")] = False,
) -> None:
    """Show the trials in a browser, while it runs and after. Nothing is changed. Ctrl-C ends it."""
    from kdsearch.verbs import commands

    def told(line: str) -> None:
        print(line, flush=True)

    commands.dashboard(dir=folder, port=port, open=opens, told=told)
