"""How long the teachers take for one sample, so that what was gained can be said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdsearch.deploy.latency import Latency, measure_call
from kdsearch.deploy.parity import module_call
from kdsearch.errors import StorageError
from kdsearch.kinds import Batch, Exporter, Model
from kdsearch.ops.threads import cpu_threads
from kdsearch.stages.costs import latency_of, latency_threads
from kdsearch.training.materials import Materials


def teacher_latency(
    materials: Materials, exporter: Exporter[Any], model: Model, example: Batch, file: Path
) -> dict[str, Any] | None:
    """`latency_ms` as a file's, and `latency_in`: the exporter's runtime, from an fp32 file that is written here and not kept,
    where the teacher can be one; else "torch", on the CPU with equally many threads. None for one that does not answer the task.

    A teacher may be anything, and nothing of the study hangs on this figure: what it raises is not told.
    """
    model.module.cpu().eval()
    threads = latency_threads(materials)
    try:
        graphs = materials.task.product(model, materials.teacher_io).graphs
        if len(graphs) != 1:
            return None
        (graph,) = graphs.values()
        others = {each.name: each.blank(len(example)) for each in graph.inputs if each.name not in example}
        example = example.having(**others)
        inputs = [example[each.name][:1] for each in graph.inputs]
    except Exception:
        return None
    try:
        exporter.write(graph, example, file)
        return row(latency_of(exporter, file, inputs, threads), exporter.runtime)
    except StorageError:
        raise
    except Exception:
        pass
    try:
        call = module_call(graph)
        with cpu_threads(threads):
            return row(measure_call(lambda: lambda: call(*inputs), repeats=1), "torch")
    except StorageError:
        raise
    except Exception:
        return None


def row(found: Latency, where: str) -> dict[str, Any]:
    latency = {"min": found.min_ms, "median": found.median_ms, "spread": found.spread_ms}
    return {"latency_ms": latency, "latency_in": where}
