"""`kdsearch bench proxies|search|table|onnx`: scores and strategies judged on tables of known accuracies, files by their speed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdsearch.cli.options import (
    AllowCode,
    InitSeeds,
    Json,
    OwnStudy,
    ScoreSeed,
    Seed,
    Sets,
    Space,
    StudyFile,
    Teacher,
    option,
)
from kdsearch.limits import EPOCHS, SEEDS, TRIALS, WORKERS

app = typer.Typer(no_args_is_help=True, help="Judge scores and strategies on tables; time ONNX files.")

Table = Annotated[
    Path,
    option(
        "--table", metavar="FILE", help="CSV or CSV.GZ with a column 'arch' (or d1, d2, ...), one row an architecture."
    ),
]
Column = Annotated[str, option("--column", metavar="NAME", help="The column with the accuracy.")]
Data = Annotated[str | None, option("--data", metavar="NAME", help="A data set that the scores see; default: noise.")]


@app.command("onnx")
def onnx(
    files: Annotated[list[Path], typer.Argument(help="ONNX files, measured in turns.", metavar="FILE")],
    batch: Annotated[int, option("--batch", min=1, help="Samples a call, where the file leaves that open.")] = 1,
    threads: Annotated[int, option("--threads", min=1, max=WORKERS, help="Inside an operator.")] = 1,
    rounds: Annotated[int, option("--rounds", min=1, max=TRIALS, help="Each measures every file.")] = 15,
    size: Annotated[
        list[str] | None,
        option(
            "--size",
            metavar="NAME=SIZES",
            help="NAME=3,224,224: an input's sizes without the batch, where the file leaves them open.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Latency, throughput and memory of ONNX files. Rounds in turns, after a warm-up; min, median, p95 and spread of the rounds."""
    from kdsearch.cli.output import answer
    from kdsearch.verbs import commands

    sizes = dict(sizes_of(each, "--size") for each in size or ())
    answer(lambda: commands.bench_onnx(files=files, batch=batch, threads=threads, rounds=rounds, sizes=sizes), as_json)


