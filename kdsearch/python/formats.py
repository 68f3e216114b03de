"""The files of one compressed network: written, verified, judged, and trained as they are quantised where one loses too much."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from kdsearch.deploy.files import read_onnx, tuned_options
from kdsearch.deploy.latency import Latency, is_slower, measure
from kdsearch.deploy.parity import module_call
from kdsearch.deploy.peak import peak_bytes
from kdsearch.engine.feeds import in_order
from kdsearch.errors import PluginError, RefusedError, StudyError, TrialError, UserError, nearest, one_of
from kdsearch.host import Host
from kdsearch.kinds import IO, Batch, Call, Compressor, Exporter, Judge, Model
from kdsearch.kinds.compressor import planned
from kdsearch.ops.settle import settle
from kdsearch.python.brought import CALIBRATION, Brought, feeds
from kdsearch.python.given import Given
from kdsearch.python.networks import OnnxNetwork
from kdsearch.python.own_data import Data, PlanSubject, about_of, graph_of, predicting, renamed, samples_of
from kdsearch.python.pieces import Named, capability
from kdsearch.python.recovery import recover
from kdsearch.python.verified import Source, Whole, remove, rewritten, verified_file
from kdsearch.stages.costs import latency_of
from kdsearch.stages.one_file import fp32_refused, refusal
from kdsearch.stages.quality import DEFAULT_AGREEMENT, allowed_drop, as_before, goodness, no_smaller, told, tolerance
from kdsearch.store.hashing import derive
from kdsearch.store.scratch import Scratch
from kdsearch.study.schema import Use
from kdsearch.training.materials import make
from kdsearch.training.tools import Progress

DEFAULT = "onnx"  # the exporter
PROBE = 32  # samples that are compared where there are no others
Formats = Sequence[str] | Mapping[str, Mapping[str, Any]]  # names, or the options of each one's quantizer by name


@dataclass(frozen=True)
class Form:
    """One format: an exporter, and a quantizer of its files.

    Args:
        use: what the exporter is called. kind: the quantizer, or fp32. options: the quantizer's.
        calibrates: whether it needs samples. samples: how many it is given at most.
    """

    use: str
    kind: str
    exporter: Exporter[Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    calibrates: bool = False
    samples: int = CALIBRATION

    @property
    def name(self) -> str:
        return f"{self.use}-{self.kind}"

    @property
    def quantizer(self) -> Named | None:
        return None if self.kind == "fp32" else {"use": self.kind, "options": dict(self.options)}


def forms_of(formats: Formats, inside: Mapping[str, str], host: Host) -> list[Form]:
    """The formats by name, each exporter's fp32 before its others, which are compared with it.

    Raises:
        UserError: an unknown format. StudyError: an unknown option of exporter or quantizer. PluginError: an extra that is missing.
    """
    asked = formats if isinstance(formats, Mapping) else {name: {} for name in formats}
    uses: dict[str, list[str]] = {}
    for name in asked:
        use = next((each for each in host.names("exporter") if name.startswith(f"{each}-")), "")
        kind = name.removeprefix(f"{use}-")
        fits = kind == "fp32" or (use and kind in host.names("quantizer") and _fits(use, kind, host))
        if not use or not fits:
            known = _known(host)
            raise UserError(
                f"unknown format '{name}'", path="--format", nearest=nearest(name, known), expected=one_of(known)
            )
        uses.setdefault(use, ["fp32"]).append(kind)
    found = []
    for use, kinds in uses.items():
        exporter = make(host, "exporter", Use(use=use, options=dict(inside)), "--format")
        for kind in dict.fromkeys(kinds):
            options = asked.get(f"{use}-{kind}", {})
            if kind != "fp32":
                quantizer = make(host, "quantizer", Use(use=kind, options=dict(options)), f"{use}-{kind}")
                samples = max(CALIBRATION, getattr(quantizer.options, "samples", 0))
                found.append(Form(use, kind, exporter, options, quantizer.calibrates, samples))
            elif options:
                raise StudyError(
                    f"got options of {use}-fp32", path="--format", expected="none: nothing is quantised there"
                )
            else:
                found.append(Form(use, kind, exporter))
    return found


def _fits(exporter: str, quantizer: str, host: Host) -> bool:
    return bool(host.load_class("quantizer", quantizer).rewrites == host.load_class("exporter", exporter).suffix)


def _known(host: Host) -> list[str]:
    """Every format that can be made here."""
    found = []
    for use in host.names("exporter"):
        for kind in ("fp32", *host.names("quantizer")):
            with suppress(PluginError):  # an extra that is missing
                if kind == "fp32" or _fits(use, kind, host):
                    found.append(f"{use}-{kind}")
    return found


@dataclass(frozen=True)
class Job:
    """What all files of one call have in common.

    Args:
        seen: samples without labels, for quantizers; without `opened` files are compared on them, too.
        is_noise: quantizers see noise.
    """

    model: Model
    io: IO
    opened: Data | None
    fixed: OnnxNetwork | None
    out: Path
    called: str
    seen: Brought | None
    is_noise: bool
    max_drop: float | None
    seed: int
    qat_epochs: int
    shown: Progress
    notes: list[str]
    given: Given = field(default_factory=Given)

    def target(self, form: Form) -> Path:
        """Of two exporters' files one card each: only onnx's are named by the kind alone."""
        named = form.kind if form.use == DEFAULT else form.name
        return self.out / f"{_stem(self.called)}-{named}{form.exporter.suffix}"

    def probe(self, n: int) -> Batch:
        """n samples that files are compared on where there is no test split; of what the user brought, if he did."""
        if self.seen is None:
            return samples_of(None, self.io, n, self.seed)
        return self.seen.compared.rows(torch.arange(min(n, len(self.seen.compared))))

    def source(self, form: Form, model: Model, done: int) -> Source:
        """What a file of this network is made from and compared on; agreement is of the test split."""
        opened, io, seen = self.opened, self.io, self.seen
        test: Callable[[], Iterable[Batch]] | None = None
        if opened is not None:
            test, split = lambda: _test_batches(opened, io), "test"
        elif seen is not None:
            test, split = seen.batches, seen.split
        else:
            split = "noise"
        samples = self.probe(PROBE) if opened is None or test is None else next(iter(test()))
        about = {"model": Path(self.called).name, **about_of(opened, self.given)}  # no path of this machine
        fixed = self.fixed.write if self.fixed is not None and model is self.model else None
        notes: tuple[str, ...] = (
            ("calibrated on noise: nothing is known of the ranges of real samples",) if self.is_noise else ()
        )
        if seen is not None:
            notes += (f"calibrated on {seen.name}",)
        if model is not self.model:
            notes += (f"trained as it is quantised for {self.qat_epochs} epochs",)

        def watch(share: float, what: str) -> None:
            self.shown.at(done + share, what)

        return Source(
            model, io, form.exporter, samples, self._feeds(form.samples), about, fixed, watch, notes, opened_by=form.use, test=test,
            split=split, given=self.given,
        )  # fmt: skip

    def _feeds(self, n: int) -> list[dict[str, Any]]:
        """What quantizers see, 32 samples at a time; none where there are no data, and nobody asks for noise."""
        if self.seen is not None:
            return self.seen.feeds(n)
        if self.opened is None and not self.is_noise:
            return []
        found = samples_of(None if self.is_noise else self.opened, self.io, n, self.seed)
        return feeds(found)


def _test_batches(opened: Data, io: IO) -> Iterator[Batch]:
    """All of the test split, by the graph's own names."""
    return (renamed(opened, io, batch) for batch in in_order(opened.arranged.split("test")))


