"""What the file of a candidate costs before it is trained: bytes, and where they matter latency and memory, of the format that is
limited.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdsearch.deploy.capture import first_received
from kdsearch.deploy.parts import bytes_of, copy_parts
from kdsearch.errors import ArtifactError
from kdsearch.kinds import Compressor, Exporter
from kdsearch.kinds.compressor import planned
from kdsearch.stages.calibration import calibration, feeds
from kdsearch.stages.costs import (
    formats_measured,
    latency_of,
    latency_threads,
    needs_latency,
    needs_peak,
    quantizer_of,
    reference_samples,
)
from kdsearch.stages.ends import ends_of, shipped_with
from kdsearch.stages.file_figures import one_sample, peak
from kdsearch.stages.labels import label
from kdsearch.stages.products import Shipped, fresh_product, fresh_student
from kdsearch.stages.subject import subject_of
from kdsearch.store.artifacts import sealed, unsealed
from kdsearch.store.files import read_json, write_json
from kdsearch.store.hashing import digest
from kdsearch.training.materials import Materials, placing

SAMPLES = 16  # that a quantizer is calibrated on: bytes and latency do not depend on how well
STUDY = "study" * 4  # stands for the study's name in a file: no candidate is another one under another name


def file_costs(materials: Materials, role: str, spec: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """`onnx_bytes`, and `latency_ms` and `peak_bytes` where they matter, of the graphs of a student that is not trained, written as
    what ships; remembered in `folder`.
    """
    known = folder / f"costs-{digest({'role': role, 'spec': dict(spec)})}.json"
    if known.exists():
        with suppress(ArtifactError):  # damaged, or changed by hand: they are measured anew
            return dict(unsealed(read_json(known), known))
    made = fresh_product(materials, role, spec, folder)
    exporter = materials.make("exporter", materials.study.config.export.exporter, "export.exporter")
    forms = formats_measured(materials)
    whole = _written(materials, exporter, made, folder / known.stem)
    files = {"": whole}
    for name in sorted({quantizer_of(materials, form) for form in forms.values()} - {""}):
        files[name] = _quantized(materials, exporter, name, role, spec, made, whole, folder)
    of = {cost: files[quantizer_of(materials, form)] for cost, form in forms.items()}
    ends = ends_of(exporter, made.product, materials.data.facts)
    for name, file in ((name, file) for group in files.values() for name, file in group.items()):
        if name in ends:
            exporter.finish(file, ends[name])
        label(materials, exporter, file, STUDY, digest(spec), ends.get(name))
    made = shipped_with(made, ends) if ends else made
    costs: dict[str, float] = {"onnx_bytes": sum(bytes_of(exporter, file) for file in of["onnx_bytes"].values())}
    if needs_latency(materials):
        threads, timed = latency_threads(materials), of["latency_ms"]
        taken = (latency_of(exporter, timed[name], given, threads) for name, given in one_sample(materials, made))
        costs["latency_ms"] = sum(each.median_ms for each in taken)
    if needs_peak(materials):
        costs["peak_bytes"] = peak(materials, made, of["peak_bytes"])
    for file in (each for group in files.values() for each in group.values()):
        for part in exporter.parts(file):
            part.unlink()
    write_json(known, sealed(costs))
    return costs


def _written(materials: Materials, exporter: Exporter[Any], made: Shipped, stem: Path) -> dict[str, Path]:
    """Graph -> its fp32 file."""
    dummy, files = reference_samples(materials), {}
    for name, graph in made.product.graphs.items():
        files[name] = stem.with_name(f"{stem.name}-{name}{exporter.suffix}")
        exporter.write(graph, first_received(made.product, made.calls, name, dummy), files[name])
    return files


def _quantized(
    materials: Materials,
    exporter: Exporter[Any],
    name: str,
    role: str,
    spec: Mapping[str, Any],
    made: Shipped,
    whole: Mapping[str, Path],
    folder: Path,
) -> dict[str, Path]:
    """Graph -> its file, by a quantizer of the study."""
    index = next(i for i, use in enumerate(materials.study.config.compress.quantize) if use.use == name)
    quantizer: Compressor[Any] = materials.make(
        "quantizer", materials.study.config.compress.quantize[index], f"compress.quantize[{index}]"
    )
    subject = subject_of(materials, fresh_student(materials, role, spec, folder), role, {})
    with placing(materials.study, f"compress.quantize[{index}]"), materials.host.naming("quantizer", name):
        plan = planned(quantizer, subject)
    few = replace(plan, edits={**plan.edits, **({"samples": SAMPLES} if "samples" in plan.edits else {})})
    samples, files = calibration(materials, SAMPLES), {}
    for graph, file in whole.items():
        files[graph] = file.with_name(f"{file.stem}-{index}{file.suffix}")
        copy_parts(exporter, file, files[graph])
        quantizer.rewrite(files[graph], few, feeds(made, graph, samples))
    return files
