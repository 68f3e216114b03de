"""Search space `gnn`: kind of layer, how many, width and heads."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar

from pydantic import Field as Option
from torch import Generator

from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Field, Model, Options, SearchSpace, Tap, searched, vector_output
from kdsearch_spaces.gnn.net import LAYERS, Gnn, Kind


class GnnSpec(Options):
    kind: Annotated[Kind, searched("gcn", "sage", "gat")] = Option("sage", description="of every layer")
    layers: Annotated[int, searched(1, 2, 3)] = Option(
        2, ge=1, le=16, description="each reads one step further; more than the ego-graph has steps read nothing new"
    )
    width: Annotated[int, searched(8, 16, 32, 64, 128)] = Option(64, ge=1, le=8192, description="values of a node")
    heads: Annotated[int, searched(1, 2, 4)] = Option(
        1, ge=1, le=64, description="of gat's attention; a divisor of the width"
    )
    dropout: float = Option(0.0, ge=0, lt=1, description="share of values left out after every layer, in training")


class GnnSpace(SearchSpace[GnnSpec]):
    """Networks that read `nodes` (N, D), `adjacency` (N, N) and `mask` (N,), and answer for the first node.

    Taps: `stage[i]` (layer i, a vector for each node), `penultimate` (what the classifier reads), `logits`.
    """

    task: ClassVar[str] = "node_classification"
    family_fields: ClassVar[tuple[str, ...]] = ("kind",)

    def is_valid(self, spec: GnnSpec) -> bool:
        return spec.kind != "gat" or spec.width % spec.heads == 0

    def ignores(self, spec: GnnSpec) -> Collection[str]:
        """Heads are read by gat alone."""
        return () if spec.kind == "gat" else ("heads",)

    def neighbours(self, spec: GnnSpec, rng: Generator, n: int) -> list[GnnSpec]:
        """Other networks only: none that differ in what is not read."""
        own = self.key(spec)
        return [other for other in super().neighbours(spec, rng, 4 * n) if self.key(other) != own][:n]

    def example_io(self) -> IO:
        """Ego-graphs of 16 nodes with 32 values each, 10 classes."""
        inputs = (
            Field("nodes", "nodes", (16, 32)),
            Field("adjacency", "adjacency", (16, 16), "int64", n_values=2),
            Field("mask", "mask", (16,), "int64"),
        )
        return IO(inputs, (Field("logits", "logits", (10,)),))

    def build(self, spec: GnnSpec, io: IO) -> Model:
        """Raise DataError for inputs that are no ego-graphs of fixed size, StudyError for heads that do not divide the width."""
        n, d = _sizes(io)
        k = vector_output(io, "gnn")
        if not self.is_valid(spec):
            problem = f"search space 'gnn': width {spec.width} with {spec.heads} heads"
            raise StudyError(problem, expected="heads that divide the width")
        net = Gnn(spec.kind, d, spec.width, spec.layers, spec.heads, spec.dropout, k)
        taps = [Tap(f"stage[{i}]", f"layers.{i}", "tokens", (n, spec.width)) for i in range(spec.layers)]
        taps.append(Tap("penultimate", "classifier", "vector", (spec.width,), side="input"))
        taps.append(Tap("logits", "classifier", "vector", (k,)))
        blocks = tuple(path for path, part in net.named_modules() if isinstance(part, tuple(LAYERS.values())))
        outputs = (io.outputs[0].name,)
        return Model(net, tuple(each.name for each in io.inputs), tuple(taps), outputs, blocks, f"gnn-{spec.kind}")

    def teacher_spec(self) -> GnnSpec:
        """Two GraphSAGE layers of 256; the kind as the study fixes it."""
        fixed: dict[str, Any] = {name: value for name, value in self.region.fixed.items() if name == "kind"}
        return self.parse({"layers": 2, "width": 256, **fixed})


def _sizes(io: IO) -> tuple[int, int]:
    """(N, D). Raise DataError unless the inputs are nodes, adjacency and mask, in that order."""
    shown = ", ".join(f"'{each.name}' ({each.kind}, {each.dtype})" for each in io.inputs) or "nothing"
    problem = f"search space 'gnn': the input is {shown}"
    if [each.kind for each in io.inputs] != ["nodes", "adjacency", "mask"]:
        raise DataError(problem, expected="ego-graphs: nodes (N, D), adjacency (N, N), mask (N,)")
    nodes = io.inputs[0].shape
    if len(nodes) != 2 or any(None in each.shape for each in io.inputs):
        raise DataError(problem, expected="ego-graphs of a fixed size")
    return nodes[0] or 0, nodes[1] or 0
