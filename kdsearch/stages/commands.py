"""What the verbs of the command line call: plain arguments in, a JSON-able answer out."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from kdsearch.errors import ArtifactError, InterruptedRun, UserError, nearest, one_of
from kdsearch.host import Host
from kdsearch.stages.job import STUDY, open_store
from kdsearch.store.artifacts import Artifact, Store
from kdsearch.store.files import read_json, remove, write_bytes, write_json
from kdsearch.store.folder import LAST, MARK, Events, held, last_run, open_folder
from kdsearch.store.inputs import lies, names
from kdsearch.study.reading import load_study
from kdsearch.study.rules import bare
from kdsearch.study.study import Study

ORIGIN = "origin.json"  # where the study's relative paths start, for verbs that know the folder alone


class Origin(TypedDict):
    """What origin.json holds."""

    base: str


def run(
    *,
    file: Path,
    dir: Path | None = None,
    workers: int | None = None,
    seed: int | None = None,
    sets: tuple[str, ...] = (),
    allow_code: tuple[str, ...] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Run a study file in its folder; the final JSON."""
    host = Host.load()
    study = load_study(file, host, allow_code, sets, seed)
    folder = dir if dir is not None else Path(file).parent / Path(file).stem
    return run_study(
        study,
        host,
        folder,
        workers=workers,
        progress=progress,
        again=_again(file, dir, workers, seed, sets, allow_code),
    )


def run_study(
    study: Study,
    host: Host,
    folder: Path,
    *,
    workers: int | None = None,
    progress: bool = True,
    again: str = "run the same command again",
    checkpoint_s: float = 30.0,
) -> dict[str, Any]:
    """Run a checked study in a folder, held for this process.

    Raises:
        UserError (2), RefusedError (3), BusyError and StorageError (1), InterruptedRun (130) after a checkpoint.
    """
    from kdsearch.deploy.latency import check_cache
    from kdsearch.stages.materials import open_materials
    from kdsearch.stages.preflight import preflight
    from kdsearch.stages.run import publish, run_stages
    from kdsearch.stages.tools import Progress, Tools
    from kdsearch.study.check import check_executor

    preflight(study, host)
    materials = open_materials(study, host, folder)  # before the folder exists: wrong input leaves nothing behind
    check_cache()
    count = workers if workers is not None else study.config.run.workers
    check_executor(study, study.host(host), count)
    with _leaving_nothing(folder), held(folder), _stoppable() as stop:
        text = study.resolved_yaml().encode()
        if not (folder / STUDY).exists() or (folder / STUDY).read_bytes() != text:
            write_bytes(folder / STUDY, text)
        write_json(folder / ORIGIN, {"base": _relative(study.folder, folder)})
        store = open_store(study, folder)
        tools = Tools(
            store, Events(folder / "events.jsonl", host.event), folder, Progress(progress), stop, count, checkpoint_s
        )
        try:
            return publish(materials, run_stages(materials, tools), tools)
        except KeyboardInterrupt:
            raise InterruptedRun(f"interrupted; to go on: {again}") from None
        except InterruptedRun as error:
            raise InterruptedRun(f"{error.problem}; to go on: {again}") from None


@contextmanager
def _leaving_nothing(folder: Path) -> Iterator[None]:
    """Open the folder; where the user's input proves wrong before any stage is done, a folder made now goes again."""
    was_there = lies(folder, error=ArtifactError)
    open_folder(folder)
    try:
        yield
    except UserError:
        if not was_there and not (folder / LAST).exists():
            remove(folder)
        raise


