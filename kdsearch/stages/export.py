"""Stage `export`: the files of every student that ships, each reloaded and compared; one that misses its bound is not written.

The first stage that sees the test split: after every choice, each reported accuracy is computed on it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kdsearch.engine.feeds import in_order
from kdsearch.engine.setup import Evaluator
from kdsearch.errors import DataError, RefusedError, no_share, told
from kdsearch.kinds import Batch, Exporter, Predict, Procedure
from kdsearch.report.page import jsonable
from kdsearch.stages.as_quantised import load_as
from kdsearch.stages.classes import classes_on_test
from kdsearch.stages.costs import latency_threads, needs_peak, reference_samples
from kdsearch.stages.ends import around, ends_of
from kdsearch.stages.one_file import Target, check_whole, file_row, fp32_refused, refusal
from kdsearch.stages.products import Shipped, shipped
from kdsearch.stages.quality import measured
from kdsearch.stages.recovered import started
from kdsearch.stages.samples import write_samples
from kdsearch.stages.teacher_latency import teacher_latency
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import copy_file, storing, write_json
from kdsearch.study.rules import bare
from kdsearch.training.finished import load_finished
from kdsearch.training.keys import TRAINING
from kdsearch.training.materials import Materials
from kdsearch.training.opened import open_teachers
from kdsearch.training.request import Request
from kdsearch.training.tools import Tools

NAME = "export"
NEEDS = ("prepare", "distill", "compress")
READS = (*TRAINING, "metrics", "name", "constraints", "compress", "export")
RULE = 4  # which files are refused, and what can be written; an export by another one is made anew
FIGURES = "figures.json"  # file's label -> what the task shows of its answers


def check(materials: Materials) -> None:
    """Raise StudyError for a `max_drop` that is per cent of a metric which counts in shares, as every file would pass, and for
    memory of files that are not ONNX: it is onnxruntime's.
    """
    metric = materials.metrics[materials.objective]
    for name, bound in materials.study.config.export.max_drop.items():
        if isinstance(bound, float) and (fix := no_share(metric.unit, bound)):
            raise materials.study.error(f"got {bound:g} of {materials.objective}", f"export.max_drop.{name}", fix=fix)
    use = materials.study.config.export.exporter
    if needs_peak(materials) and not materials.make("exporter", use, "export.exporter").is_onnx:
        path = "objectives" if "peak_bytes" in materials.cost_objectives else "constraints"
        problem, expected = f"files of exporter '{use.use}' are not ONNX", "exporter onnx: it is onnxruntime's memory"
        raise materials.study.error(problem, f"{path}.peak_bytes", expected=expected)


def further(materials: Materials) -> dict[str, Any]:
    """Latencies are this machine's."""
    from kdsearch.deploy.latency import machine

    return {"machine": machine(), "rule": RULE}


@dataclass(frozen=True)
class Final:
    """What ships: its products, and the training that they come from."""

    parts: list[Shipped]
    setup: Evaluator


def final_student(materials: Materials, inputs: Mapping[str, Artifact], teachers: Mapping[str, Any]) -> Final:
    """The recovered students where there was pruning, else the distilled ones, ready to export on the CPU."""
    compressed, distilled = inputs["compress"], inputs["distill"]
    facts = compressed.facts
    is_pruned = bool(facts["folder"])
    folder = compressed.path / facts["folder"] if is_pruned else distilled.path / distilled.facts["winner"]
    found = load_finished(materials, started(facts["request"], compressed.path), folder, teachers)
    return Final(shipped(materials, found.setup, found.procedure), found.setup)


def trained_students(
    materials: Materials, inputs: Mapping[str, Artifact], teachers: Mapping[str, Any]
) -> dict[str, tuple[Final, str]]:
    """Format -> the students that were trained as it rounds them, and what became of them; none where the plain ones are better."""
    compressed, found = inputs["compress"], {}
    for each in compressed.facts["as_quantised"].values():
        if each["folder"]:
            base = compressed.path / each["base"]
            loaded = load_as(materials, each["request"], base / each["folder"], base, teachers)
            without = "not a number" if each["before"] is None else f"{each['before']:.4f}"
            said = (
                f"trained as quantised for {each['epochs']} epochs: on validation {each['after']:.4f} worse than the plain "
                f"network, {without} without"
            )
            found[each["format"]] = (Final(shipped(materials, loaded.setup, loaded.procedure), loaded.setup), said)
    return found


