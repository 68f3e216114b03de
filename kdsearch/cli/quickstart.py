"""`kdsearch quickstart`: a whole study on data that is there already, in about two minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdsearch.cli.options import Json, option, seed_option


def quickstart(
    folder: Annotated[Path, typer.Argument(help="Folder to make.", metavar="DIR", file_okay=False)] = Path(
        "quickstart"
    ),
    seed: Annotated[int, seed_option("Another seed, other numbers.")] = 0,
    data: Annotated[
        str,
        option(
            "--data",
            metavar="NAME",
            help="digits, mnist5k or earth_tiles; `kdsearch data` says whether they are there.",
        ),
    ] = "digits",
    teacher: Annotated[
        str, option("--teacher", metavar="NAME", help="trained, or efficientnet-lite0, which is for earth_tiles.")
    ] = "trained",
    as_json: Json = False,
) -> None:
    """Run a small study end to end, from a teacher to ONNX files. Search, distillation, pruning, INT8 and INT4, and the report."""
    from kdsearch.cli.output import answer
    from kdsearch.verbs import commands

    answer(
        lambda: commands.quickstart(dir=folder, seed=seed, data=data, teacher=teacher),
        as_json,
        lambda result: commands.summary_of(result, Path(str(result["dir"]))),
    )
