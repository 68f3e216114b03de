"""One format of one product: written, opened again, compared and measured; nothing is left of one that misses its bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kdsearch.deploy.capture import first_received, received
from kdsearch.deploy.latency import is_slower
from kdsearch.deploy.parity import Parity, compare, exact_call
from kdsearch.deploy.parts import bytes_of, copy_parts
from kdsearch.deploy.probe import record
from kdsearch.engine.measured import values_of
from kdsearch.engine.setup import Evaluator
from kdsearch.errors import ArtifactError, PluginError, RefusedError
from kdsearch.kinds import Batch, Call, Compressor, Ends, Exporter, Graph, Judge, Plan, Product
from kdsearch.kinds.data import CHOOSING
from kdsearch.stages.calibration import calibration, feeds
from kdsearch.stages.costs import latency_threads
from kdsearch.stages.ends import decides_alone, ends_of, shipped_with
from kdsearch.stages.file_figures import latencies, peak, shares, zipped
from kdsearch.stages.labels import label
from kdsearch.stages.products import Shipped, described
from kdsearch.stages.quality import allowed_agreement, allowed_drop, goodness, measured, quality_of, told, tolerance
from kdsearch.store.files import write_bytes
from kdsearch.study.rules import bare, format_of
from kdsearch.training.materials import Materials

FP32_REFUSED = "its fp32 file is refused"
LOOSEN = "Loosen the bound in `export`, train longer, or let a quantizer train: `recover_epochs`."


@dataclass(frozen=True)
class Target:
    """What is written, how it is judged, and where it goes.

    Args:
        plans: quantizer -> role -> its plan. test: batches of the test split.
        made_from: the key of the artifact that the networks come from.
        work: for files that have yet to pass; `out` gets those that did.
        watch: is told how far a quantizer is. said: of its network, for the row's `quantization`.
        judges: whether quantizers may choose by validation; else they are as they are planned.
    """

    materials: Materials
    exporter: Exporter[Any]
    part: Shipped
    setup: Evaluator
    plans: Mapping[str, Mapping[str, Any]]
    test: list[Batch]
    work: Path
    out: Path
    made_from: str
    watch: Callable[[float, str], None] | None = None
    said: tuple[str, ...] = ()
    judges: bool = True

    @property
    def graphs(self) -> Mapping[str, Graph]:
        return self.part.product.graphs

    @property
    def stem(self) -> str:
        """Of public names: the study's, and the role where several ship by themselves."""
        name = self.materials.study.config.name
        return f"{name}-{self.part.role}" if self.part.role else name

    def file(self, graph: str, kind: str) -> Path:
        return self.work / f"{self.part.role or 'student'}-{graph}-{kind}{self.exporter.suffix}"

    def public(self, graph: str, kind: str) -> str:
        stem = self.stem if len(self.graphs) == 1 else f"{self.stem}-{graph}"
        return f"{stem}-{kind}{self.exporter.suffix}"

    def example(self, graph: str) -> Batch:
        """What the graph receives for two training samples."""
        return first_received(self.part.product, self.part.calls, graph, two_samples(self.materials))


def two_samples(materials: Materials) -> Batch:
    """Of the training split: exporters take a size of 1 for a constant."""
    split = materials.data.split("train")
    return split.load(list(range(min(2, len(split.ids)))))


