"""Arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from kdsearch.limits import WHOLE

T = TypeVar("T")


def option(*names: str, help: str, min: int | None = None, max: int | None = None) -> Any:
    return typer.Option(*names, help=help, min=min, max=max)


Json = Annotated[bool, option("--json", help="Print one JSON object on stdout and nothing else there.")]
Seed = Annotated[int | None, option("--seed", min=0, max=WHOLE, help="Instead of the study's seed.")]
Sets = Annotated[list[str] | None, option("--set", help="key.path=value, as if written in the study; may be repeated.")]
AllowCode = Annotated[
    list[str] | None,
    option("--allow-code", help="Let this code run, exactly as the study names it; may be repeated."),
]
StudyFile = Annotated[Path, typer.Argument(help="The study.", metavar="FILE")]
Folder = Annotated[Path, typer.Argument(help="The study's folder.", metavar="DIR", file_okay=False)]
