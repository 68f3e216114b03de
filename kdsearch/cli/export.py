"""`kdsearch export DIR --format F`: one verified file of a finished study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from kdsearch.cli.options import AllowCode, Folder, Json, option


def export(
    folder: Folder,
    form: Annotated[
        str,
        option(
            "--format",
            metavar="FORMAT",
            help="The study's exporter and fp32 or a quantizer: onnx-fp32, onnx-int8.",
        ),
    ],
    allow_code: AllowCode = None,
    as_json: Json = False,
) -> None:
    """Write one format of a finished study's student. It is checked against the torch student."""
    from kdsearch.cli.output import answer
    from kdsearch.verbs import commands

    answer(
        lambda: commands.export(dir=folder, format=form, allow_code=tuple(allow_code or ())),
        as_json,
        lambda result: commands.summary_of(result, Path(str(result["dir"]))),
    )
