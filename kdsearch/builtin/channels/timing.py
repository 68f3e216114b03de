"""Latency of cut networks: of their fp32 files in onnxruntime, in turns with the file of the network before the cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from kdsearch.builtin.channels.targets import Taken
from kdsearch.kinds import IO, Batch, Graph, Model
from kdsearch.kit.latency import measure, measure_beside
from kdsearch.kit.scratch import Scratch


@contextmanager
def timing(model: Model, io: IO) -> Iterator[Callable[[nn.Module], Taken]]:
    """A function from a network to its latency at batch 1: that of the first one in milliseconds, of the others by its ratio to it.

    The first is the clock of the others, since a machine that is busier for one file than for the other would decide otherwise.
    """
    from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions

    fields = tuple(io.input(name) for name in model.inputs)
    blank = {each.name: each.blank(2) for each in fields}  # two samples: an exporter may write a single one in
    samples = [blank[each.name] for each in fields]
    scratch = Scratch.make("latency")
    first, first_ms = scratch.path / "first.onnx", 0.0

    def write(module: nn.Module, file: Path) -> None:
        batch = Batch(tuple(f"blank-{i}" for i in range(2)), blank)
        OnnxExporter(OnnxOptions()).write(Graph(module, fields, io.outputs), batch, file)

    def taken(module: nn.Module) -> Taken:
        nonlocal first_ms
        if not first_ms:
            write(module, first)
            first_ms = measure(first, samples).median_ms
            return Taken(first_ms)
        file = scratch.path / "cut.onnx"
        write(module, file)
        found = measure_beside(file, first, samples)
        return Taken(first_ms * found.ratio, found.error)

    try:
        yield taken
    finally:
        scratch.close()
