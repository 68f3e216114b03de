"""`kdsearch status DIR`: how far a study is."""

from __future__ import annotations

from kdsearch.cli.options import Folder, Json


def status(folder: Folder, as_json: Json = False) -> None:
    """Say which stages are done, what runs, and the best so far."""
    from kdsearch.cli.output import answer
    from kdsearch.verbs import commands

    answer(lambda: commands.status(dir=folder), as_json)
