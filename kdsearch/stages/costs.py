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
from kdsearch.errors import FOREIGN
from kdsearch.kinds import Batch, Cost, Exporter, Model, Task
from kdsearch.kit.folding import folds
from kdsearch.ops.cost import stored_values
from kdsearch.stages.products import has_own_product
from kdsearch.store.hashing import stream
from kdsearch.study.rules import OF_FILES, format_of
from kdsearch.study.schema import Bytes, Latency
from kdsearch.training.materials import Materials

# Bytes of an fp32 file that a weight takes at least, on the whole. A norm has its scale in the layer before it, its shift in that
# one's bias: of k >= 2 weights an output and the norm's two numbers, four bytes each, k + 1 are left.
KEPT_BYTES = 3
DRAWN = 4  # networks that are looked at for branches


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


def most_params(materials: Materials, role: str) -> float | None:
    """Of how many weights no fp32 file keeps the study's limit of its bytes. None = no such limit, or weights say nothing of the
    file: the product or the exporter is somebody's own, or branches of the role's networks are folded for it.
    """
    limit = materials.study.config.constraints.onnx_bytes
    if not limit or quantizer_of(materials, formats_measured(materials)["onnx_bytes"]):
        return None
    exporter: Exporter[Any] = materials.make("exporter", materials.study.config.export.exporter, "export.exporter")
    is_own = type(materials.task).product is not Task.product or has_own_product(materials)
    if is_own or not exporter.is_onnx or _has_branches(materials, role):
        return None
    return bounds(materials)["onnx_bytes"] / KEPT_BYTES


def _has_branches(materials: Materials, role: str) -> bool:
    """Whether one of the networks drawn from the role's space is folded for a file."""
    space, rng = materials.spaces[role], stream(materials.seed, "branches", role)
    for _ in range(DRAWN):
        try:
            model = materials.build_student(role, space.sample(rng).model_dump(mode="json"), 0)
        except FOREIGN:  # the search tells what cannot be built
            continue
        if folds(model.module):
            return True
    return False


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
