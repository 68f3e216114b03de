"""`kdsearch report DIR`: write the report again."""

from __future__ import annotations

from kdsearch.cli.options import AllowCode, Folder, Json


def report(folder: Folder, allow_code: AllowCode = None, as_json: Json = False) -> None:
    """Write the report of a finished study again."""
    from kdsearch.cli.output import answer
    from kdsearch.verbs import commands

    answer(lambda: commands.report(dir=folder, allow_code=tuple(allow_code or ())), as_json)