def _of(target: Target, form: str, others: Mapping[str, tuple[Final, str]]) -> Target:
    """The target, of the student that was trained for this format, if any was: its fp32 file is no other format's to rewrite."""
    if form not in others:
        return target
    final, said = others[form]
    part = next(each for each in final.parts if each.role == target.part.role)
    work = target.work / f"as-{form}"
    work.mkdir(parents=True, exist_ok=True)
    return replace(target, part=part, setup=final.setup, work=work, said=(said,))


def make(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools, work: Path, out: Path) -> dict[str, Any]:
    config = materials.study.config
    formats = list(dict.fromkeys(config.export.formats))
    teachers = open_teachers(materials, inputs["prepare"], held_out=True)
    final = final_student(materials, inputs, teachers)
    others = trained_students(materials, inputs, teachers)
    tools.progress.begin(NAME, len(formats) * len(final.parts) + 1)
    references = _reference_metrics(materials, inputs, teachers, tools.progress.say)
    tools.progress.at(1, "test metrics of teacher, student and controls")
    exporter: Exporter[Any] = materials.make("exporter", config.export.exporter, "export.exporter")
    test = list(in_order(materials.data.split("test")))

    def watch(share: float, what: str) -> None:
        tools.heed_stop()
        tools.progress.at(1 + len(rows) + len(refused) + share, what)

    rows: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    figures: dict[str, list[dict[str, Any]]] = {}
    whole: dict[str, Any] = {}
    winner = inputs["distill"].facts["runs"][inputs["distill"].facts["winner"]]
    classes = classes_on_test(materials, final.parts[0].predict, final.setup, winner["history"])
    for part in final.parts:
        metrics, quality = measured(materials, part.predict, "test", final.setup)
        whole[part.role] = {"metrics": metrics, "quality": quality}
        compressed = inputs["compress"]
        target = Target(
            materials, exporter, part, final.setup, compressed.facts["quantize"], test, work, out, compressed.key, watch
        )
        reference: dict[str, Any] = {"quality": quality}
        why_none = ""
        for form in _in_order(formats, bare(config.export.exporter.use)):
            tools.heed_stop()
            try:
                row = _row(target, form, others, reference, why_none)
            except RefusedError as error:
                if form.endswith("-fp32"):
                    why_none = fp32_refused(error.problem)
                refused.append(refusal(part.named(form), error))
                tools.progress.say(f"export: {part.named(form)} refused: {error.problem}")
                continue
            if form.endswith("-fp32"):
                reference = row
            if form in formats:
                rows.append(row)
                figures[part.named(form)] = _figures(target, row, tools)
            tools.progress.at(1 + len(rows) + len(refused), part.named(form))
    spent = {
        name: teacher_latency(
            materials, exporter, live.model, reference_samples(materials), work / f"teacher-{name}{exporter.suffix}"
        )
        for name, live in teachers.items()
    }
    write_json(out / FIGURES, figures)
    asked = _teachers_that_answer(materials, inputs, teachers)
    answering = {name: lambda batch, s=setup, n=name: s.predict(n, batch) for name, setup in asked.items()}
    main = {"teacher": answering[next(iter(teachers))]} if teachers and next(iter(teachers)) in answering else {}
    write_samples(
        materials, {**{part.role or "student": part.predict for part in final.parts}, **answering, **main}, out
    )
    first = next(iter(whole.values()))
    return {
        **references,
        "teacher_latency": spent,
        "shipped": first["metrics"],
        "shipped_quality": first["quality"],
        "classes": classes,
        "shipped_roles": whole if len(whole) > 1 else {},
        "exports": rows,
        "refused": refused,
    }


def _row(
    target: Target,
    form: str,
    others: Mapping[str, tuple[Final, str]],
    reference: Mapping[str, Any],
    why_none: str,
) -> dict[str, Any]:
    """See `file_row`. A student that was trained for a format has an fp32 file of its own to be compared.

    why_none: why the target's own fp32 file is refused, and with it every format that would be made of it.
    """
    made_of = _of(target, form, others)
    if made_of is not target:
        check_whole(made_of)
    elif why_none:
        raise RefusedError(why_none)
    return file_row(made_of, form, reference)


