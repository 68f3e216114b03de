"""One format of a finished study: its file verified and, where it was damaged, put back, or made anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdsearch.errors import KdsearchError, RefusedError, UserError, nearest, one_of
from kdsearch.host import Host
from kdsearch.store.artifacts import Store
from kdsearch.store.folder import held, last_run
from kdsearch.study.rules import bare, formats_of
from kdsearch.study.study import Study
from kdsearch.verbs.finished import result_of, study_of
from kdsearch.verbs.run import command, run_study
from kdsearch.verbs.summary import speed


def export(*, dir: Path, format: str, allow_code: tuple[str, ...] = (), progress: bool = True) -> dict[str, Any]:
    """The row of one format, its file and card as they were verified: what was damaged since is put back from the artifacts.

    A format that the study did not ask for is made, checked and added to its export, where it stays as long as the student does.
    """
    from kdsearch.stages.run import put_back

    result_of(dir)
    last, store = last_run(dir), Store(dir)
    made = [store.get(stage, last[stage]["key"]) if stage in last else None for stage in ("export", "report")]
    exported, reported = made
    if exported is not None and reported is not None:
        rows = [each for each in reported.facts["result"]["exports"] if each["format"] == format]
        if rows:
            with held(dir, briefly=True):
                changed = sum(put_back(dir, row, exported, reported) for row in rows) > 0  # of every row
            return _exported(rows, dir, "  (was damaged; put back)" if changed else "")
    return _exported(_export_again(dir, format, allow_code, progress), dir)


def _exported(rows: Sequence[Mapping[str, Any]], dir: Path, note: str = "") -> dict[str, Any]:
    """The row of a format, with those of all students where several ship by themselves."""
    from kdsearch.stages.quality import shown

    lines = []
    for row in rows:
        files = ", ".join(str(dir / path) for path in row["paths"])
        lines.append(f"{files}: {shown(row['quality'], name=True)}, {row['bytes']:,} bytes, {speed(row)}{note}")
    more = {"exports": list(rows)} if len(rows) > 1 else {}
    return {**rows[0], **more, "dir": str(dir), "text": "\n".join(lines)}


def _export_again(dir: Path, form: str, allow_code: tuple[str, ...], progress: bool) -> list[Mapping[str, Any]]:
    from kdsearch.stages.by_hand import asked_before

    host = Host.load()
    study = study_of(dir, host, allow_code)
    section, quantize = study.config.export, _quantizers(study, host, form)
    formats = list(dict.fromkeys([*section.formats, form]))
    import json

    sets = (f"export.formats={json.dumps(formats)}", f"compress.quantize={json.dumps(quantize)}")
    study = study_of(dir, host, allow_code, sets)
    by_hand = {each["format"] for each in asked_before(dir)} | {form} - {*section.formats}
    again = command("export", dir, {"--format": form}, (), allow_code)
    result: Mapping[str, Any]
    try:
        result = run_study(study, host, dir, progress=progress, again=again, by_hand=by_hand)
    except RefusedError as error:  # of another format, which is not asked for here
        result = getattr(error, "result", {"exports": ()})
        if all(row["format"] != form for row in result["exports"]):
            raise
    return [row for row in result["exports"] if row["format"] == form]


def _quantizers(study: Study, host: Host, form: str) -> list[dict[str, Any]]:
    """The study's `compress.quantize` with the one of the format: its own by that name, else the installed one.

    Raise UserError for a format that nothing here makes.
    """
    prefix = f"{bare(study.config.export.exporter.use)}-"
    own = formats_of(study)
    names = host.names("quantizer")
    if form not in own and form not in [f"{prefix}{each}" for each in names]:
        known = list(dict.fromkeys([*own, *(f"{prefix}{each}" for each in names if _fits(study, host, each))]))
        raise UserError(
            f"unknown format '{form}'", path="--format", nearest=nearest(form, known), expected=one_of(known)
        )
    found = [use.model_dump(mode="json") for use in study.config.compress.quantize]
    return found if form in own else [*found, {"use": form.removeprefix(prefix), "options": {}}]


def _fits(study: Study, host: Host, quantizer: str) -> bool:
    """Whether it rewrites such files as the study's exporter writes."""
    suffix: str = host.load_class("exporter", study.config.export.exporter.use).suffix
    try:
        return bool(host.load_class("quantizer", quantizer).rewrites == suffix)
    except KdsearchError:  # its plugin does not load, as `kdsearch plugins` says
        return False