def file_row(target: Target, form: str, reference: Mapping[str, Any]) -> dict[str, Any]:
    """Write one format of all graphs; its row of `exports`. Raise RefusedError where it misses its bound.

    Args:
        reference: the fp32 files' row, or the quality alone that drops count against.
    """
    config, materials, part = target.materials.study.config, target.materials, target.part
    kind = form.removeprefix(f"{bare(config.export.exporter.use)}-")
    files, notes = written(target, kind)
    ends = ends_of(target.exporter, part.product, materials.data.facts)
    if ends:
        files, target = _finished(target, files, ends)
        part = target.part
    for name, file in files.items():
        with theirs():
            label(materials, target.exporter, file, config.name, target.made_from, ends.get(name))
    calls = {name: opened(target.exporter, file, latency_threads(target.materials)) for name, file in files.items()}
    bound = config.export.parity if kind == "fp32" else None
    parities = {name: _parity(target, name, calls[name], bound) for name in files}
    for each in parities.values():
        each.check(bound)
    worst = max((each.worst for each in parities.values()), key=lambda each: each.relative)

    def predict(batch: Batch) -> Mapping[str, Any]:
        return part.product.call(calls, batch)

    agreements = [each.top1_agreement for each in parities.values() if each.top1_agreement is not None]
    agreement = min(agreements) if agreements else None
    check_agreement(materials, form, agreement)
    metrics, quality = measured(materials, predict, "test", target.setup, decides_alone(ends))
    _, validation = measured(materials, predict, "val", target.setup, decides_alone(ends))
    if kind != "fp32":
        check_drop(materials, form, quality, reference["quality"])
    threads = latency_threads(materials)
    taken = latencies(materials, target.exporter, part, files, threads)
    slower = "latency_ms" in reference and is_slower(taken["latency_ms"], reference["latency_ms"])
    wholes = {name: target.file(name, "fp32") for name in files}
    graphs = []
    for name, file in files.items():
        path = f"export/{target.public(name, kind)}"
        shipped_as = target.out / Path(path).name
        copy_parts(target.exporter, file, shipped_as)
        about = {
            "path": path,
            "bytes": bytes_of(target.exporter, file),
            "companions": [f"export/{each.name}" for each in target.exporter.parts(shipped_as)[1:]],
            **described(target.graphs[name]),
            **_opened_by(target, shipped_as.name),
        }
        inside = {"inside": dict(ends[name].about)} if name in ends else {}
        far = {"parity": parities[name].worst.as_json(), "parity_max_abs": parities[name].max_abs}
        graphs.append({"name": name, **about, **inside, **far})
        graph = target.graphs[name]
        graphs[-1]["check"] = record(
            graph, part.calls[name], calls[name], bound=bound, exact=partial(exact_call, graph)
        )
    return {
        "format": form,
        **({"role": part.role} if part.role else {}),
        "path": graphs[0]["path"],
        "paths": [each["path"] for each in graphs],
        "graphs": graphs,
        "files": [
            *(path for each in graphs for path in each["companions"]),
            *(f"export/{name}" for name in _beside(target)),
        ],
        "facts": dict(part.product.facts),
        "bytes": sum(each["bytes"] for each in graphs),
        **zipped(materials, target.exporter, files),
        **told(quality),
        "validation": validation,
        "parity_max_abs": max(each.max_abs for each in parities.values()),
        "parity": worst.as_json(),
        "top1_agreement": agreement,
        "agreement_n": sum(each.judged for each in parities.values()) if _judges_samples(part.product) else None,
        "bounds": _bounds(materials, form, reference["quality"], agreement),
        **taken,
        "peak_bytes": peak(materials, part, files) if target.exporter.is_onnx else None,
        "weight_share": shares(files, wholes) if target.exporter.is_onnx else {},
        "quantization": [*_plan_of(target, kind)[1].log, *notes, *target.said] if kind != "fp32" else [],
        "slower_than_fp32": slower if kind != "fp32" else False,
        "metrics": metrics,
        "threads": threads,
    }


def _opened_by(target: Target, file: str) -> dict[str, Any]:
    """Who opens what is no ONNX file: for the card."""
    if target.exporter.is_onnx:
        return {}
    return {"exporter": target.materials.study.config.export.exporter.use, "usage": list(target.exporter.usage(file))}


def _finished(target: Target, files: Mapping[str, Path], ends: Mapping[str, Ends]) -> tuple[dict[str, Path], Target]:
    """Copies of the files with their ends, and the target as they read and answer; the networks' own files stay to be rewritten."""
    found = {}
    for name, file in files.items():
        found[name] = file.with_name(f"whole-{file.name}")
        copy_parts(target.exporter, file, found[name])
        if name in ends:
            with theirs():
                target.exporter.finish(found[name], ends[name])
    return found, replace(target, part=shipped_with(target.part, ends))


def check_whole(target: Target) -> None:
    """The fp32 files that quantised ones are made of, of the networks alone. Raise RefusedError where they are not torch's."""
    bound = target.materials.study.config.export.parity
    for name, file in _wholes(target).items():
        call = opened(target.exporter, file, latency_threads(target.materials))
        try:
            _parity(target, name, call, bound).check(bound)
        except RefusedError as error:
            raise RefusedError(fp32_refused(error.problem), fix=error.fix) from error


