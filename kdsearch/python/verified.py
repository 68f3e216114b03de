"""One format of one network outside a study: written, opened again, compared, and laid down with its card."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kdsearch.deploy.audit import weight_share
from kdsearch.deploy.cost import count
from kdsearch.deploy.parity import Parity, compare, exact_call, module_call
from kdsearch.deploy.parts import bytes_of, copy_parts
from kdsearch.deploy.probe import record
from kdsearch.engine.setup import Site
from kdsearch.errors import PluginError, RefusedError
from kdsearch.kinds import IO, Batch, Call, Compressor, Cost, Ends, Exporter, Graph, Judge, Model
from kdsearch.kinds.compressor import planned
from kdsearch.python.given import Given
from kdsearch.python.networks import counted
from kdsearch.python.pieces import Named, capability
from kdsearch.report.card import card, judged, measured
from kdsearch.stages.cards import about_part, card_name, texts
from kdsearch.stages.one_file import fp32_refused, theirs
from kdsearch.stages.products import described
from kdsearch.stages.report import made_with
from kdsearch.store.files import storing, write_json
from kdsearch.store.hashing import file_digest


class _Subject(Site):
    """What a quantizer's plan may ask for where there is no study."""

    def __init__(self, model: Model, io: IO) -> None:
        super().__init__(0, Path())
        self.model, self.io = model, io
        self.budget: Mapping[str, float] = {}

    def score(self, model: Model, samples: int | None = None) -> float:
        raise PluginError("this quantizer scores models on validation data", expected="a study")

    def cost(self, model: Model) -> Cost:
        return count(model, self.io)


