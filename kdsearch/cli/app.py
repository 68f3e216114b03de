"""The table of verbs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import typer
from typer.main import get_command

from kdsearch.cli import (
    bench,
    clean,
    compress,
    dashboard,
    data,
    export,
    init,
    plugins,
    quickstart,
    report,
    run,
    schema,
    score,
    status,
    validate,
    verify,
    worker,
)

app = typer.Typer(
    help="From a teacher, data and a deployment budget to a searched, distilled, quantised and verified ONNX student.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def kdsearch(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("kdsearch"))
        raise typer.Exit


app.command("quickstart")(quickstart.quickstart)
app.command("init")(init.init)
app.command("validate")(validate.validate)
app.command("schema")(schema.schema)
app.command("data")(data.data)
app.command("run")(run.run)
app.command("worker")(worker.worker)
app.command("status")(status.status)
app.command("dashboard")(dashboard.dashboard)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("compress")(compress.compress)
app.command("verify")(verify.verify)
app.command("clean")(clean.clean)
app.command("score")(score.score)
app.add_typer(bench.app, name="bench")
app.add_typer(plugins.app, name="plugins")


@cache
def command() -> Callable[..., object]:
    """What the table makes of a command line. Reading the verbs' signatures takes longer than most of them: once a process."""
    return get_command(app)
