"""`kdsearch score`: training-free scores of architectures, without a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from kdsearch.cli.options import AllowCode, InitSeeds, Json, OwnStudy, ScoreSeed, Space, Teacher, option
from kdsearch.limits import CANDIDATES, WORKERS


def score(
    space: Space = None,
    study: OwnStudy = None,
    proxies: Annotated[str, option("--proxies", metavar="NAMES", help="Proxies, separated by commas.")] = "auto",
    archs: Annotated[
        Path | None,
        option(
            "--archs", metavar="FILE", help="A file with one architecture a line, as the space writes it or as JSON."
        ),
    ] = None,
    sample: Annotated[
        int | None, option("--sample", max=CANDIDATES, help="Score so many specs drawn from the space; default: 10.")
    ] = None,
    teacher: Teacher = None,
    data: Annotated[
        str | None, option("--data", metavar="NAME", help="A data set; default: noise, such as the space reads.")
    ] = None,
    seed: ScoreSeed = None,
    init_seeds: InitSeeds = None,
    workers: Annotated[int, option("--workers", min=1, max=WORKERS, help="Processes; changes no score.")] = 1,
    allow_code: AllowCode = None,
    as_json: Json = False,
) -> None:
    """Score architectures of a search space without training them."""
    from kdsearch.cli.output import answer
    from kdsearch.errors import UserError
    from kdsearch.verbs import commands

    if archs is not None and sample is not None:
        raise UserError("both --archs and --sample are given", expected="one of them")
    names = tuple(dict.fromkeys(name.strip() for name in proxies.split(",") if name.strip()))
    if not names:
        raise UserError(f"--proxies '{proxies}' names none", expected="names separated by commas")
    answer(
        lambda: commands.score(
            space=space,
            study=study,
            proxies=names,
            archs=archs,
            sample=sample,
            teacher=teacher,
            data=data,
            seed=seed,
            init_seeds=init_seeds,
            workers=workers,
            allow_code=tuple(allow_code or ()),
        ),
        as_json,
    )