class Whole:
    """A network's fp32 file by one exporter: written when fp32 asks for it, and what all other formats are made of.

    Args:
        file: where it lies.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._made = False

    def of(self, source: Source) -> Path:
        """Raise RefusedError where the exporter cannot write it."""
        if not self._made:
            source.exporter.write(source.graph, source.samples, self.file)
            self._made = True
        return self.file


@dataclass(frozen=True)
class Source:
    """What files are made from.

    Args:
        samples: for comparison. test: batches that agreement is taken over; None = `samples` alone.
        calibration: inputs by name, for quantizers.
        about: labels, preprocessing and the model's name, for file and card.
        fp32: writes what is there already, instead of what the exporter would.
        watch: is told how far a quantizer is. notes: of what it saw, for result and card.
        judge: of candidates, by validation. along: names of files beside it that belong to it.
        opened_by: what the exporter is called where it is installed. split: what `samples` are of, for the card.
        whole: keeps what the exporter writes for other formats, judged as fp32 before them. given: what `fp32` says of itself.
    """

    model: Model
    io: IO
    exporter: Exporter[Any]
    samples: Batch
    calibration: Sequence[Mapping[str, Any]]
    about: Mapping[str, Any]
    fp32: Callable[[Path], None] | None = None
    watch: Callable[[float, str], None] | None = None
    notes: tuple[str, ...] = ()
    along: tuple[str, ...] = ()
    judge: Judge | None = None
    opened_by: str = "onnx"
    test: Callable[[], Iterable[Batch]] | None = None
    split: str = "the caller's samples"
    whole: Whole | None = None
    given: Given = field(default_factory=Given)

    @property
    def graph(self) -> Graph:
        return Graph(self.model.module, self.io.inputs, self.io.outputs)


def rewritten(source: Source, file: Path, quantize: Named) -> Call:
    """The quantised file of a network, opened; nothing is compared. Raise RefusedError for a file that cannot be opened."""
    _begun(source, file)
    _, quantizer = capability("quantizer", quantize)
    with theirs():
        quantizer.rewrite(file, planned(quantizer, _Subject(source.model, source.io)), source.calibration)
        return source.exporter.load(file)


def _begun(source: Source, file: Path) -> None:
    """The fp32 file that every format is made of. Raise RefusedError where the exporter cannot write it."""
    if source.fp32 is not None:
        source.fp32(file)
    elif source.whole is not None:
        copy_parts(source.exporter, source.whole.of(source), file)
    else:
        source.exporter.write(source.graph, source.samples, file)


@contextmanager
def _gone_if_refused(exporter: Exporter[Any], target: Path) -> Iterator[None]:
    """A refusal takes along what an earlier call left there: file, companions and card."""
    try:
        yield
    except RefusedError:
        remove(exporter, target)
        raise


def remove(exporter: Exporter[Any], target: Path) -> None:
    """A file of an earlier call, with companions and card."""
    for each in (*exporter.parts(target), target.with_name(card_name(target.name))):
        each.unlink(missing_ok=True)


def verified_file(
    source: Source,
    target: Path,
    quantize: Named | None,
    parity: float,
    min_agreement: float | None,
    form: str,
    measure: Callable[[Call, Path], Mapping[str, Any]] | None = None,
    max_drop: float | None = None,
) -> tuple[Parity, dict[str, Any]]:
    """Write one format with its card; what the gates refuse leaves nothing behind, of an earlier call neither.

    Args:
        parity: of the fp32 file, also where it is but what another is made of, see `export`. min_agreement: None = not asked.
        form: what the exporter is called in the format's name.
        measure: further facts for row and card, of the loaded file and where it lies; may raise RefusedError.
        max_drop: how much worse than fp32's the quality may be that `measure` judges; None = not asked.

    Raises:
        RefusedError: the file fails or is too far off.
    """
    graph, made, batch = source.graph, source.exporter, source.samples
    name, bound = "fp32", parity if quantize is None else None
    with storing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with (
        _gone_if_refused(source.exporter, target),
        tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as folder,
    ):
        fp32, final = Path(folder) / f"fp32{made.suffix}", Path(folder) / f"final{made.suffix}"
        _begun(source, fp32)
        if quantize is not None and source.fp32 is None and source.whole is None:
            _check_whole(source, fp32, target, parity)
        copy_parts(made, fp32, final)
        log: tuple[str, ...] = ()
        elsewhere: float | None = None
        if quantize is not None:
            name, quantizer = capability("quantizer", quantize)
            assert isinstance(quantizer, Compressor)
            elsewhere = quantizer.elsewhere
            plan = planned(quantizer, _Subject(source.model, source.io))
            log, quantizer.watch, quantizer.judge = tuple(plan.log), source.watch, source.judge
            with theirs():
                quantizer.rewrite(final, plan, source.calibration)
            log += (*quantizer.notes, *source.notes)
        ends = made.ends(graph, source.about.get("preprocessing") or {})
        if ends is not None and bound is not None and any(each.is_set for each in ends.graph.outputs):
            with theirs():
                call = made.load(final)
            _check(
                _compared(graph, call, batch, [batch], bound), target, bound, None
            )  # few of its numbers become detections
        inside = source.given.with_ends(ends.about if ends is not None else {})
        with theirs():
            if ends is not None:
                made.finish(final, ends)
            made.label(final, texts({**source.about, "inside": inside}))
            call = made.load(final)
        every: Iterable[Batch] = [batch] if source.test is None else source.test()
        if ends is not None:
            every = map(partial(_as_read, ends, graph), every)
            graph, batch = ends.graph, _as_read(ends, graph, batch)
        found = _compared(graph, call, batch, every, bound)
        _check(found, target, bound, min_agreement)
        if found.is_empty:
            log += (
                "none of the samples compared has a detection: what stands in the file after its network was not tried",
            )
        row = {
            "format": f"{form}-{name}",
            "path": target.name,
            "bytes": bytes_of(made, final),
            "parity_max_abs": found.max_abs,
            "parity": found.worst.as_json(),
            "top1_agreement": found.top1_agreement,
            "weight_share": weight_share(final, fp32) if made.is_onnx else {},
            "quantization": list(log),
            "agreement_n": None if found.top1_agreement is None else found.judged,
            "bounds": {
                "parity": bound,
                "elsewhere": elsewhere,
                "max_drop": max_drop,
                "min_agreement": None if found.top1_agreement is None else min_agreement,
            },
            **(
                measure(call if ends is None or ends.own is None else ends.within(call), final)
                if measure is not None
                else {}
            ),
        }
        kept = record(graph, module_call(graph), call, bound=bound, exact=lambda: exact_call(graph))
        with storing(target):
            for part, place in reversed(list(zip(made.parts(final), made.parts(target), strict=True))):
                part.replace(place)  # companions first: the file that names them is the last to appear
    card = _card(source, graph, row, kept, target, found, inside)
    write_json(target.with_name(card_name(target.name)), card)
    return found, row


def _compared(graph: Graph, call: Call, samples: Batch, every: Iterable[Batch], bound: float | None) -> Parity:
    """At the samples' own number, too. every: what agreement is taken over."""
    sizes = sorted({1, 2, 5, len(samples)})
    return compare(
        module_call(graph), call, graph.inputs, graph.outputs, samples, sizes, every, bound, lambda: exact_call(graph)
    )