def _relative(base: Path, folder: Path) -> str:
    """From the study's folder to where its paths start, so that both may be moved together."""
    try:
        return os.path.relpath(base.resolve(), folder.resolve())
    except ValueError:  # another drive
        return str(base.resolve())


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM set a flag that trainings ask for after every step; a second Ctrl-C ends at once."""
    asked = {"stop": False}

    def on_signal(number: int, _: Any) -> None:
        if asked["stop"]:
            raise KeyboardInterrupt
        asked["stop"] = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    if getattr(signal.getsignal(signal.SIGINT), "came", False):
        raise KeyboardInterrupt  # it came while a library was imported, and was swallowed there
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked["stop"]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _again(
    file: Path,
    dir: Path | None,
    workers: int | None,
    seed: int | None,
    sets: tuple[str, ...],
    allow_code: tuple[str, ...],
) -> str:
    import shlex

    words = ["kdsearch", "run", str(file)]
    words += ["--dir", str(dir)] if dir is not None else []
    words += ["--workers", str(workers)] if workers is not None else []
    words += ["--seed", str(seed)] if seed is not None else []
    for each in sets:
        words += ["--set", each]
    for each in allow_code:
        words += ["--allow-code", each]
    return shlex.join(words)


def opened(folder: Path) -> Path:
    """Raise ArtifactError unless it is a study's folder."""
    if not lies(folder / MARK, error=ArtifactError):
        near = nearest(folder.name, [name for name in names(folder.parent) if (folder.parent / name / MARK).is_file()])
        raise ArtifactError(
            "no study's folder", file=folder, expected="a folder that `kdsearch run` made", nearest=near
        )
    open_folder(folder)
    return folder


def result_of(folder: Path) -> Mapping[str, Any]:
    """The final JSON of a finished study. Raise ArtifactError where it is not finished, or the file is not what `run` wrote."""
    file = opened(folder) / "result.json"
    if not lies(file):
        raise ArtifactError("the study is not finished", file=folder, fix="Run `kdsearch run` on its file.")
    fix = "Delete it; `kdsearch run` on the study's file writes it anew."
    found: dict[str, Any] = read_json(file, dict[str, Any], fix)
    told = _reported(folder).facts["result"]
    if changed := [name for name, value in told.items() if found.get(name) != value]:
        raise ArtifactError("has changed since it was written", file=file, path=changed[0], fix=fix)
    return found


def _reported(folder: Path) -> Artifact:
    """The last run's report."""
    last = last_run(folder)
    artifact = Store(folder).get("report", last["report"]["key"]) if "report" in last else None
    if artifact is None:
        raise ArtifactError("the report's artifact is gone", file=folder, fix="`kdsearch run` makes it again.")
    return artifact


def evidence_of_last(folder: Path) -> Mapping[str, Any]:
    """What the last run's figures draw. Raise ArtifactError where it is gone."""
    found: Mapping[str, Any] = read_json(_reported(opened(folder)).path / "evidence.json")
    return found


def status(*, dir: Path) -> dict[str, Any]:
    """What a folder holds: stages done, trials, who holds it."""
    from kdsearch.stages.status import status_of

    return status_of(opened(dir))


def clean(*, dir: Path, dry_run: bool = False) -> dict[str, Any]:
    """Remove what the folder's last run does not use."""
    from kdsearch.stages.clean import clean_of

    return clean_of(opened(dir), dry_run)


def report(*, dir: Path) -> dict[str, Any]:
    """Write the page anew from the last run's result and evidence."""
    from kdsearch.report import render

    result, evidence = result_of(dir), evidence_of_last(dir)
    sections = [(each.title, each.html) for each in Host.load().report_sections(result)]
    write_bytes(dir / "report" / "index.html", render(result, evidence, sections).encode())
    return {"report": str(dir / "report" / "index.html"), "text": f"{dir / 'report' / 'index.html'}"}


def export(*, dir: Path, format: str, allow_code: tuple[str, ...] = (), progress: bool = True) -> dict[str, Any]:
    """The row of one format, its file and card as they were verified: what was damaged since is put back from the artifacts.

    A format that the study did not ask for is made, checked and added to its export.
    """
    from kdsearch.stages.run import put_back

    result_of(dir)
    last, store = last_run(dir), Store(dir)
    made = [store.get(stage, last[stage]["key"]) if stage in last else None for stage in ("export", "report")]
    exported, reported = made
    if exported is not None and reported is not None:
        rows = [each for each in reported.facts["result"]["exports"] if each["format"] == format]
        if rows:
            with held(dir):
                changed = sum(put_back(dir, row, exported, reported) for row in rows) > 0  # of every row
            return _exported(rows, dir, "  (was damaged; put back)" if changed else "")
    return _exported(_export_again(dir, format, allow_code, progress), dir)


