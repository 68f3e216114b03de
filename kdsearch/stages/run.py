"""A study from its file to its report: seven stages, each made once for what it is made from.

prepare -> search -> refine -> distill -> compress -> export -> report
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from typing_extensions import TypedDict

from kdsearch.errors import ArtifactError, InterruptedRun, KdsearchError, RefusedError, StorageError
from kdsearch.stages import compress, distill, export, prepare, refine, report, search
from kdsearch.stages.by_hand import Files, asked_before, asked_now, keep, public, student_of, told_of
from kdsearch.stages.cards import PREDICT, card_name
from kdsearch.stages.feasible import hardly_feasible
from kdsearch.stages.mirror import mirror, mirror_result
from kdsearch.stages.one_file import fixes, reasons
from kdsearch.stages.saved_networks import publish_networks
from kdsearch.stages.versions import older, what_changed
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import as_storage_error, copy_file, is_disk_error, read_json, storing, write_json
from kdsearch.store.folder import LAST, Made, is_under_way, last_run, seconds_before, seconds_of
from kdsearch.store.hashing import file_digest
from kdsearch.training.dry import check_where_trials_run
from kdsearch.training.keys import part_of, seen_by
from kdsearch.training.materials import Materials
from kdsearch.training.memory import check_students
from kdsearch.training.recipe_data import supplied
from kdsearch.training.tools import Tools

RESULT = "result.json"
OUTGROWN = "a limit of `run` that something failed of is higher now"


class Published(TypedDict):
    """What the result of an earlier run says of its files."""

    exports: list[Files]


STAGES: tuple[ModuleType, ...] = (prepare, search, refine, distill, compress, export, report)


def run_stages(materials: Materials, tools: Tools, until: str = report.NAME) -> dict[str, Artifact]:
    """Make every artifact that is not there yet, up to the stage `until`. Killed anywhere, the next call goes on."""
    from kdsearch.ops.threads import cpu_threads

    try:
        with cpu_threads(materials.study.config.run.threads_per_trial):
            return _run(materials, tools, until)
    finally:
        tools.progress.end()
        tools.close()


def _run(materials: Materials, tools: Tools, until: str) -> dict[str, Artifact]:
    made: dict[str, Artifact] = {}
    distill.check(materials)
    export.check(materials)
    before = last_run(tools.folder)
    changed = tried = False
    for stage in STAGES:
        name: str = stage.NAME
        inputs = {each: made[each] for each in stage.NEEDS}
        part = part_of(stage, materials)
        key = tools.store.key(name, part, inputs)
        found = tools.store.get(name, key)
        while found is not None and stage in (search, refine) and stage.is_stale(materials, found):
            inputs = {**inputs, name: found}  # what takes its place is made from it, too
            key = tools.store.key(name, part, inputs)
            found = tools.store.get(name, key)
        if name in before and before[name]["key"] != key and found is None and not changed:
            changed = True
            if not is_under_way(tools.folder, name, key):  # else an earlier run said so, and this one goes on with it
                is_outgrown = name in inputs and inputs[name].key == before[name]["key"]
                before = _redoing(stage, before, part, tools, OUTGROWN if is_outgrown else "")
        last = before.get(name)
        if found is None:
            spent = seconds_before(tools.folder, name, key)
            tools.heed_stop()
            if stage is prepare:
                check_students(materials)
                search.check(seen_by(search, materials))  # before a teacher is trained for it
                refine.check(materials)
                for each in hardly_feasible(materials):
                    tools.progress.say(each)
            if stage in (prepare, search, refine) and until == report.NAME and not tried:
                check_where_trials_run(materials, tools)
                refine.begin_log(materials)  # the last check: it makes the tables of a database
                tried = True
            found, spent = _make(stage, materials, inputs, key, tools, spent)
        elif last and last["key"] == key:
            spent = last["seconds"]
        else:  # of an earlier run, or of another verb's
            spent = seconds_of(tools.folder, name, key)
        made[name] = found
        mirror(name, materials, found, tools)
        if stage is prepare:
            materials = supplied(materials, found, tools.store)
        before = {**before, name: Made(key=key, seconds=round(spent, 3))}
        write_json(tools.folder / LAST, before)
        if stage is prepare:
            prepare.admit(materials, found)
        if name == until:
            break
    return made


def _redoing(
    stage: ModuleType, before: Mapping[str, Made], part: Mapping[str, Any], tools: Tools, why: str = ""
) -> dict[str, Made]:
    """Say that this stage and those after it are redone, and why; the last run's artifacts, of which theirs are stale."""
    name: str = stage.NAME
    later = [each.NAME for each in STAGES[STAGES.index(stage) :]]
    why = why or what_changed(tools.store.folder(name, before[name]["key"]), name, part["capabilities"].values())
    tools.events.write("changed", redo=later, why=why)
    there = {each: before[each] for each in later if each in before}
    stale = {each: Made(key=was["key"], seconds=was["seconds"], stale=True) for each, was in there.items()}
    write_json(tools.folder / LAST, {**before, **stale})
    tools.progress.say(f"{why}: redoing {', '.join(later)}; what they replace stays until `kdsearch clean`")
    return {**before, **stale}


