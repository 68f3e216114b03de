"""`kdsearch verify FILE.onnx`: whether a file still holds what its card says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdsearch.cli.options import AllowCode, Json, option


def verify(
    file: Annotated[Path, typer.Argument(help="An exported file, its card beside it.", metavar="FILE")],
    data: Annotated[
        Path | None,
        option(
            "--data",
            metavar="PATH",
            help="Measure quality too: the study's folder or file, or a .npz with the inputs as the file reads them and 'label'.",
        ),
    ] = None,
    allow_code: AllowCode = None,
    as_json: Json = False,
) -> None:
    """Check an exported file against its card. Contents, names, answers; exit code 3 says what differs."""
    from kdsearch.cli.output import answer
    from kdsearch.verbs import commands

    answer(lambda: commands.verify(file=file, data=data, allow_code=tuple(allow_code or ())), as_json)