def files_of(job: Job, forms: Sequence[Form]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """A row for each format that passes, and the reasons of the others."""
    scratch = Scratch.make("files")
    try:
        return _files_of(job, forms, scratch.path)
    finally:
        scratch.close()


def _files_of(job: Job, forms: Sequence[Form], folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    opened = job.opened
    rows: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    references: dict[str, dict[str, Any]] = {}
    wholes: dict[str, Whole] = {}  # exporter -> its fp32 file
    why_none: dict[str, str] = {}  # exporter -> why its fp32 file is refused
    for form in forms:
        if form.use in why_none:
            refused.append({"format": form.name, "reason": why_none[form.use]})
            remove(form.exporter, job.target(form))
            continue
        done, reference = len(rows) + len(refused) + 1, references.get(form.use, {})
        target, quantize = job.target(form), form.quantizer
        whole = wholes.setdefault(form.use, Whole(folder / f"{len(wholes)}{form.exporter.suffix}"))
        source = replace(job.source(form, job.model, done), whole=whole)
        inputs = _read_by(source, source.samples)
        against = reference.get("quality") if quantize else None
        allowed = allowed_drop(job.max_drop, against) if against else None

        def measured(
            call: Call,
            file: Path,
            form: Form = form,
            inputs: list[Any] = inputs,
            reference: dict[str, Any] = reference,
            allowed: float | None = allowed,
        ) -> dict[str, Any]:
            judged = _judged(call, job.io, opened, reference, allowed)
            return {**judged, **_timed(form.exporter, file, inputs, reference)}

        least = DEFAULT_AGREEMENT if opened is not None else None
        try:
            trained = None
            if quantize and opened is not None and job.qat_epochs and job.fixed is None:
                trained = _trained(job, form, source)
            final = source if trained is None else job.source(form, trained, done)
            if quantize and opened is not None:
                final = replace(final, judge=_judge(job, final))
            _, row = verified_file(final, target, quantize, 1e-4, least, form.use, measured, allowed)
        except RefusedError as error:
            refused.append(refusal(form.name, error))
            if form.kind == "fp32":
                why_none[form.use] = fp32_refused(error.problem)
            continue
        row["path"], row["paths"] = str(target), [str(target)]
        row["files"] = [str(each) for each in form.exporter.parts(target)[1:]]
        if form.kind == "fp32":
            references[form.use] = row
        rows.append(row)
        job.shown.at(done, form.name)
    job.notes.extend(filter(None, map(as_before, rows)))
    job.notes.extend(no_smaller(rows))
    job.notes.extend(
        f"{row['format']} gives {row['top1_agreement']:.0%} of the network's answers to {job.seen.split}"
        if job.seen is not None
        else f"{row['format']} gives {row['top1_agreement']:.0%} of the network's answers to noise; real samples tell whether it "
        "matters"
        for row in rows
        if row["top1_agreement"] is not None and row["top1_agreement"] < DEFAULT_AGREEMENT  # with data it is refused
    )
    if job.is_noise and any(not row["format"].endswith("-fp32") for row in rows):
        job.notes.append("quantised files were calibrated on noise")
    return rows, refused


def _judge(job: Job, source: Source) -> Judge:
    """By validation, of files of the network alone."""
    opened = job.opened
    assert opened is not None
    whole = opened.quality(predicting(opened, module_call(graph_of(job.model, job.io)), job.io), "val")

    def lost(file: Path) -> float:
        quality = opened.quality(predicting(opened, source.exporter.load(file), job.io), "val")
        return goodness(whole) - goodness(quality)

    return Judge(lost, allowed_drop(job.max_drop, whole), tolerance(whole))


def _read_by(source: Source, samples: Batch) -> list[Any]:
    """One sample as the file reads it."""
    one = [each[:1] for each in samples.tensors.values()]
    ends = source.exporter.ends(source.graph, source.about.get("preprocessing") or {})
    return one if ends is None else [*ends.raw(*one)]


def _trained(job: Job, form: Form, source: Source) -> Model | None:
    """The network trained as it will be quantised, where the plain one's file loses too much on `val`, and this one's less."""
    opened, quantize = job.opened, form.quantizer
    assert opened is not None
    assert quantize is not None
    plain = predicting(opened, module_call(graph_of(job.model, job.io)), job.io)
    whole = opened.quality(plain, "val")
    allowed = allowed_drop(job.max_drop, whole)

    def loss(model: Model) -> float:
        with tempfile.TemporaryDirectory() as folder:
            begun = source if model is job.model else replace(source, model=model, whole=None)
            call = rewritten(begun, Path(folder) / f"tried{source.exporter.suffix}", quantize)
            return goodness(whole) - goodness(opened.quality(predicting(opened, call, job.io), "val"))

    try:
        before = loss(job.model)
    except RefusedError:  # whoever writes the file says why
        return None
    if before <= allowed + 1e-12:
        return None
    quantizer: Compressor[Any] = capability("quantizer", quantize)[1]
    model = quantizer.apply(
        job.model,
        planned(
            quantizer, PlanSubject(seed=job.seed, base=Path(), model=job.model, io=job.io, opened=opened, budget={})
        ),
    )
    if model is job.model:
        job.notes.append(
            f"{form.name}: {before:.4f} worse than fp32 on validation, and nothing of it can be rounded in training"
        )
        return None
    try:
        recover(
            model, job.model, opened.task, opened.io, opened.arranged, job.qat_epochs, derive(job.seed, "qat", form.kind),
            lambda share, what: job.shown.at(job.shown.done, what),
        )  # fmt: skip
        settle(model.module)
        after = loss(model)
    except (RefusedError, TrialError) as error:  # the plain file may pass all the same
        job.notes.append(f"{form.name}: training as quantised failed: {error.problem}")
        return None
    job.notes.append(
        f"{form.name}: {before:.4f} worse than fp32 on validation, {after:.4f} after training as quantised"
    )
    return model if after < before else None


def _judged(
    call: Call, io: IO, opened: Data | None, reference: Mapping[str, Any], allowed: float | None
) -> dict[str, Any]:
    """Quality on the test split. Raise RefusedError where it is further below fp32's than allowed; None = nobody asks."""
    if opened is None:
        return {"accuracy": None, "quality": None}
    quality = opened.quality(predicting(opened, call, io), "test")
    if allowed is not None:
        against = reference["quality"]
        drop = goodness(against) - goodness(quality)
        if drop > allowed + 1e-12:
            raise RefusedError(
                f"{quality['metric']} {quality['value']:.4f} is {drop:.4f} worse than fp32's {against['value']:.4f}; "
                f"allowed are {allowed:g}",
                fix="--qat-epochs trains it as quantised; --max-drop states another bound.",
            )
    return told(quality)


def _timed(exporter: Exporter[Any], file: Path, inputs: list[Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    """In a session as anybody opens it; and with the session options that make it faster, if any do."""
    plain = _shown(latency_of(exporter, file, inputs, 1))
    entries = tuned_options(read_onnx(file)) if exporter.is_onnx else {}
    tuned = _shown(measure(file, inputs, entries=entries)) if entries else plain
    helps = is_slower(plain, tuned)
    return {
        "latency_ms": plain,
        "latency_tuned_ms": tuned if helps else None,
        "session_options": entries if helps else {},
        "peak_bytes": peak_bytes(file, inputs) if exporter.is_onnx else None,
        "threads": 1,
        "slower_than_fp32": "latency_ms" in reference and is_slower(plain, reference["latency_ms"]),
    }


def _stem(called: str) -> str:
    """A file's name from the model's."""
    last = Path(called).stem if called.lower().endswith((".onnx", ".pt2")) else called.rpartition(":")[2]
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in last.partition(",")[0]) or "model"


def _shown(latency: Latency) -> dict[str, float]:
    return {"min": latency.min_ms, "median": latency.median_ms, "spread": latency.spread_ms}