def _make(
    stage: ModuleType, materials: Materials, inputs: Mapping[str, Artifact], key: str, tools: Tools, spent: float
) -> tuple[Artifact, float]:
    name = stage.NAME
    began = time.monotonic()
    tools.events.write("stage", stage=name, state="begun", key=key, seconds=round(spent, 3))
    work = tools.store.work(name, key)
    try:
        artifact = tools.store.put(
            name,
            key,
            lambda out: stage.make(seen_by(stage, materials), inputs, tools, work, out),
            report.provenance(materials),
        )
        tools.progress.end(is_done=True)
    except (Exception, InterruptedRun) as caught:
        error: BaseException = caught
        if isinstance(caught, OSError) and is_disk_error(caught):
            error = as_storage_error(caught, work)
        elif not isinstance(caught, (KdsearchError, InterruptedRun)):
            error = materials.host.blamed(caught) or caught
        if isinstance(error, KdsearchError) and error.path:
            materials.study.place(error)
        taken = round(spent + time.monotonic() - began, 3)
        with contextlib.suppress(StorageError):  # the disk may be what stopped the stage
            tools.events.write("stage", stage=name, state="stopped", key=key, seconds=taken, error=str(error))
        if error is caught:
            raise
        raise error from caught
    finally:
        tools.progress.end()
    taken = spent + time.monotonic() - began
    tools.events.write("stage", stage=name, state="done", key=key, seconds=round(taken, 3))
    tools.progress.say(f"{name}: done in {taken:.1f} s")
    return artifact, taken


def put_back(folder: Path, row: Mapping[str, Any], exported: Artifact, reported: Artifact) -> bool:
    """Make the public files of one format, what goes along, and the cards equal to the artifacts'; whether one of them was not."""
    changed = False
    cards = [(path, card_name(Path(path).name)) for path in row["paths"]]
    pairs = [(exported.path / Path(path).name, folder / path) for path in [*row["paths"], *row["files"]]]
    pairs += [(reported.path / report.CARDS / card, (folder / path).with_name(card)) for path, card in cards]
    if (reported.path / report.CARDS / PREDICT).exists():
        pairs.append((reported.path / report.CARDS / PREDICT, folder / "export" / PREDICT))
    for source, place in pairs:
        if not place.is_file() or file_digest(place) != file_digest(source):
            changed = True
            with storing(place):
                place.parent.mkdir(exist_ok=True)
            copy_file(source, place)
    return changed


def _remove_stale_program(folder: Path, reported: Artifact) -> None:
    """Of `export/predict.py`, where this report has none and an earlier one of the folder wrote it."""
    place, own = folder / "export" / PREDICT, Path(report.CARDS) / PREDICT
    if not place.is_file() or (reported.path / own).exists():
        return
    if file_digest(place) in {file_digest(each) for each in reported.path.parent.glob(f"{report.NAME}-*/{own}")}:
        place.unlink()


def _public(folder: Path) -> set[str]:
    """Names of the files and cards in `export/` that the folder's result tells of; none where that is damaged."""
    if not (folder / RESULT).is_file():
        return set()
    try:
        return public(read_json(folder / RESULT, Published)["exports"])
    except ArtifactError:
        return set()


def publish(
    materials: Materials, made: Mapping[str, Artifact], tools: Tools, by_hand: Collection[str] = ()
) -> dict[str, Any]:
    """Files under their public names, and the final JSON.

    Args:
        by_hand: formats that `kdsearch export` asks for beyond the study's own.

    Raises RefusedError with the JSON in `result` when a gate refused a file.
    """
    folder, formats = tools.folder, materials.study.config.export.formats
    hand = asked_before(folder)
    seconds = {name: each["seconds"] for name, each in last_run(tools.folder).items() if name in made}
    result: dict[str, Any] = dict(made["report"].facts["result"])
    if note := older(made):
        result["notes"] = [*result["notes"], note]
    kept, gone = asked_now(hand, result["exports"], formats, student_of(made), by_hand)
    result["notes"] = [*result["notes"], *told_of(kept, gone, formats, folder)]
    mirror_result({**result, "notes": list(result["notes"])}, made["report"].key, tools.folder, tools)
    result["notes"] = list(dict.fromkeys([*result["notes"], *materials.host.told(), *tools.logs.notes]))
    before = _public(tools.folder) | public(hand)
    keep(folder, [*kept, *gone])
    export.copy_exports(made["export"], tools.folder)
    for row in result["exports"]:
        put_back(tools.folder, row, made["export"], made["report"])
    _remove_stale_program(folder, made["report"])
    publish_networks(made["compress"], tools.folder)
    page = tools.folder / "report"
    with storing(page):
        page.mkdir(exist_ok=True)
    copy_file(made["report"].path / "index.html", page / "index.html")
    for role in made["search"].facts["roles"]:
        target = "candidates.jsonl" if len(made["search"].facts["roles"]) == 1 else f"candidates-{role}.jsonl"
        copy_file(made["search"].path / f"candidates-{role}.jsonl", tools.folder / target)
    result = {**result, "dir": str(tools.folder), "seconds": seconds}
    write_json(tools.folder / RESULT, result)
    for name in before - _public(folder) - public(kept):  # an earlier study's
        (folder / "export" / name).unlink(missing_ok=True)
    if gone:
        keep(folder, kept)
    if result["refused"]:
        error = RefusedError(
            f"not written: {reasons(result['refused'])}",
            file=tools.folder / "export",
            fix=fixes(result["refused"]),
        )
        error.result = result  # type: ignore[attr-defined]
        raise error
    return result
