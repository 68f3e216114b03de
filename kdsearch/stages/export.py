"""Stage `export`: the student's files, each reloaded and compared; one that misses its bound is not written.

The first stage that sees the test split: after every choice, each reported accuracy is computed on it here.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdsearch.deploy.audit import weight_share
from kdsearch.deploy.files import read_onnx, tuned_options
from kdsearch.deploy.latency import is_slower, measure
from kdsearch.deploy.parity import compare, module_call
from kdsearch.engine.feeds import in_order
from kdsearch.engine.setup import Evaluator
from kdsearch.errors import RefusedError, told
from kdsearch.kinds import Batch, Call, Compressor, Exporter, Graph, Model, Plan, Predict, Product
from kdsearch.report.page import jsonable
from kdsearch.stages.compress import START, calibration
from kdsearch.stages.costs import latency_threads
from kdsearch.stages.finished import load_finished
from kdsearch.stages.keys import TRAINING
from kdsearch.stages.materials import Materials
from kdsearch.stages.quality import allowed_drop, goodness, measured
from kdsearch.stages.request import Request
from kdsearch.stages.teacher_latency import teacher_latency
from kdsearch.stages.tools import Tools
from kdsearch.stages.training import open_teachers
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import copy_file, storing, write_json
from kdsearch.study.rules import bare

NAME = "export"
NEEDS = ("prepare", "distill", "compress")
READS = (*TRAINING, "name", "constraints", "compress", "export")
FIGURES = "figures.json"  # format -> what the task shows of the file's answers


def further(materials: Materials) -> dict[str, Any]:
    """Latencies are this machine's."""
    from kdsearch.deploy.latency import machine

    return {"machine": machine()}


@dataclass(frozen=True)
class Final:
    """The student that ships: its model, its product, and where its weights came from."""

    model: Model
    product: Product
    setup: Evaluator


def final_student(materials: Materials, inputs: Mapping[str, Artifact], teachers: Mapping[str, Any]) -> Final:
    """The recovered student where there was pruning, else the distilled one, ready to export on the CPU."""
    compressed, distilled = inputs["compress"], inputs["distill"]
    facts = compressed.facts
    request = Request(**facts["request"])
    if facts["folder"]:
        request = Request(**{**facts["request"], "start": dict.fromkeys(request.start, str(compressed.path / START))})
        folder = compressed.path / facts["folder"]
    else:
        folder = distilled.path / distilled.facts["winner"]
    found = load_finished(materials, request, folder, teachers)
    model = found.model
    model.module.cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return Final(model, found.product(), found.setup)


def make(materials: Materials, inputs: Mapping[str, Artifact], tools: Tools, work: Path, out: Path) -> dict[str, Any]:
    config = materials.study.config
    formats = list(dict.fromkeys(config.export.formats))
    tools.progress.begin(NAME, len(formats) + 1)
    teachers = open_teachers(materials, inputs["prepare"])
    references = _reference_metrics(materials, inputs, teachers)
    tools.progress.at(1, "test metrics of teacher, student and controls")
    final = final_student(materials, inputs, teachers)
    exporter: Exporter[Any] = materials.make("exporter", config.export.exporter, "export.exporter")
    test = list(in_order(materials.data.split("test")))
    torch_calls = {name: module_call(graph) for name, graph in final.product.graphs.items()}
    shipped, quality = measured(materials, lambda batch: final.product.call(torch_calls, batch), "test", final.setup)
    fp32 = _write_fp32(materials, exporter, final, work)
    rows, refused, figures = [], [], dict[str, list[dict[str, Any]]]()
    fp32_row: dict[str, Any] | None = None
    for form in _in_order(formats, bare(config.export.exporter.use)):
        tools.heed_stop()
        try:
            row = _one(
                materials,
                form,
                exporter,
                final,
                torch_calls,
                fp32,
                inputs["compress"],
                test,
                fp32_row or {"quality": quality},  # a refused fp32 file: drops count against the torch student
                work,
                out,
            )
        except RefusedError as error:
            refused.append({"format": form, "reason": error.problem})
            tools.progress.say(f"export: {form} refused: {error.problem}")
            continue
        if form.endswith("-fp32"):
            fp32_row = row
        if form in formats:
            rows.append(row)
            figures[form] = _figures(
                materials, form, final, exporter, [out / Path(each).name for each in row["paths"]], tools
            )
        tools.progress.at(1 + len(rows) + len(refused), form)
    spent = {
        name: teacher_latency(materials, exporter, live.model, _example(materials), work / f"teacher-{name}.onnx")
        for name, live in teachers.items()
    }
    write_json(out / FIGURES, figures)
    return {
        **references,
        "teacher_latency": spent,
        "shipped": shipped,
        "shipped_quality": quality,
        "exports": rows,
        "refused": refused,
    }


def _in_order(formats: list[str], exporter: str) -> list[str]:
    """fp32 first: the others are compared with it; it is measured also where it is not asked for."""
    base = f"{exporter}-fp32"
    return [base, *(form for form in formats if form != base)]


