"""`kdsearch bench proxies|search`: scores and strategies judged on tables of known accuracies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdsearch.cli.options import AllowCode, Json, option

app = typer.Typer(no_args_is_help=True, help="Judge training-free scores on a table of known accuracies.")

Space = Annotated[str, option("--space", help="A search space, or file.py:Class with --allow-code.")]
Table = Annotated[
    Path, option("--table", help="CSV or CSV.GZ with a column 'arch' (or d1, d2, ...), one row an architecture.")
]
Column = Annotated[str, option("--column", help="The column with the accuracy.")]


@app.command("proxies")
def proxies(
    space: Space,
    table: Table,
    column: Column,
    names: Annotated[
        str,
        option("--proxies", help="Proxies, separated by commas, or all; default: auto, its terms and the baselines."),
    ] = "",
    sample: Annotated[int | None, option("--sample", help="So many rows, drawn uniformly; default: all.")] = None,
    seed: Annotated[int, option("--seed", min=0, help="Of sample, initialisation and noise.")] = 0,
    init_seeds: Annotated[int, option("--init-seeds", min=1, help="Initialisations to average over.")] = 1,
    data: Annotated[str | None, option("--data", help="A data set that the scores see; default: noise.")] = None,
    teacher: Annotated[
        str | None, option("--teacher", help="Architecture of the random teacher; default: the space's.")
    ] = None,
    workers: Annotated[int, option("--workers", min=1, help="Processes; changes no score.")] = 1,
    allow_code: AllowCode = None,
    as_json: Json = False,
) -> None:
    """Rank agreement of training-free scores with a column of a table."""
    from kdsearch.cli.output import answer
    from kdsearch.stages import commands

    answer(
        lambda: commands.bench_proxies(
            space=space,
            table=table,
            column=column,
            proxies=tuple(name.strip() for name in names.split(",") if name.strip()),
            sample=sample,
            seed=seed,
            init_seeds=init_seeds,
            data=data,
            teacher=teacher,
            workers=workers,
            allow_code=tuple(allow_code or ()),
        ),
        as_json,
    )