@app.command("proxies")
def proxies(
    table: Table,
    column: Column,
    space: Space = None,
    study: OwnStudy = None,
    names: Annotated[
        str,
        option(
            "--proxies",
            metavar="NAMES",
            help="Proxies, separated by commas, or all; default: auto, its terms and the baselines.",
        ),
    ] = "",
    sample: Annotated[
        int | None, option("--sample", metavar="N", help="So many rows, drawn uniformly; default: all.")
    ] = None,
    seed: ScoreSeed = None,
    init_seeds: InitSeeds = None,
    data: Data = None,
    teacher: Teacher = None,
    workers: Annotated[int, option("--workers", min=1, max=WORKERS, help="Processes; changes no score.")] = 1,
    allow_code: AllowCode = None,
    as_json: Json = False,
) -> None:
    """Rank agreement of training-free scores with a column of a table."""
    from kdsearch.cli.output import answer
    from kdsearch.verbs import commands

    answer(
        lambda: commands.bench_proxies(
            space=space,
            study=study,
            table=table,
            column=column,
            proxies=parts(names, "--proxies"),
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


@app.command("search")
def search(
    table: Table,
    column: Column,
    space: Space = None,
    study: OwnStudy = None,
    budget: Annotated[
        str, option("--budget", metavar="NUMBERS", help="Numbers of trainings, separated by commas.")
    ] = "10,25,50,100",
    repeats: Annotated[
        int, option("--repeats", min=1, max=TRIALS, help="Searches with a seed of their own each.")
    ] = 20,
    strategies: Annotated[
        str,
        option(
            "--strategies",
            metavar="NAMES",
            help="Names, separated by commas; default: kdsearch and what it is compared with.",
        ),
    ] = "",
    candidates: Annotated[
        int | None,
        option(
            "--candidates", min=2, help="Architectures that kdsearch scores before it trains one; default: as a study."
        ),
    ] = None,
    max_params: Annotated[
        float,
        option(
            "--max-params", metavar="SHARE", min=0.0, help="Share of the largest one's parameters that all keep to."
        ),
    ] = 1.0,
    seed: ScoreSeed = None,
    data: Data = None,
    teacher: Teacher = None,
    workers: Annotated[int, option("--workers", min=1, max=WORKERS, help="Processes; changes no result.")] = 1,
    allow_code: AllowCode = None,
    as_json: Json = False,
) -> None:
    """Search strategies, by what they find in a table. The best accuracy after so many of its trainings."""
    from kdsearch.cli.output import answer
    from kdsearch.verbs import commands

    answer(
        lambda: commands.bench_search(
            space=space,
            study=study,
            table=table,
            column=column,
            budgets=whole_numbers(budget, "--budget"),
            repeats=repeats,
            strategies=parts(strategies, "--strategies"),
            candidates=candidates,
            max_params=max_params,
            seed=seed,
            data=data,
            teacher=teacher,
            workers=workers,
            allow_code=tuple(allow_code or ()),
        ),
        as_json,
    )


@app.command("table")
def table(
    file: StudyFile,
    n: Annotated[int, option("--n", min=2, max=TRIALS, help="Architectures, drawn uniformly from the study's space.")],
    epochs: Annotated[
        int | None, option("--epochs", min=1, max=EPOCHS, help="Of each training; default: distill.epochs.")
    ] = None,
    seeds: Annotated[
        int, option("--seeds", min=1, max=SEEDS, help="Trainings of each: other initialisation, other batches.")
    ] = 1,
    kinds: Annotated[
        str, option("--kinds", metavar="KINDS", help="kd: the recipe as it is; ce: labels alone; default: both.")
    ] = "",
    out: Annotated[
        Path | None, option("--out", metavar="FILE", help="The CSV; default: table.csv in the folder.")
    ] = None,
    folder: Annotated[
        Path | None, option("--dir", metavar="DIR", help="The folder; default: the file's stem and -table beside it.")
    ] = None,
    workers: Annotated[
        int | None, option("--workers", min=1, max=WORKERS, help="Trainings at once; changes no result.")
    ] = None,
    seed: Seed = None,
    sets: Sets = None,
    allow_code: AllowCode = None,
    as_json: Json = False,
) -> None:
    """Make such a table: students of a space distilled alike. Killed at any moment, the same command goes on."""
    from kdsearch.cli.output import answer
    from kdsearch.verbs import commands

    answer(
        lambda: commands.bench_table(
            file=file,
            n=n,
            epochs=epochs,
            seeds=seeds,
            kinds=parts(kinds, "--kinds"),
            out=out,
            dir=folder,
            workers=workers,
            seed=seed,
            sets=tuple(sets or ()),
            allow_code=tuple(allow_code or ()),
        ),
        as_json,
    )


def parts(text: str, path: str) -> tuple[str, ...]:
    """What stands between commas; nothing for no text. Raise StudyError for commas alone."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if text and not found:
        from kdsearch.errors import StudyError

        raise StudyError(f"got '{text}'", path=path, expected="names, separated by commas")
    return found


def whole_numbers(text: str, path: str) -> tuple[int, ...]:
    """Positive whole numbers separated by commas. Raise StudyError for anything else."""
    from kdsearch.errors import StudyError

    found = parts(text, path)
    if not found or not all(part.isdecimal() and int(part) > 0 for part in found):
        raise StudyError(f"got '{text}'", path=path, expected="whole numbers above 0, such as 10,25")
    return tuple(dict.fromkeys(int(part) for part in found))


def sizes_of(text: str, path: str) -> tuple[str, tuple[int, ...]]:
    """`NAME=3,224,224` -> (name, sizes)."""
    from kdsearch.errors import StudyError

    name, equals, rest = text.partition("=")
    try:
        sizes = tuple(int(each) for each in rest.split(","))
        if not name or not equals or min(sizes) < 1:
            raise ValueError
    except ValueError:
        raise StudyError(f"got '{text}'", path=path, expected="NAME=3,224,224") from None
    return name, sizes
