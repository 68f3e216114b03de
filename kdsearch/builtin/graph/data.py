"""Data sets of one graph: `graph`, a table of nodes and one of edges; `bundled_graph`, which needs no file of the user's.

A sample is a node with the graph around it. The setting is transductive: an ego-graph of a training node may hold nodes of the
test split, with what they look like, never with their class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field as Option
from torch import Tensor

from kdsearch.builtin.datasets.digits import pixels_and_labels
from kdsearch.builtin.graph.egos import Graph, Ints
from kdsearch.builtin.packages import DIGITS_8X8, PACKAGES
from kdsearch.builtin.tables.columns import Columns, check_no_nan, known, told_apart
from kdsearch.builtin.tables.source import without_marks
from kdsearch.builtin.tables.targets import read_target
from kdsearch.errors import DataError, nearest
from kdsearch.kinds import Batch, Dataset, DataSource, Field, Options, Services, Split, split_of
from kdsearch.kit.packages import package_file
from kdsearch.kit.tables import Table, TableFiles, read_table, read_tables


class EgoOptions(Options):
    size: int = Option(24, ge=2, le=1024, description="nodes of an ego-graph, the node itself among them")
    hops: int = Option(2, ge=1, le=8, description="steps that an ego-graph reaches; layers beyond read nothing new")


class GraphOptions(TableFiles, EgoOptions):
    id: str = Option(description="column of the nodes' names")
    target: str = Option(description="column of the nodes' classes; a node without one has no label")
    edges: str = Option(description="CSV or JSON Lines with an edge a row; edges go both ways")
    source: str = Option("source", description="column of an edge's one end, a node's name")
    end: str = Option("target", description="column of its other end")
    numbers: tuple[str, ...] = Option(
        (), description="columns that are numbers; those named nowhere are if every value is"
    )
    categories: tuple[str, ...] = Option((), description="columns that are categories, one value of a node each")
    ignore: tuple[str, ...] = Option((), description="columns that are not read")
    missing: tuple[str, ...] = Option(
        (), description="texts or numbers that mean that nobody knows, beside empty cells and null"
    )


@dataclass(frozen=True)
class Nodes:
    """All nodes of a graph.

    Args:
        split: name -> places of its nodes. looks: (nodes, D) float32. own: how many of the D, the first ones, are numbers.
        tables: by split, what they look like as it was read, and its columns; None = `looks` is all there is.
    """

    graph: Graph
    split: Mapping[str, Ints]
    looks: Tensor
    own: int
    labels: Tensor
    classes: tuple[str, ...]
    facts: Mapping[str, Any]
    tables: tuple[Mapping[str, Table], Columns] | None = None

    def seen_from(self, ids: Collection[str]) -> Nodes:
        """With what is missing, and which categories there are, as these training nodes say."""
        if self.tables is None:
            return self
        tables, columns = self.tables
        train = tables["train"]
        told = train.at([i for i, name in enumerate(train.ids) if name in ids])
        return replace(self, looks=torch.cat([_looks(told, table, columns) for table in tables.values()]))


class EgoSplit:
    """Samples of `nodes`, `adjacency`, `mask` and `label`; ids are the nodes' names."""

    def __init__(self, nodes: Nodes, at: Ints, options: EgoOptions) -> None:
        self.ids = tuple(nodes.graph.ids[i] for i in at.tolist())
        self.labels = nodes.labels[torch.from_numpy(at)]
        self._nodes, self._at, self._size, self._hops = nodes, at, options.size, options.hops
        self._egos: dict[int, list[int]] = {}  # of those that were asked for: a training asks for each once an epoch

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        n, graph, looks = self._size, self._nodes.graph, self._nodes.looks
        for i in index:
            if i not in self._egos:
                self._egos[i] = graph.around(int(self._at[i]), n, self._hops)
        egos = [self._egos[i] for i in index]
        nodes = torch.zeros(len(egos), n, looks.shape[1])
        adjacency = torch.zeros(len(egos), n, n, dtype=torch.int64)
        mask = torch.zeros(len(egos), n, dtype=torch.int64)
        for row, ego in enumerate(egos):
            nodes[row, : len(ego)] = looks[ego]
            adjacency[row] = torch.from_numpy(graph.adjacency(ego, n))
            mask[row, : len(ego)] = 1
        label = self.labels[torch.as_tensor(list(index), dtype=torch.long)]
        tensors = {"nodes": nodes, "adjacency": adjacency, "mask": mask, "label": label}
        return Batch(tuple(self.ids[i] for i in index), tensors)


