"""Arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from kdsearch.limits import SEEDS, WHOLE

T = TypeVar("T")


def option(*names: str, help: str, min: int | None = None, max: int | None = None) -> Any:
    return typer.Option(*names, help=help, min=min, max=max)


Json = Annotated[bool, option("--json", help="Print one JSON object on stdout and nothing else there.")]
Seed = Annotated[int | None, option("--seed", min=0, max=WHOLE, help="Instead of the study's seed.")]
Sets = Annotated[list[str] | None, option("--set", help="key.path=value, as if written in the study; may be repeated.")]
AllowCode = Annotated[
    list[str] | None,
    option("--allow-code", help="Let this code run, named exactly as the study or command does; may be repeated."),
]
StudyFile = Annotated[Path, typer.Argument(help="The study.", metavar="FILE")]
Folder = Annotated[Path, typer.Argument(help="The study's folder.", metavar="DIR", file_okay=False)]

# of scores outside a study's run
Space = Annotated[str | None, option("--space", help="A search space, or file.py:Class with --allow-code.")]
OwnStudy = Annotated[
    Path | None,
    option("--study", help="A study file in place of --space, --data and --teacher: scored as the study does it."),
]
Teacher = Annotated[str | None, option("--teacher", help="Architecture of the random teacher; default: the space's.")]
ScoreSeed = Annotated[
    int | None,
    option("--seed", min=0, max=WHOLE, help="Of sample, initialisation and noise; default: 0, or the study's."),
]
InitSeeds = Annotated[
    int | None,
    option(
        "--init-seeds", min=1, max=SEEDS, help="Initialisations to average over; rows tell the spread.  [default: 1]"
    ),
]