def _figures(target: Target, row: Mapping[str, Any], tools: Tools) -> list[dict[str, Any]]:
    """What the task shows of a file's answers on the test split. A task that fails at it costs its figures, not the study."""
    calls = {
        each["name"]: target.exporter.load(target.out / Path(each["path"]).name, latency_threads(target.materials))
        for each in row["graphs"]
    }
    materials = target.materials
    product = around(target.part.product, ends_of(target.exporter, target.part.product, materials.data.facts))

    def predict(batch: Batch) -> Mapping[str, Any]:
        return product.call(calls, batch)

    try:
        found = materials.task.figures(predict, materials.data, "test", target.setup)
        made = jsonable([each.as_json() for each in found])
    except Exception as error:
        tools.progress.say(f"export: the task's figures of {target.part.named(row['format'])} failed: {told(error)}")
        return []
    assert isinstance(made, list)
    return made


def _in_order(formats: list[str], exporter: str) -> list[str]:
    """fp32 first: the others are compared with it; it is measured also where it is not asked for."""
    base = f"{exporter}-fp32"
    return [base, *(form for form in formats if form != base)]


def _reference_metrics(
    materials: Materials, inputs: Mapping[str, Artifact], teachers: Mapping[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """Test metrics and qualities of the teachers, the distilled student, its controls and the students it is compared with."""
    distilled = inputs["distill"]
    metrics: dict[str, Any] = {"teachers": {}, "runs": {}, "roles": {}}
    qualities: dict[str, Any] = {"teachers": {}, "runs": {}, "roles": {}}

    def take(kind: str, name: str, predict: Predict, setup: Evaluator) -> None:
        metrics[kind][name], qualities[kind][name] = measured(materials, predict, "test", setup)

    for name, setup in _teachers_that_answer(materials, inputs, teachers).items():
        try:
            take("teachers", name, lambda batch, s=setup, n=name: s.predict(n, batch), setup)  # type: ignore[misc]
        except DataError as error:  # stored answers to other samples
            say(f"teacher '{name}' is not measured on the test split: {error.problem}")
    for name, run in distilled.facts["runs"].items():
        if run["error"]:
            continue
        found = load_finished(materials, Request(**run["request"]), distilled.path / name, teachers)
        ships, of_winner = found.procedure.shipped(), name == distilled.facts["winner"]
        is_own = type(found.procedure).product is not Procedure.product
        predict = (
            shipped(materials, found.setup, found.procedure)[0].predict
            if is_own
            else partial(found.setup.predict, found.role)
        )
        try:
            take("runs", name, predict, found.setup)
        except (
            DataError
        ) as error:  # labels are missing, and a control has no teacher to stand in for them; what ships must have
            say(f"'{name}' is not measured on the test split: {error.problem}")
        if is_own:
            continue
        for role in ships if of_winner and len(ships) > 1 else ():
            take("roles", role, lambda batch, f=found, r=role: f.setup.predict(r, batch), found.setup)  # type: ignore[misc]
    return {"metrics": metrics, "qualities": qualities}


def _teachers_that_answer(
    materials: Materials, inputs: Mapping[str, Artifact], teachers: Mapping[str, Any]
) -> dict[str, Evaluator]:
    """Those that answer the task, each as its only teacher, on the study's device."""
    answers = {name: each["answers"] for name, each in inputs["prepare"].facts["teachers"].items()}
    found = {}
    for name, live in ((name, live) for name, live in teachers.items() if answers[name]):
        live.model.module.to(materials.torch_device)
        found[name] = Evaluator(
            seed=materials.seed,
            base=materials.study.folder,
            task=materials.task,
            data=materials.data,
            io=materials.io,
            teachers={name: live},
            metrics=materials.metrics,
            device=materials.torch_device,
        )
    return found


def copy_exports(artifact: Artifact, folder: Path) -> None:
    """The artifact's files under their public place `export/`."""
    target = folder / "export"
    with storing(target):
        target.mkdir(parents=True, exist_ok=True)
    wanted = {Path(path).name for row in artifact.facts["exports"] for path in [*row["paths"], *row["files"]]}
    for name in sorted(wanted):
        copy_file(artifact.path / name, target / name)