def _check_whole(source: Source, fp32: Path, target: Path, parity: float) -> None:
    """The fp32 file that a quantised one is made of. Raise RefusedError where it is not the network's."""
    with theirs():
        call = source.exporter.load(fp32)
    try:
        _check(_compared(source.graph, call, source.samples, [source.samples], parity), target, parity, None)
    except RefusedError as error:
        raise RefusedError(fp32_refused(error.problem), file=target, path="parity", fix=error.fix) from error


def _as_read(ends: Ends, graph: Graph, batch: Batch) -> Batch:
    """Prepared samples as the file reads them."""
    raw = ends.raw(*[batch[each.name] for each in graph.inputs])
    return Batch(batch.ids, {each.name: value for each, value in zip(ends.graph.inputs, raw, strict=True)})


def _check(found: Parity, target: Path, parity: float | None, min_agreement: float | None) -> None:
    try:
        found.check(parity)
    except RefusedError as error:
        raise RefusedError(error.problem, file=target, path="parity", fix=error.fix) from error
    if min_agreement is None or found.top1_agreement is None:
        return
    if found.top1_agreement < min_agreement - 1e-12:
        problem = f"{found.top1_agreement:.2%} of its answers are the network's"
        raise RefusedError(problem, file=target, path="min_agreement", expected=f"at least {min_agreement:.4g}")


def _card(
    source: Source,
    graph: Graph,
    row: Mapping[str, Any],
    answers: Mapping[str, Any] | None,
    target: Path,
    found: Parity,
    inside: Mapping[str, Any],
) -> dict[str, Any]:
    """A study's card without what only a study knows."""
    model, exporter = source.model, source.exporter
    network = {"architecture": type(model.module).__name__, **counted(model, source.io)}
    facts = {
        **described(graph),
        "inside": inside,
        "sha256": file_digest(target),
        **source.about,
        "check": answers,
        "companions": [about_part(each) for each in exporter.parts(target)[1:]],
        **({} if exporter.is_onnx else {"usage": exporter.usage(target.name), "exporter": source.opened_by}),
    }
    whole = card({"study": target.stem, "student": network, "provenance": made_with()}, row, facts)
    agreement = measured(found.top1_agreement, found.judged)
    kept = (
        "format",
        "kind",
        "name",
        "file",
        "sha256",
        "export",
        "parity",
        "bounds",
        "size_bytes",
        "weight_share",
        "quantization",
        "use",
        "check",
    )
    timed = ("latency_ms", "latency_tuned_ms", "session_options", "slower_than_fp32", "peak_bytes")
    return {
        **{key: whole[key] for key in (*kept, "companions", "exporter") if key in whole},
        **{key: whole[key] for key in timed if row.get(key)},
        "model": network,
        "metrics": {"split": source.split, **(judged(row) or {}), "top1_agreement_with_torch": agreement},
        "provenance": {**({"model": source.about["model"]} if "model" in source.about else {}), **made_with()},
        **({"facts": {"product": {"files": list(source.along)}}} if source.along else {}),
    }