def _write_fp32(materials: Materials, exporter: Exporter[Any], final: Final, work: Path) -> dict[str, Path]:
    example = _example(materials)
    files = {}
    for name, graph in final.product.graphs.items():
        files[name] = work / f"{name}-fp32{exporter.suffix}"
        exporter.write(graph, example, files[name])
    return files


def _example(materials: Materials) -> Batch:
    split = materials.data.split("train")
    return split.load(list(range(min(2, len(split.ids)))))


def _one(
    materials: Materials,
    form: str,
    exporter: Exporter[Any],
    final: Final,
    torch_calls: Mapping[str, Call],
    fp32: Mapping[str, Path],
    compressed: Artifact,
    test: list[Batch],
    reference: Mapping[str, Any],
    work: Path,
    out: Path,
) -> dict[str, Any]:
    """Write, reload, compare and measure one format. Raise RefusedError where it misses its bound: nothing is left in `out`."""
    config = materials.study.config
    kind = form.removeprefix(f"{bare(config.export.exporter.use)}-")
    files = {name: work / f"{name}-{kind}{exporter.suffix}" for name in fp32}
    if kind != "fp32":
        for name, file in files.items():
            shutil.copyfile(fp32[name], file)
            _quantize(materials, kind, compressed, final, file)
    threads = latency_threads(materials)
    calls = {name: exporter.load(file) for name, file in files.items()}
    parities = {
        name: compare(
            torch_calls[name], calls[name], graph.inputs, graph.outputs, test[0], batches=_batches(final, name, test)
        )
        for name, graph in final.product.graphs.items()
    }
    far = max(each.max_abs for each in parities.values())
    if kind == "fp32" and far > config.export.parity:
        raise RefusedError(f"differs from torch by {far:.3g}; the study allows {config.export.parity:g}")

    def predict(batch: Batch) -> Mapping[str, Any]:
        return final.product.call(calls, batch)

    metrics, quality = measured(materials, predict, "test", final.setup)
    _, validation = measured(materials, predict, "val", final.setup)
    agreements = [each.top1_agreement for each in parities.values() if each.top1_agreement is not None]
    if kind != "fp32":
        _check_drop(materials, form, quality, reference["quality"])
    latencies = _latencies(final.product.graphs, files, _example(materials), threads)
    paths = []
    for name, file in files.items():
        stem = config.name if len(files) == 1 else f"{config.name}-{name}"
        paths.append(f"{stem}-{kind}{exporter.suffix}")
        shutil.copyfile(file, out / paths[-1])
    shares = [weight_share(file, fp32[name]) for name, file in files.items()]
    sizes = [fp32[name].stat().st_size for name in files]
    share = {width: sum(s[width] * n for s, n in zip(shares, sizes, strict=True)) / sum(sizes) for width in shares[0]}
    slower = "latency_ms" in reference and is_slower(latencies["latency_ms"], reference["latency_ms"])
    return {
        "format": form,
        "path": f"export/{paths[0]}",
        "paths": [f"export/{path}" for path in paths],
        "bytes": sum(file.stat().st_size for file in files.values()),
        "accuracy": metrics.get("accuracy"),
        "quality": quality,
        "validation": validation,
        "parity_max_abs": far,
        "top1_agreement": min(agreements) if agreements else None,
        "agreement_n": sum(each.judged for each in parities.values()) if _judges_samples(final.product) else None,
        **latencies,
        "weight_share": share,
        "slower_than_fp32": slower if kind != "fp32" else False,
        "metrics": metrics,
        "threads": threads,
    }


def _figures(
    materials: Materials, form: str, final: Final, exporter: Exporter[Any], files: list[Path], tools: Tools
) -> list[dict[str, Any]]:
    """What the task shows of a file's answers on the test split. A task that fails at it costs its figures, not the study."""
    calls = {name: exporter.load(file) for name, file in zip(final.product.graphs, files, strict=True)}
    try:
        found = materials.task.figures(
            lambda batch: final.product.call(calls, batch), materials.data, "test", final.setup
        )
        made = jsonable([each.as_json() for each in found])
    except Exception as error:
        tools.progress.say(f"export: the task's figures of {form} failed: {told(error)}")
        return []
    assert isinstance(made, list)
    return made


def _judges_samples(product: Product) -> bool:
    """Whether each argmax that is compared is of another sample, so that their agreement is a proportion."""
    scored = [each for graph in product.graphs.values() for each in graph.outputs if each.kind == "logits"]
    return len(scored) == 1 and len(scored[0].shape) == 1


