"""`kdsearch quickstart`: a whole study on data that is there already, in about two minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdsearch.cli.options import Json, option
from kdsearch.limits import WHOLE


def quickstart(
    folder: Annotated[Path, typer.Argument(help="Folder to make.", metavar="[DIR]", file_okay=False)] = Path(
        "quickstart"
    ),
    seed: Annotated[int, option("--seed", min=0, max=WHOLE, help="Another seed, other numbers.")] = 0,
    data: Annotated[
        str, option("--data", help="digits, mnist5k or earth_tiles; `kdsearch data` says whether they are there.")
    ] = "digits",
    teacher: Annotated[
        str, option("--teacher", help="trained, or efficientnet-lite0, which is for earth_tiles.")
    ] = "trained",
    as_json: Json = False,
) -> None:
    """Run a small study end to end: teacher, search, distillation, compression, verified ONNX files, report."""
    from kdsearch.cli.output import answer
    from kdsearch.verbs import commands

    answer(
        lambda: commands.quickstart(dir=folder, seed=seed, data=data, teacher=teacher),
        as_json,
        lambda result: commands.summary_of(result, Path(str(result["dir"]))),
    )
