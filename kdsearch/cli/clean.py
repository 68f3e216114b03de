"""`kdsearch clean DIR`: give back the disk that earlier runs of a folder still take."""

from __future__ import annotations

from typing import Annotated

from kdsearch.cli.options import Folder, Json, option


def clean(
    folder: Folder,
    dry_run: Annotated[bool, option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what earlier studies and seeds left in a folder. What its last run uses stays."""
    from kdsearch.cli.output import answer
    from kdsearch.verbs import commands

    answer(lambda: commands.clean(dir=folder, dry_run=dry_run), as_json)