class GraphSource:
    """One graph, opened. Fields: `nodes` (N, D), in their own units, `adjacency` (N, N), `mask` (N,), `label`."""

    def __init__(self, nodes: Nodes, options: EgoOptions, ids: Collection[str] | None = None) -> None:
        """`ids`: of the training nodes that means are taken from; None = all of `train`."""
        self._nodes, self._options = nodes, options
        content = _content(nodes)
        nodes = nodes if ids is None else nodes.seen_from(set(ids))
        train = nodes.split["train"]
        wanted = None if ids is None else set(ids)
        at = [i for i in train.tolist() if wanted is None or nodes.graph.ids[i] in wanted]
        looks = nodes.looks[at, : nodes.own].double()
        mean = looks.mean(0)
        std = (looks - mean).square().mean(0).sqrt()
        rest = nodes.looks.shape[1] - nodes.own  # categories are 0 or 1 and stay so
        self._mean = (*mean.tolist(), *[0.0] * rest)
        self._std = (*torch.where(std > 1e-9 * mean.abs().clamp(min=1e-30), std, 1.0).tolist(), *[1.0] * rest)
        self._splits: dict[str, Split] = {name: EgoSplit(nodes, each, options) for name, each in nodes.split.items()}
        self._facts = {
            **nodes.facts,
            "classes": list(nodes.classes),
            "nodes": len(nodes.graph.ids),
            "edges": nodes.graph.n_edges,
            "ego": {"size": options.size, "hops": options.hops},
            "content": content,
        }

    @property
    def fields(self) -> tuple[Field, ...]:
        n = self._options.size
        return (
            Field("nodes", "nodes", (n, len(self._mean)), mean=self._mean, std=self._std),
            Field("adjacency", "adjacency", (n, n), "int64", n_values=2),
            Field("mask", "mask", (n,), "int64"),
            Field("label", "label", (), "int64", "target"),
        )

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._facts

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def split(self, name: str) -> Split:
        return split_of(self._splits, name)

    def measured_on(self, ids: Collection[str], labeled: Collection[str]) -> GraphSource:
        """The same graph, with means and deviations of these training nodes."""
        return GraphSource(self._nodes, self._options, ids)


class GraphData(Dataset[GraphOptions]):
    """A table of nodes, with a name, a class and numbers or categories, and a table of edges."""

    task = "node_classification"
    origin: ClassVar[Mapping[str, str]] = {"source": "the user's files", "licence": "the user's"}

    def preflight(self, services: Services) -> None:
        self.options.check(services)
        services.file(self.options.edges)

    def open(self, services: Services) -> DataSource:
        o = self.options
        tables = without_marks(read_tables(o, services), o.missing)
        beside = [name for name in (o.split, o.id) if name is not None]
        columns = told_apart(tables["train"], (o.target,), o.numbers, o.categories, [*o.ignore, *beside])
        check_no_nan(tables, o.target, "a class")  # here, as no option names classes
        target = read_target(tables, "class", (o.target,), None, None)
        ids = [sample for table in tables.values() for sample in table.ids]
        ends = np.cumsum([0, *(len(table) for table in tables.values())])
        split = {name: np.arange(ends[i], ends[i + 1]) for i, name in enumerate(tables)}
        looks = [_looks(tables["train"], table, columns) for table in tables.values()]
        edges = _edges(services, o, ids)
        nodes = Nodes(
            Graph.of(ids, edges),
            split,
            torch.cat(looks),
            len(columns.numbers),
            torch.cat([target.values[name] for name in tables]),
            target.names,
            {
                "name": "graph",
                **self.origin,
                "columns": {"numbers": list(columns.numbers), "categories": list(columns.categories)},
                "notes": columns.notes,
            },
            (tables, columns),
        )
        return GraphSource(nodes, o)


