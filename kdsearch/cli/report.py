"""`kdsearch report DIR`: write the report again."""

from __future__ import annotations

from kdsearch.cli.options import Folder, Json


def report(folder: Folder, as_json: Json = False) -> None:
    """Write the report of a finished study again, and say where it is."""
    from kdsearch.cli.output import answer
    from kdsearch.verbs import commands

    answer(lambda: commands.report(dir=folder), as_json)