def _latencies(graphs: Mapping[str, Graph], files: Mapping[str, Path], example: Batch, threads: int) -> dict[str, Any]:
    """Of all graphs together, in a session as anybody opens it; and with the session options that make it faster, if any do."""
    plain = {"min": 0.0, "median": 0.0, "spread": 0.0}
    tuned, options = dict(plain), dict[str, str]()
    for name, graph in graphs.items():
        inputs = [example[each.name][:1] for each in graph.inputs]
        taken = measure(files[name], inputs, threads)
        entries = tuned_options(read_onnx(files[name]))
        faster = measure(files[name], inputs, threads, entries=entries) if entries else taken
        options |= entries
        for total, each in ((plain, taken), (tuned, faster)):
            total["min"] += each.min_ms
            total["median"] += each.median_ms
            total["spread"] += each.spread_ms
    helps = bool(options) and is_slower(plain, tuned)
    return {
        "latency_ms": plain,
        "latency_tuned_ms": tuned if helps else None,
        "session_options": options if helps else {},
    }


def _batches(final: Final, name: str, test: list[Batch]) -> list[Batch]:
    """Test batches for the agreement, where they hold what the graph reads."""
    wanted = [each.name for each in final.product.graphs[name].inputs]
    return test if all(field in test[0] for field in wanted) else []


def _quantize(materials: Materials, kind: str, compressed: Artifact, final: Final, file: Path) -> None:
    uses = materials.study.config.compress.quantize
    index = next(i for i, use in enumerate(uses) if use.use.rpartition(":")[2] == kind)
    quantizer: Compressor[Any] = materials.make("quantizer", uses[index], f"compress.quantize[{index}]")
    stored = compressed.facts["quantize"][uses[index].use]
    plan = Plan(stored["edits"], stored["lr_scale"], tuple(stored["log"]))
    n = int(plan.edits.get("samples", 128))
    quantizer.rewrite(file, plan, calibration(materials, materials.io, final.model, n))


def _check_drop(materials: Materials, form: str, quality: Mapping[str, Any], fp32: Mapping[str, Any]) -> None:
    """Raise RefusedError where the file's quality is further below fp32's than the study allows."""
    if quality["value"] is None or fp32["value"] is None:
        return
    if math.isnan(quality["value"]):
        raise RefusedError(f"{quality['metric']} is not a number")
    drop = goodness(fp32) - goodness(quality)
    stated = materials.study.config.export.max_drop.get(form)
    bound = allowed_drop(stated, fp32)
    if drop > bound + 1e-12:
        allowed = stated if isinstance(stated, str) else f"{bound:g}"
        raise RefusedError(
            f"{quality['metric']} {quality['value']:.4f} is {drop:.4f} worse than fp32's {fp32['value']:.4f}; "
            f"the study allows {allowed}"
        )


def _reference_metrics(
    materials: Materials, inputs: Mapping[str, Artifact], teachers: Mapping[str, Any]
) -> dict[str, Any]:
    """Test metrics and qualities of the teachers, the distilled student, its controls and the students it is compared with."""
    distilled = inputs["distill"]
    metrics: dict[str, Any] = {"teachers": {}, "runs": {}}
    qualities: dict[str, Any] = {"teachers": {}, "runs": {}}

    def take(kind: str, name: str, predict: Predict, setup: Evaluator) -> None:
        metrics[kind][name], qualities[kind][name] = measured(materials, predict, "test", setup)

    answers = {name: each["answers"] for name, each in inputs["prepare"].facts["teachers"].items()}
    for name, live in ((name, live) for name, live in teachers.items() if answers[name]):
        setup = Evaluator(
            seed=materials.seed,
            base=materials.study.folder,
            task=materials.task,
            data=materials.data,
            io=materials.io,
            teachers={name: live},
            metrics=materials.metrics,
            device=materials.torch_device,
        )
        live.model.module.to(materials.torch_device)
        take("teachers", name, lambda batch, s=setup, n=name: s.predict(n, batch), setup)  # type: ignore[misc]
    for name, run in distilled.facts["runs"].items():
        if run["error"]:
            continue
        found = load_finished(materials, Request(**run["request"]), distilled.path / name, teachers)
        product = found.procedure.product(found.setup)
        if product is None:
            take("runs", name, lambda batch, f=found: f.setup.predict(f.role, batch), found.setup)  # type: ignore[misc]
        else:
            for graph in product.graphs.values():
                graph.module.cpu()
            calls = {key: module_call(graph) for key, graph in product.graphs.items()}
            take("runs", name, lambda batch, p=product, c=calls: p.call(c, batch), found.setup)  # type: ignore[misc]
    return {"metrics": metrics, "qualities": qualities}


def copy_exports(artifact: Artifact, folder: Path) -> None:
    """The artifact's files under their public place `export/`; what an earlier study left there under other names goes."""
    target = folder / "export"
    with storing(target):
        target.mkdir(parents=True, exist_ok=True)
    wanted = {Path(path).name for row in artifact.facts["exports"] for path in row["paths"]}
    for name in sorted(wanted):
        copy_file(artifact.path / name, target / name)
    for file in target.iterdir():
        if file.suffix in (".onnx", ".json") and f"{file.stem}.onnx" not in wanted and file.name not in wanted:
            file.unlink()
