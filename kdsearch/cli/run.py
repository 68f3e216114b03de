"""`kdsearch run FILE`: make everything of a study that is not there yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from kdsearch.cli.options import AllowCode, Json, Seed, Sets, StudyFile, option
from kdsearch.limits import WORKERS


def run(
    file: StudyFile,
    folder: Annotated[
        Path | None, option("--dir", metavar="DIR", help="The study's folder; default: the file's stem beside it.")
    ] = None,
    workers: Annotated[
        int | None, option("--workers", min=1, max=WORKERS, help="Trials at once; changes no result.")
    ] = None,
    seed: Seed = None,
    pick: Annotated[
        str | None,
        option(
            "--pick",
            metavar="RULE",
            help="Which trial wins: best, knee, or as min:latency_ms,accuracy>=0.9; see distill.pick.",
        ),
    ] = None,
    sets: Sets = None,
    allow_code: AllowCode = None,
    as_json: Json = False,
) -> None:
    """Search, distil, compress, export and report. Killed at any moment, the same command goes on."""
    from kdsearch.cli.output import answer
    from kdsearch.verbs import commands

    answer(
        lambda: commands.run(
            file=file,
            dir=folder,
            workers=workers,
            seed=seed,
            pick=pick,
            sets=tuple(sets or ()),
            allow_code=tuple(allow_code or ()),
        ),
        as_json,
        lambda result: commands.summary_of(result, Path(str(result["dir"]))),
    )
