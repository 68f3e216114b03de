"""Nodes and constants that are written into a finished ONNX graph, under names that nothing there has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdsearch.kit.onnx import subgraphs


class Added:
    """What is to be added to a graph.

    Args:
        prefix: how all of its names begin, as `free_prefix` finds one.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}

    def name(self, of: str) -> str:
        return f"{self.prefix}.{of}"

    def node(self, kind: str, inputs: Sequence[str], out: str = "", **attributes: Any) -> str:
        """The value that it answers with: `out`, or one of its own."""
        return self.pair(kind, inputs, (out,), **attributes)[0]

    def pair(self, kind: str, inputs: Sequence[str], outs: Sequence[str] = ("", ""), **attributes: Any) -> list[str]:
        """The values of a node that answers with several: by these names, or one of its own for each empty one."""
        from onnx import helper

        name = self.name(f"{len(self.nodes)}.{kind}")
        values = [out or f"{name}.{'value' if at == 0 else at}" for at, out in enumerate(outs)]
        self.nodes.append(helper.make_node(kind, list(inputs), values, name, **attributes))
        return values

    def number(self, value: Any, dtype: Any = np.float32) -> str:
        name = self.name(f"constant.{len(self.constants)}")
        self.constants[name] = np.asarray(value, dtype)
        return name


def free_prefix(body: Any) -> str:
    """How no name in the graph begins: a network may have a part of any name."""
    names = {
        name for graph in subgraphs(body) for node in graph.node for name in (node.name, *node.input, *node.output)
    }
    names |= {each.name for graph in subgraphs(body) for each in (*graph.initializer, *graph.input)}
    prefix = "ends"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix
