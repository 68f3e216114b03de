"""What a network costs, and what the study limits. What files of candidates cost: `file_costs.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from kdsearch.deploy.cost import count, count_module
from kdsearch.deploy.latency import Latency as Measured
from kdsearch.deploy.latency import measure, measure_call
from kdsearch.engine.cache import Live
from kdsearch.kinds import Batch, Cost, Exporter, Model
from kdsearch.ops.cost import stored_values
from kdsearch.stages.products import has_own_product
from kdsearch.store.hashing import stream
from kdsearch.study.rules import OF_FILES, format_of
from kdsearch.study.schema import Bytes, Latency
from kdsearch.training.materials import Materials


def cost_of_model(model: Model, materials: Materials) -> Cost:
    """By the space's formula where there is one, else counted."""
    return model.cost() or count(model, materials.io)


def cost_of_teacher(live: Live, materials: Materials) -> Cost:
    """The same of a teacher, for one sample as its view feeds it; of one without a parameter, what it knows is in its buffers."""
    if known := live.model.cost():
        return known
    if live.view is None:
        found = count(live.model, materials.teacher_io)
    else:
        sample = live.fed(materials.data.split("train").load([0]).to(materials.torch_device))
        found = count_module(live.model.module, [sample[name] for name in live.model.inputs])
    return found if found.params else replace(found, params=stored_values(live.model.module))


def needs_file(materials: Materials) -> bool:
    """Whether objectives or constraints speak of the exported file."""
    limits = materials.study.config.constraints
    return any(getattr(limits, name) is not None or name in materials.cost_objectives for name in OF_FILES)


def formats_measured(materials: Materials) -> dict[str, str]:
    """Cost of a file -> the format that the study limits it of: "" = fp32."""
    limits = materials.study.config.constraints
    forms = {name: getattr(getattr(limits, name), "format", None) or "" for name in OF_FILES}
    return {name: "" if form.endswith("-fp32") else form for name, form in forms.items()}


def needs_quantized(materials: Materials) -> bool:
    """Whether a limit is of a quantised file."""
    return any(quantizer_of(materials, form) for form in formats_measured(materials).values())


def quantizer_of(materials: Materials, form: str) -> str:
    """The quantizer that makes files of a format, as the study names it; "" where none does."""
    if not form:
        return ""
    config = materials.study.config
    return next((use.use for use in config.compress.quantize if format_of(config, use) == form), "")


def fewest_params(materials: Materials) -> float | None:
    """What a limit of the fp32 file's bytes leaves of weights, four bytes each: a file cannot be smaller. None = no such limit."""
    limit = materials.study.config.constraints.onnx_bytes
    return (
        bounds(materials)["onnx_bytes"] / 4
        if limit and not quantizer_of(materials, formats_measured(materials)["onnx_bytes"])
        else None
    )


def ships_its_own(materials: Materials) -> bool:
    """Whether what files cost depends on the procedure."""
    return needs_file(materials) and has_own_product(materials)


def needs_peak(materials: Materials) -> bool:
    return materials.study.config.constraints.peak_bytes is not None or "peak_bytes" in materials.cost_objectives


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
    size, peak = (each.max if isinstance(each, Bytes) else each for each in (limits.onnx_bytes, limits.peak_bytes))
    found = {
        "params": limits.params,
        "macs": limits.macs,
        "onnx_bytes": size,
        "latency_ms": latency,
        "peak_bytes": peak,
    }
    return {name: bound for name, bound in found.items() if bound is not None}


def violations(materials: Materials, costs: Mapping[str, float]) -> dict[str, float]:
    """Constraint -> (value - limit) / limit for each that the costs speak of; <= 0 where it holds."""
    return {name: (costs[name] - bound) / bound for name, bound in bounds(materials).items() if name in costs}
