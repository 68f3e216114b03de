"""`kdsearch validate FILE [--plan]`: is the study right, and what would it do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from kdsearch.cli.options import AllowCode, Json, Seed, Sets, StudyFile, option


def validate(
    file: StudyFile,
    plan: Annotated[
        bool, option("--plan", help="Also say how many samples there are, and what it would take of time and disk.")
    ] = False,
    seed: Seed = None,
    sets: Sets = None,
    allow_code: AllowCode = None,
    as_json: Json = False,
) -> None:
    """Check a study file, before any work. Keys, types, names, options; data and teachers are opened, nothing is written."""
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
    show({"file": str(file), "valid": True, **found, "text": _in_words(str(file), found)}, as_json)


def _in_words(file: str, found: Mapping[str, Any]) -> str:
    """What the study is, a line each."""
    from kdsearch.verbs.plan import in_words

    def student(role: str, each: Mapping[str, Any]) -> str:
        size = "" if each["size"] is None else f", {each['size']:,} architecture" + ("s" if each["size"] != 1 else "")
        return f"{'' if role == 'student' else f'{role}: '}{each['space']}{size}"

    recipe = found["recipe"]
    searched = f"searched: {', '.join(recipe['searched'])}" if recipe["searched"] else "nothing of it searched"
    rows = [
        ("data", found["data"]),
        *(("teacher", use if name == "main" else f"{name}: {use}") for name, use in found["teachers"].items()),
        *(("student", student(role, each)) for role, each in found["students"].items()),
        ("recipe", f"{', '.join(recipe['distillers']) or 'no distillers'}; {searched}"),
        ("search", f"{found['candidates']:,} candidates, scored by {', '.join(found['proxies'])}"),
        *((each["stage"], in_words(each)) for each in found["trainings"]),
        ("export", ", ".join(found["formats"])),
    ]
    lines = [f"{file} is valid (`--plan` adds samples, time and disk)"]
    lines += [f"WARNING  {text}" for text in found.get("warnings", ())]
    lines += [f"NOTE  {text}" for text in found.get("notes", ())]
    return "\n".join(lines + [f"  {name:8} {text}" for name, text in rows])
