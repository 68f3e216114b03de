"""What each graph of a product receives when a batch is answered: recorded once, the only source of inputs for a graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from kdsearch.errors import PluginError, one_of
from kdsearch.kinds import Batch, Call, Graph, Product


def received(product: Product, calls: Mapping[str, Call], name: str, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The inputs of every call of one graph, in order, as batches of its own fields; the graphs before it answer by `calls`.

    Raises:
        PluginError: the product's call never calls the graph, or with another number of inputs.
    """
    graph, called = product.graphs[name], False
    for batch in batches:
        seen: list[tuple[Tensor, ...]] = []

        def noted(*inputs: Tensor, seen: list[tuple[Tensor, ...]] = seen) -> Mapping[str, Tensor]:
            seen.append(inputs)
            return calls[name](*inputs)

        product.call({**calls, name: noted}, batch)
        for inputs in seen:
            called = True
            yield _batch(graph, name, inputs)
    if not called:
        raise PluginError(
            f"graph '{name}' is never called by the product's call",
            expected=f"a call of each of {one_of(product.graphs)}",
        )


def first_received(product: Product, calls: Mapping[str, Call], name: str, batch: Batch) -> Batch:
    """The inputs of the graph's first call for one batch."""
    return next(received(product, calls, name, [batch]))


def _batch(graph: Graph, name: str, inputs: tuple[Tensor, ...]) -> Batch:
    if len(inputs) != len(graph.inputs):
        fields = one_of(each.name for each in graph.inputs)
        raise PluginError(
            f"graph '{name}' is called with {len(inputs)} inputs", expected=f"{len(graph.inputs)}: {fields}"
        )
    rows = len(inputs[0]) if inputs else 0
    tensors = {each.name: value.detach().cpu() for each, value in zip(graph.inputs, inputs, strict=True)}
    return Batch(tuple(f"{name}-{i}" for i in range(rows)), tensors)
