"""What a candidate costs: params and MACs, and from its exported graph bytes and latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from kdsearch.deploy.capture import first_received
from kdsearch.deploy.cost import count, count_module
from kdsearch.deploy.latency import Latency as Measured
from kdsearch.deploy.latency import measure, measure_call
from kdsearch.engine.cache import Live
from kdsearch.errors import ArtifactError
from kdsearch.kinds import Batch, Cost, Exporter, Model
from kdsearch.stages.products import fresh_product, has_own_product
from kdsearch.store.artifacts import sealed, unsealed
from kdsearch.store.files import read_json, write_json
from kdsearch.store.hashing import digest, stream
from kdsearch.study.schema import Latency
from kdsearch.training.materials import Materials


def cost_of_model(model: Model, materials: Materials) -> Cost:
    """By the space's formula where there is one, else counted."""
    return model.cost() or count(model, materials.io)


def cost_of_teacher(live: Live, materials: Materials) -> Cost:
    """The same of a teacher, for one sample as its view feeds it."""
    if live.view is None:
        return live.model.cost() or count(live.model, materials.teacher_io)
    sample = live.fed(materials.data.split("train").load([0]).to(materials.torch_device))
    return live.model.cost() or count_module(live.model.module, [sample[name] for name in live.model.inputs])


def needs_file(materials: Materials) -> bool:
    """Whether objectives or constraints speak of the exported file."""
    limits = materials.study.config.constraints
    return limits.onnx_bytes is not None or needs_latency(materials)


def ships_its_own(materials: Materials) -> bool:
    """Whether what files cost depends on the procedure."""
    return needs_file(materials) and has_own_product(materials)


def needs_latency(materials: Materials) -> bool:
    return materials.study.config.constraints.latency_ms is not None or "latency_ms" in materials.cost_objectives


def latency_threads(materials: Materials) -> int:
    limit = materials.study.config.constraints.latency_ms
    return limit.threads if isinstance(limit, Latency) else 1


def reference_samples(materials: Materials) -> Batch:
    """Two, which every latency is measured with: noise of the fields' sizes (`open_size` where one is open), nothing masked."""
    dummy = materials.task.dummy(materials.io, 2, stream(materials.seed, "example"))
    return dummy.having(
        **{each.name: each.blank(2) for each in materials.io.inputs if each.kind in ("mask", "present")}
    )


def costs_at(materials: Materials) -> dict[str, list[int]]:
    """Input -> its sizes in that sample, of those that leave one open: what MACs and latency are of."""
    return {
        each.name: [size or each.open_size for size in each.shape] for each in materials.io.inputs if None in each.shape
    }


def file_costs(materials: Materials, role: str, spec: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """`onnx_bytes`, and `latency_ms` where it matters, of a fresh student's exported graphs; remembered in `folder`."""
    known = folder / f"costs-{digest({'role': role, 'spec': dict(spec)})}.json"
    if known.exists():
        with suppress(ArtifactError):  # damaged, or changed by hand: they are measured anew
            return dict(unsealed(read_json(known), known))
    made = fresh_product(materials, role, spec, folder)
    exporter = materials.make("exporter", materials.study.config.export.exporter, "export.exporter")
    dummy = reference_samples(materials)
    total, latency = 0, 0.0
    for name, graph in made.product.graphs.items():
        file = folder / f"{known.stem}-{name}{exporter.suffix}"
        example = first_received(made.product, made.calls, name, dummy)
        exporter.write(graph, example, file)
        total += file.stat().st_size
        if needs_latency(materials):
            inputs = [example[each.name][:1] for each in graph.inputs]
            latency += latency_of(exporter, file, inputs, latency_threads(materials)).median_ms
        file.unlink()
    costs: dict[str, float] = {"onnx_bytes": total}
    if needs_latency(materials):
        costs["latency_ms"] = latency
    write_json(known, sealed(costs))
    return costs


def latency_of(exporter: Exporter[Any], file: Path, inputs: Sequence[Tensor], threads: int) -> Measured:
    """Of a file as anybody opens it: in onnxruntime, else as its exporter loads it. Inputs of one sample, in order."""
    if exporter.is_onnx:
        return measure(file, inputs, threads)

    def opened() -> Callable[[], Any]:
        return partial(exporter.load(file, threads), *inputs)

    return measure_call(opened)


def bounds(materials: Materials) -> dict[str, float]:
    """Constraint -> its limit, of those that the study sets."""
    limits = materials.study.config.constraints
    latency = limits.latency_ms.max if isinstance(limits.latency_ms, Latency) else limits.latency_ms
    found = {"params": limits.params, "macs": limits.macs, "onnx_bytes": limits.onnx_bytes, "latency_ms": latency}
    return {name: bound for name, bound in found.items() if bound is not None}


def violations(materials: Materials, costs: Mapping[str, float]) -> dict[str, float]:
    """Constraint -> (value - limit) / limit for each that the costs speak of; <= 0 where it holds."""
    return {name: (costs[name] - bound) / bound for name, bound in bounds(materials).items() if name in costs}