def _exported(rows: Sequence[Mapping[str, Any]], dir: Path, note: str = "") -> dict[str, Any]:
    """The row of a format, with those of all students where several ship by themselves."""
    from kdsearch.stages.quality import shown

    lines = []
    for row in rows:
        files = ", ".join(str(dir / path) for path in row["paths"])
        lines.append(f"{files}: {shown(row['quality'], name=True)}, {row['bytes']:,} bytes, {_speed(row)}{note}")
    more = {"exports": list(rows)} if len(rows) > 1 else {}
    return {**rows[0], **more, "dir": str(dir), "text": "\n".join(lines)}


def _export_again(dir: Path, form: str, allow_code: tuple[str, ...], progress: bool) -> list[Mapping[str, Any]]:
    host = Host.load()
    base = dir / read_json(dir / ORIGIN, Origin)["base"] if lies(dir / ORIGIN) else None
    study = load_study(dir / STUDY, host, allow_code, base=base)
    section = study.config.export
    kind = form.partition("-")[2]
    known = [f"{bare(section.exporter.use)}-{each}" for each in ("fp32", *host.names("quantizer"))]
    if form not in known:
        raise UserError(
            f"unknown format '{form}'", path="--format", nearest=nearest(form, known), expected=one_of(known)
        )
    formats = list(dict.fromkeys([*section.formats, form]))
    quantize = [use.model_dump(mode="json") for use in study.config.compress.quantize]
    if kind != "fp32" and all(each["use"] != kind for each in quantize):
        quantize.append({"use": kind, "options": {}})
    import json

    sets = (f"export.formats={json.dumps(formats)}", f"compress.quantize={json.dumps(quantize)}")
    study = load_study(dir / STUDY, host, allow_code, sets, base=base)
    again = f"kdsearch export {dir} --format {form}" + "".join(f" --allow-code {each}" for each in allow_code)
    result = run_study(study, host, dir, progress=progress, again=again)
    return [row for row in result["exports"] if row["format"] == form]


def quickstart(
    *, dir: Path, seed: int = 0, data: str = "digits", teacher: str = "trained", progress: bool = True
) -> dict[str, Any]:
    """Write the quickstart's study into `dir` and run it there."""
    from kdsearch.stages.quickstart import study_text
    from kdsearch.store.files import storing

    text = study_text(data, teacher, seed)
    file = dir / "quickstart.yaml"
    if dir.exists() and not file.exists() and any(dir.iterdir()):
        raise UserError("the folder has other files in it", file=dir, expected="a new or empty folder")
    host = Host.load()
    from kdsearch.study.load import parse
    from kdsearch.study.reading import make_study

    make_study(parse(text.encode()), host)  # nothing is written for what cannot run
    with storing(dir):
        dir.mkdir(parents=True, exist_ok=True)
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        write_bytes(file, text.encode())
    study = load_study(file, host)
    options = f" --seed {seed}" * (seed != 0) + f" --data {data}" * (data != "digits")
    options += f" --teacher {teacher}" * (teacher != "trained")
    result = run_study(study, host, dir / "study", progress=progress, again=f"kdsearch quickstart {dir}{options}")
    return {**result, "text": summary_of(result, dir / "study")}


def _speed(row: Mapping[str, Any]) -> str:
    """The median in a plain session, and what the card's session options make of it."""
    text = f"{row['latency_ms']['median']:.3f} ms"
    return text + (f" ({row['latency_tuned_ms']['median']:.3f} ms tuned)" if row["latency_tuned_ms"] else "")


def _recipe(row: Mapping[str, Any]) -> str:
    """What a data recipe made, and what it cost."""
    spent = "".join(f", {cost['calls']:,} calls of {name}" for name, cost in row["cost"].items())
    return f"recipe      {row['use']}: {row['kept']:,} of {row['records']:,} records kept{spent}"