def refusal(form: str, error: RefusedError) -> dict[str, str]:
    """A row of `refused`."""
    return {"format": form, "reason": error.problem, **({"fix": error.fix} if error.fix else {})}


def reasons(refused: Iterable[Mapping[str, str]]) -> str:
    """All of them in a line; a reason that others share is said once."""
    said = list[str]()
    for form, reason in ((each["format"], each["reason"]) for each in refused):
        shared = next((each for each in said if reason == fp32_refused(each.partition(": ")[2])), None)
        said.append(f"{form}: {reason if shared is None else FP32_REFUSED}")
    return "; ".join(said)


def fixes(refused: Iterable[Mapping[str, str]]) -> str:
    """What can be done about all of them, each once."""
    return " ".join(dict.fromkeys(each["fix"] for each in refused if each.get("fix")))


def fp32_refused(reason: str) -> str:
    """Why no other format of the exporter is written: agreement alone, of a coarser file, does not see every wrong answer."""
    return f"{FP32_REFUSED}: {reason}"


def _wholes(target: Target, anew: bool = False) -> dict[str, Path]:
    """Graph -> its fp32 file, which is written once."""
    files = {name: target.file(name, "fp32") for name in target.graphs}
    for name, file in files.items():
        if anew or not file.exists():
            target.exporter.write(target.graphs[name], target.example(name), file)
    return files


def written(target: Target, kind: str) -> tuple[dict[str, Path], list[str]]:
    """Graph -> its file, and what the quantizer found out; each fp32 file is rewritten as a copy."""
    notes = list[str]()
    _wholes(target, anew=kind == "fp32")
    files = {name: target.file(name, kind) for name in target.graphs}
    for name, file in files.items() if kind != "fp32" else ():  # judged with the fp32 files of all
        copy_parts(target.exporter, target.file(name, "fp32"), file)
        found = _quantize(target, kind, name, file)
        notes += [f"{name}: {each}" if len(target.graphs) > 1 else each for each in found]
    return files, notes


def _quantize(target: Target, kind: str, graph: str, file: Path) -> tuple[str, ...]:
    index, plan = _plan_of(target, kind)
    use = target.materials.study.config.compress.quantize[index]
    quantizer: Compressor[Any] = target.materials.make("quantizer", use, f"compress.quantize[{index}]")
    quantizer.watch = target.watch
    quantizer.judge = _judge(target, kind, graph) if target.judges else None
    samples = calibration(target.materials, int(plan.edits.get("samples", 128)))
    with theirs():
        quantizer.rewrite(file, plan, feeds(target.part, graph, samples))
    return quantizer.notes


def _judge(target: Target, kind: str, graph: str) -> Judge:
    """By validation, of one graph's candidates, the others in fp32, against all in fp32."""
    materials, part = target.materials, target.part
    fp32 = {
        name: opened(target.exporter, target.file(name, "fp32"), latency_threads(target.materials))
        for name in target.graphs
    }

    def quality(calls: Mapping[str, Call]) -> dict[str, Any]:
        name, metric = materials.objective, materials.metrics[materials.objective]

        def predict(batch: Batch) -> Mapping[str, Any]:
            return part.product.call(calls, batch)

        return quality_of(
            name, metric, values_of(name, metric, predict, materials.data, "val", target.setup), 0
        ).as_json()

    whole = quality(fp32)
    form = f"{bare(materials.study.config.export.exporter.use)}-{kind}"
    return Judge(
        lambda file: (
            goodness(whole)
            - goodness(quality({**fp32, graph: opened(target.exporter, file, latency_threads(target.materials))}))
        ),
        allowed_drop(materials.study.config.export.max_drop.get(form), whole),
        tolerance(whole),
    )


def quantizer_class(materials: Materials, form: str) -> type[Compressor[Any]]:
    """Of the study's quantizer that makes a format."""
    config = materials.study.config
    use = next(each for each in config.compress.quantize if format_of(config, each) == form)
    found: type[Compressor[Any]] = materials.host.load_class("quantizer", use.use)
    return found


