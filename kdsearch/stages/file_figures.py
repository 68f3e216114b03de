"""What files cost that hold one product: time and memory of a call, the widths of their weights, their size once zipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kdsearch.deploy.audit import weight_share
from kdsearch.deploy.capture import first_received
from kdsearch.deploy.files import read_onnx, tuned_options
from kdsearch.deploy.latency import is_slower, measure
from kdsearch.deploy.parts import zipped_bytes_of
from kdsearch.deploy.peak import peak_bytes
from kdsearch.kinds import Exporter
from kdsearch.stages.costs import latency_of, reference_samples
from kdsearch.stages.products import Shipped
from kdsearch.training.materials import Materials


def one_sample(materials: Materials, part: Shipped) -> Iterator[tuple[str, list[Tensor]]]:
    """Each graph's name, and its inputs for one sample."""
    samples = reference_samples(materials)
    for name, graph in part.product.graphs.items():
        example = first_received(part.product, part.calls, name, samples)
        yield name, [example[each.name][:1] for each in graph.inputs]


def latencies(
    materials: Materials, exporter: Exporter[Any], part: Shipped, files: Mapping[str, Path], threads: int
) -> dict[str, Any]:
    """Of all graphs together, in a session as anybody opens it; and with the session options that make it faster, if any do."""
    plain = {"min": 0.0, "median": 0.0, "spread": 0.0}
    tuned, options = dict(plain), dict[str, str]()
    for name, inputs in one_sample(materials, part):
        taken = latency_of(exporter, files[name], inputs, threads)
        entries = tuned_options(read_onnx(files[name])) if exporter.is_onnx else {}
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


def peak(materials: Materials, part: Shipped, files: Mapping[str, Path]) -> int:
    """Bytes that one call needs beside the weights, of the graph that needs most: they run one after another. ONNX files alone."""
    return max(peak_bytes(files[name], inputs) for name, inputs in one_sample(materials, part))


def shares(files: Mapping[str, Path], wholes: Mapping[str, Path]) -> dict[str, float]:
    """Share of the weights at each width, over all graphs by the size of their fp32 files (`wholes`). ONNX files alone."""
    found = {name: weight_share(file, wholes[name]) for name, file in files.items()}
    sizes = {name: wholes[name].stat().st_size for name in files}
    widths = next(iter(found.values()))
    return {width: sum(found[name][width] * sizes[name] for name in files) / sum(sizes.values()) for width in widths}


def zipped(materials: Materials, exporter: Exporter[Any], files: Mapping[str, Path]) -> dict[str, int]:
    """What the zeros of a sparse network gain: its files' size once zipped. They gain no time: onnxruntime multiplies by zeros."""
    chain = materials.study.config.compress.chain
    is_sparse = any(step.kind == "sparsifier" for _, step in chain)
    return {"zipped_bytes": sum(zipped_bytes_of(exporter, file) for file in files.values())} if is_sparse else {}
