"""`kdsearch validate FILE [--plan]`: is the study right, and what would it do."""

from __future__ import annotations

from typing import Annotated

from kdsearch.cli.options import AllowCode, Json, Seed, Sets, StudyFile, option


def validate(
    file: StudyFile,
    plan: Annotated[
        bool, option("--plan", help="Also say what it would do: candidates, trainings, time, disk.")
    ] = False,
    seed: Seed = None,
    sets: Sets = None,
    allow_code: AllowCode = None,
    as_json: Json = False,
) -> None:
    """Check a study file: keys, types, names, options, combinations; data and teachers are opened. Nothing is written."""
    from kdsearch.cli.output import answer, show, stdout_kept
    from kdsearch.host import Host
    from kdsearch.study import load_study

    host = Host.load()
    study = load_study(file, host, allow_code or (), sets or (), seed)
    from kdsearch.verbs.preflight import look, preflight

    preflight(study, host)
    if plan:
        from kdsearch.verbs import commands

        answer(lambda: commands.plan(study=study, host=host), as_json)
        return
    with stdout_kept():
        found = look(study, host)
    show({"file": str(file), "valid": True, **found}, as_json)