def _plan_of(target: Target, kind: str) -> tuple[int, Plan]:
    """Which quantizer of the study makes this kind, and its plan for this student."""
    uses = target.materials.study.config.compress.quantize
    index = next(i for i, use in enumerate(uses) if bare(use.use) == kind)
    stored = target.plans[uses[index].use][target.part.role]
    return index, Plan(stored["edits"], stored["lr_scale"], tuple(stored["log"]))


def opened(exporter: Exporter[Any], file: Path, threads: int) -> Call:
    """A file that was just written, with the threads that it is timed with: some runtimes have one number for a process.

    Raise RefusedError where it cannot be opened.
    """
    with theirs():
        return exporter.load(file, threads)


@contextmanager
def theirs() -> Iterator[None]:
    """What an exporter or a quantizer has just written is theirs to answer for, not the user's to delete.

    Raise RefusedError in place of ArtifactError.
    """
    try:
        yield
    except ArtifactError as error:
        raise RefusedError(f"the file that was written {error.problem}") from error


def _parity(target: Target, name: str, call: Call, bound: float | None) -> Parity:
    """Of one graph, on what it receives for the test split; the graphs before it answer in torch."""
    part, graph = target.part, target.graphs[name]
    samples = first_received(part.product, part.calls, name, target.test[0])
    scored = any(each.kind in CHOOSING for each in graph.outputs)
    batches = received(part.product, part.calls, name, target.test) if scored else ()
    return compare(
        part.calls[name],
        call,
        graph.inputs,
        graph.outputs,
        samples,
        batches=batches,
        bound=bound,
        exact=lambda: exact_call(graph),
    )


def _judges_samples(product: Product) -> bool:
    """Whether each decision that is compared is of another sample, so that their agreement is a proportion."""
    scored = [each for graph in product.graphs.values() for each in graph.outputs if each.kind in CHOOSING]
    axes = {"logits": 1, "class": 0}  # of an answer that is one class
    return len(scored) == 1 and len(scored[0].shape) == axes.get(scored[0].kind)


def _beside(target: Target) -> list[str]:
    """Write the product's own files; their public names."""
    names = []
    for name, content in target.part.product.files.items():
        public = f"{target.stem}-{name}"
        if public.endswith((".json", target.exporter.suffix, *target.exporter.companions)) and _is_taken(
            target, public
        ):
            raise PluginError(
                f"the product names the file '{name}', which is a graph's or its card's", expected="another"
            )
        if not (target.out / public).exists():
            write_bytes(target.out / public, content)
        names.append(public)
    return names


def _is_taken(target: Target, public: str) -> bool:
    kinds = ["fp32", *(bare(use.use) for use in target.materials.study.config.compress.quantize)]
    return Path(public).stem in {Path(target.public(name, kind)).stem for name in target.graphs for kind in kinds}


def _bounds(
    materials: Materials, form: str, fp32: Mapping[str, Any], agreement: float | None
) -> dict[str, float | None]:
    """What the file had to keep: see `Export` in the study's schema; None = it is not asked for of this file."""
    export, is_fp32 = materials.study.config.export, form.endswith("-fp32")
    return {
        "parity": export.parity if is_fp32 else None,
        "elsewhere": None if is_fp32 else quantizer_class(materials, form).elsewhere,
        "max_drop": None if is_fp32 or fp32["value"] is None else allowed_drop(export.max_drop.get(form), fp32),
        "min_agreement": None if agreement is None else allowed_agreement(export.min_agreement.get(form)),
    }


def check_agreement(materials: Materials, form: str, agreement: float | None) -> None:
    """Raise RefusedError where too few answers are torch's. `agreement` None: it scores no classes."""
    least = allowed_agreement(materials.study.config.export.min_agreement.get(form))
    if agreement is not None and agreement < least - 1e-12:
        raise RefusedError(f"{agreement:.2%} of its answers are torch's; the study asks for {least:.2%}", fix=LOOSEN)


def check_drop(materials: Materials, form: str, quality: Mapping[str, Any], fp32: Mapping[str, Any]) -> None:
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
            f"the study allows {allowed}",
            fix=LOOSEN,
        )
