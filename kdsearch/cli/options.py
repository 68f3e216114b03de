"""Arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from kdsearch.limits import SEEDS, WHOLE

T = TypeVar("T")


def option(
    *names: str, help: str, metavar: str | None = None, min: float | None = None, max: float | None = None
) -> Any:
    """An option of a verb; one with a range is a number, `N` in the help."""
    ranged = min is not None or max is not None
    return typer.Option(*names, help=help, metavar=metavar or ("N" if ranged else None), min=min, max=max)


def seed_option(help: str) -> Any:
    """`--seed`: a whole number of 63 bits, an upper end that the help of every verb does without."""
    return typer.Option("--seed", help=help, metavar="N", min=0, callback=_seed)


def _seed(value: int | None) -> int | None:
    if value is not None and value > WHOLE:
        raise typer.BadParameter(f"got '{value}'. Expected less than or equal to {WHOLE}")
    return value


Json = Annotated[bool, option("--json", help="Print one JSON object on stdout and nothing else there.")]
Seed = Annotated[int | None, seed_option("Instead of the study's seed.")]
Sets = Annotated[
    list[str] | None,
    option("--set", metavar="KEY=VALUE", help="key.path=value, as if written in the study; may be repeated."),
]
AllowCode = Annotated[
    list[str] | None,
    option(
        "--allow-code",
        metavar="CODE",
        help="Let this code run, named exactly as the study or command does; may be repeated.",
    ),
]
StudyFile = Annotated[Path, typer.Argument(help="The study.", metavar="FILE")]
Folder = Annotated[Path, typer.Argument(help="The study's folder.", metavar="DIR", file_okay=False)]

# of scores outside a study's run
Space = Annotated[
    str | None, option("--space", metavar="NAME", help="A search space, or file.py:Class with --allow-code.")
]
OwnStudy = Annotated[
    Path | None,
    option(
        "--study",
        metavar="FILE",
        help="A study file in place of --space, --data and --teacher: scored as the study does it.",
    ),
]
Teacher = Annotated[
    str | None, option("--teacher", metavar="ARCH", help="Architecture of the random teacher; default: the space's.")
]
ScoreSeed = Annotated[
    int | None,
    seed_option("Of sample, initialisation and noise; default: 0, or the study's."),
]
InitSeeds = Annotated[
    int | None,
    option(
        "--init-seeds", min=1, max=SEEDS, help="Initialisations to average over; rows tell the spread.  [default: 1]"
    ),
]