def summary_of(result: Mapping[str, Any], folder: Path) -> str:
    """The result in a few lines for people."""
    from kdsearch.stages.quality import file_label, shown

    def line(name: str, row: Mapping[str, Any], rest: str) -> str:
        return f"{name:11} {shown(row['quality']):>8}  {rest}"

    student, teacher = result["student"], result["teacher"]
    quality = student["quality"]
    better = "higher" if quality["direction"] == "max" else "lower"
    lines = [f"WARNING  {text}" for text in result["warnings"]]
    lines += [] if quality["metric"] == "accuracy" else [f"objective   {quality['metric']}, {better} is better"]
    lines += [_recipe(each) for each in result["data"]["recipes"]]
    if teacher and (teacher["quality"] or teacher["params"]):
        lines.append(line("teacher", teacher, f"{teacher['params'] or 0:>10,} params"))
    lines.append(line("student", student, f"{student['params']:>10,} params  {student['architecture']}"))
    for name, label in (("baseline", "no teacher"), ("all_labels", "all labels")):
        if result[name]:
            lines.append(line(label, result[name], "the same student, equal steps"))
    if result["pruned"]:
        lines.append(line("pruned", result["pruned"], f"{result['pruned']['params']:>10,} params"))
    for row in result["exports"]:
        said = "  slower than fp32 here" if row["slower_than_fp32"] else ""
        said += "".join(f"  {name} {over:+.1%} above its limit" for name, over in row["over"].items())
        lines.append(line(file_label(row), row, f"{row['bytes']:>10,} bytes   {_speed(row)}{said}"))
    lines += [f"note        {text}" for text in result["notes"] if text.startswith("Teacher")]
    if chosen := result["recommended"]:
        name = next((file_label(row) for row in result["exports"] if row["path"] == chosen["path"]), chosen["format"])
        lines.append(f"recommended {name}: {chosen['why']}")
    lines.append(f"report      {folder / result['report']}")
    return "\n".join(lines)


def plan(*, study: Study, host: Host) -> dict[str, Any]:
    """What a study would do: candidates, trainings, and time and disk from a short measurement on this machine."""
    from kdsearch.stages.plan import plan_of

    return plan_of(study, host)


def score(
    *,
    space: str,
    proxies: tuple[str, ...],
    archs: Path | None = None,
    sample: int | None = None,
    teacher: str | None = None,
    data: str | None = None,
    seed: int = 0,
    init_seeds: int = 1,
    workers: int = 1,
    allow_code: tuple[str, ...] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Training-free scores of architectures: those of a file (one a line), or a random sample of the space.

    `init_seeds`: initialisations that a score is the mean of; `spread` in a row is their standard deviation.
    """
    from kdsearch.stages.score import scores_of
    from kdsearch.stages.scorers import Setting, terms_of

    setting = Setting(space, terms_of(proxies), teacher, data, seed, init_seeds, allow_code)
    return scores_of(setting, proxies, archs, sample, workers, progress)


def bench_proxies(
    *,
    space: str,
    table: Path,
    column: str,
    proxies: tuple[str, ...] = (),
    sample: int | None = None,
    seed: int = 0,
    init_seeds: int = 1,
    data: str | None = None,
    teacher: str | None = None,
    workers: int = 1,
    allow_code: tuple[str, ...] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """How well training-free scores rank the architectures of a table; no proxies: `auto`, its terms and the baselines."""
    from kdsearch.stages import bench
    from kdsearch.stages.scorers import Setting

    setting = Setting(space, (), teacher, data, seed, init_seeds, allow_code)
    return bench.bench_proxies(setting, proxies, table, column, sample, workers, progress)


def bench_search(
    *,
    space: str,
    table: Path,
    column: str,
    budgets: tuple[int, ...] = (10, 25, 50, 100),
    repeats: int = 20,
    strategies: tuple[str, ...] = (),
    candidates: int | None = None,
    max_params: float = 1.0,
    seed: int = 0,
    data: str | None = None,
    teacher: str | None = None,
    workers: int = 1,
    allow_code: tuple[str, ...] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """The best accuracy after so many looked-up trainings, by strategy."""
    from kdsearch.stages import bench_search
    from kdsearch.stages.scorers import Setting

    setting = Setting(space, (), teacher, data, seed, 1, allow_code)
    return bench_search.bench_search(
        setting, table, column, budgets, repeats, strategies, candidates, max_params, workers, progress
    )