def _looks(train: Table, table: Table, columns: Columns) -> Tensor:
    """(N, D) float32: numbers, then a 1 for each category's value; all 0 of one that no training file's row has."""
    found = known(train, columns, 1)
    tensors = found.tensors(table)
    parts = [tensors["numbers"]] if "numbers" in tensors else []
    if "categories" in tensors:
        hot = torch.nn.functional.one_hot(tensors["categories"], found.n_ids).sum(1)
        unknown = list(found.first.values())
        parts.append(hot[:, [i for i in range(found.n_ids) if i not in unknown]].float())
    return torch.cat(parts, 1)


def _edges(services: Services, o: GraphOptions, ids: Sequence[str]) -> Ints:
    """(E, 2) places. Raise DataError for an end that is no node, with file and line."""
    if o.source == o.end:
        raise DataError(
            f"an edge begins and ends in column '{o.end}'", path="data.options.end", expected="two columns of names"
        )
    table = read_table(services.file(o.edges), TableFiles(path=o.edges, encoding=o.encoding, delimiter=o.delimiter))
    places = {name: i for i, name in enumerate(ids)}
    made = np.zeros((len(table), 2), np.int64)
    for k, column in enumerate((o.source, o.end)):
        for row, name in enumerate(table.categories(column)):
            if name not in places:
                problem = "is missing" if name is None else f"no node '{name}'"
                close = "" if name is None or len(ids) > 10_000 else nearest(name, ids)
                raise table.fault(row, column, problem, f"a name of column '{o.id}' in {o.path}", near=close)
            made[row, k] = places[name]
    return made


def _content(nodes: Nodes) -> str:
    digest = hashlib.sha256("\0".join(nodes.graph.ids).encode())
    for each in (*nodes.graph.neighbours, nodes.looks.numpy(), nodes.labels.numpy()):
        digest.update(np.ascontiguousarray(each).tobytes())
    return digest.hexdigest()


class BundledGraphOptions(EgoOptions):
    neighbours: int = Option(5, ge=1, le=100, description="most alike digits that each one is tied to")


class BundledGraph(Dataset[BundledGraphOptions]):
    """A derived graph: scikit-learn's 1,797 digits, each tied to those whose pixels point most nearly its way (cosine).

    Nodes look as the 64 pixels say; their class is the digit. One split: validation and test are held out of it.
    """

    task = "node_classification"

    def preflight(self, services: Services) -> None:
        package_file("bundled_graph", PACKAGES["digits"], DIGITS_8X8)

    def open(self, services: Services) -> DataSource:
        inked, labels = pixels_and_labels("bundled_graph")  # (N, 64) of 0..16
        unit = inked / np.linalg.norm(inked, axis=1, keepdims=True)
        alike = np.round(unit @ unit.T, 9)  # so that no order hangs on the last bit of a sum
        np.fill_diagonal(alike, -2.0)
        k = self.options.neighbours
        nearest_k = np.argsort(-alike, axis=1, kind="stable")[:, :k]
        edges = np.stack([np.repeat(np.arange(len(inked)), k), nearest_k.reshape(-1)], 1)
        ids = tuple(f"digits-{i:04d}" for i in range(len(inked)))
        facts = {
            "name": "bundled_graph",
            "source": "UCI ML Repository: Optical Recognition of Handwritten Digits (Alpaydin, Kaynak 1998), in "
            "scikit-learn; edges derived",
            "licence": "CC BY 4.0 (UCI); scikit-learn BSD-3-Clause",
        }
        nodes = Nodes(
            Graph.of(ids, edges),
            {"train": np.arange(len(ids))},
            torch.from_numpy(inked.astype(np.float32)),
            inked.shape[1],
            torch.from_numpy(labels),
            tuple("0123456789"),
            facts,
        )
        return GraphSource(nodes, self.options)
