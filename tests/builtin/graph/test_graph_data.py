"""Graphs of the user's own: which nodes go along, which may tell nothing, and what is refused."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdsearch.builtin.graph.data import BundledGraph, BundledGraphOptions, EgoSplit, GraphData, GraphOptions
from kdsearch.builtin.graph.egos import Graph
from kdsearch.builtin.graph.task import NodeClassification
from kdsearch.engine.splits import arrange
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Batch, Field
from kdsearch.testing.dataset import DatasetContract, FileServices
from kdsearch.testing.task import TaskContract
from kdsearch.testing.training import TensorSource

NAMES = [f"n{i:02d}" for i in range(12)]
EDGES = [(i, (i + 1) % 12) for i in range(12)] + [
    (0, 6),
    (0, 4),
    (6, 0),
    (3, 3),
]  # a ring with two chords, one of them twice


def written(folder, edges=EDGES, order=None, **changes):
    order = order or range(12)
    with (folder / "nodes.csv").open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["name", "age", "kind", "class"])
        out.writerows([NAMES[i], i if i != 2 else "", "ab"[i % 2], "" if i == 5 else "xy"[i % 3 == 0]] for i in order)
    with (folder / "edges.csv").open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["source", "target"])
        out.writerows([NAMES[a], NAMES[b]] for a, b in edges)
    return GraphData(
        GraphOptions(
            **{"path": "nodes.csv", "edges": "edges.csv", "id": "name", "target": "class", "size": 6, **changes}
        )
    )


class TestGraph(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path):
        return written(tmp_path)


class TestBundled(DatasetContract):
    @pytest.fixture
    def dataset(self):
        return BundledGraph(BundledGraphOptions(size=8))


class TestNodeClassification(TaskContract):
    task = NodeClassification

    def source(self):
        n, rng = 16, torch.Generator().manual_seed(0)
        fields = [
            Field("nodes", "nodes", (5, 3)),
            Field("adjacency", "adjacency", (5, 5), "int64", n_values=2),
            Field("mask", "mask", (5,), "int64"),
        ]
        columns = {each.name: each.noise(n, rng) for each in fields}
        made = TensorSource({"train": {**columns, "label": torch.arange(n) % 4}})
        made._fields = (*fields, Field("label", "label", (), "int64", "target"))
        return made


def test_an_ego_graph_is_the_node_then_ring_by_ring():
    graph = Graph.of(NAMES, np.array(EDGES))
    assert graph.n_edges == 14
    assert graph.around(9, 12, 1)[0] == 9
    assert set(graph.around(9, 12, 1)) == {9, 8, 10}
    assert set(graph.around(9, 12, 2)) == {9, 8, 10, 7, 11}
    few = graph.around(0, 4, 2)
    assert few[0] == 0
    assert set(few[1:]) <= {1, 11, 6, 4}
    a = graph.adjacency([0, 6, 5, 4], 5)
    expected = np.zeros((5, 5), int)
    for i, j in [(0, 1), (0, 3), (1, 2), (2, 3)]:
        expected[i, j] = expected[j, i] = 1
    np.testing.assert_array_equal(a, expected)


def test_a_node_is_in_an_ego_graph_once_however_many_ways_lead_to_it():
    """A square whose corners are all tied, and a tail."""
    edges = np.array([[0, 1], [0, 2], [1, 2], [1, 3], [2, 3], [0, 3], [3, 4]])
    graph = Graph.of([f"n{i}" for i in range(5)], edges)
    assert graph.n_edges == 7
    for hops in (1, 2, 3):
        assert sorted(graph.around(0, 10, hops)) == ([0, 1, 2, 3] if hops == 1 else [0, 1, 2, 3, 4])
    assert Graph.of(["a", "b"], np.zeros((0, 2), np.int64)).around(0, 3, 2) == [0]


def test_which_neighbours_fit_is_told_by_a_digest_of_both_names():
    graph = Graph.of([f"n{i}" for i in range(9)], np.array([[0, i] for i in range(1, 9)]))
    digests = {i: hashlib.blake2b(f"n0\0n{i}".encode(), digest_size=8).digest() for i in range(1, 9)}
    assert graph.around(0, 4, 2) == [0, *sorted(digests, key=digests.__getitem__)[:3]]


class Few(np.ndarray):
    """Neighbours that are listed where they are few."""

    def tolist(self):
        assert len(self) <= 5
        return super().tolist()


def test_the_neighbours_of_a_hub_are_not_gone_through():
    """Node 0 is tied to all 299 others, each of which is tied to the next one."""
    ring = np.stack([np.arange(1, 300), np.roll(np.arange(1, 300), -1)], 1)
    edges = np.concatenate([np.stack([np.zeros(299, np.int64), np.arange(1, 300)], 1), ring])
    graph = Graph.of([f"n{i}" for i in range(300)], edges)
    whole = np.zeros((300, 300), np.int64)
    whole[edges[:, 0], edges[:, 1]] = whole[edges[:, 1], edges[:, 0]] = 1
    guarded = replace(graph, neighbours=tuple(each.view(Few) for each in graph.neighbours))
    for few in ([7, 0, 299, 8, 1], [299, 0, 1], [0, 5, 9], [5, 0, 9, 100]):
        expected = np.zeros((5, 5), np.int64)
        expected[: len(few), : len(few)] = whole[np.ix_(few, few)]
        np.testing.assert_array_equal(guarded.adjacency(few, 5), expected)
    own = {7: graph.neighbours[7]}
    assert len(replace(graph, neighbours=own).around(7, 4, 8)) == 4, "with its own three it is full"


def test_samples_do_not_depend_on_the_order_of_rows(tmp_path):
    one = written(tmp_path).open(FileServices(tmp_path)).split("train")
    batch = one.load(range(12))
    two = written(tmp_path, EDGES[::-1], range(11, -1, -1)).open(FileServices(tmp_path)).split("train")
    again = two.load([two.ids.index(name) for name in one.ids])
    for name, value in batch.tensors.items():
        assert torch.equal(value, again[name]), name


def test_nodes_look_as_their_row_says(tmp_path):
    source = written(tmp_path).open(FileServices(tmp_path))
    batch = source.split("train").load([1, 2])
    mean = float(np.mean([i for i in range(12) if i != 2]))
    np.testing.assert_allclose(batch["nodes"][:, 0], [[1, 0, 1], [mean, 1, 0]], rtol=1e-6)
    assert batch["mask"].sum(1).tolist() == [6, 5]
    assert source.split("train").labels.tolist()[5] == HIDDEN
    nodes = source.fields[0]
    assert (nodes.mean[1:], nodes.std[1:]) == ((0, 0), (1, 1))


def test_no_sample_tells_another_node_s_class(tmp_path):
    """Inputs are the same whatever the classes are."""
    source = written(tmp_path).open(FileServices(tmp_path))
    split = source.split("train")
    assert isinstance(split, EgoSplit)
    before = split.load(range(12))
    split._nodes.labels[:] = 0
    after = EgoSplit(split._nodes, split._at, source._options).load(range(12))
    assert all(torch.equal(before[name], after[name]) for name in ("nodes", "adjacency", "mask"))


def test_means_are_of_training_nodes(tmp_path):
    data = arrange(written(tmp_path).open(FileServices(tmp_path)), labeled=1.0, validation=0.2, test=0.3, seed=0)
    train = data.split("train")
    looks = train.load(range(len(train.ids)))["nodes"][:, 0, 0].numpy()
    assert data.fields[0].mean[0] == pytest.approx(looks.mean(), rel=1e-6)


def test_a_class_nan_is_refused_unless_it_is_missing(tmp_path):
    dataset = written(tmp_path)
    text = (tmp_path / "nodes.csv").read_text().replace("n05,5,b,", "n05,5,b,nan")
    (tmp_path / "nodes.csv").write_text(text)
    with pytest.raises(DataError, match=r"nodes.csv:7: column 'class': got 'nan'. Expected a class. .* knows\.$"):
        dataset.open(FileServices(tmp_path))
    known = written(tmp_path, missing=("nan",))
    (tmp_path / "nodes.csv").write_text(text)
    assert known.open(FileServices(tmp_path)).facts["classes"] == ["x", "y"]


def test_what_is_missing_and_which_categories_there_are_is_told_by_training_nodes(tmp_path):
    """The third node's age is not known; `c` is a kind of the last one alone."""
    dataset = written(tmp_path)
    rows = (tmp_path / "nodes.csv").read_text().splitlines()
    rows[12] = rows[12].replace(",b,", ",c,")
    (tmp_path / "nodes.csv").write_text("\n".join(rows) + "\n")
    source = dataset.open(FileServices(tmp_path))
    told = source.measured_on(NAMES[:5], NAMES[:5])
    split = told.split("train")
    looks = split.load([2, 11])["nodes"][:, 0]
    assert looks[0, 0] == pytest.approx((0 + 1 + 3 + 4) / 4)
    assert looks[1].tolist() == [11.0, 0.0, 0.0], "a kind that nobody told of"
    assert told.fields[0].sizes == (told.split("train").load([0])["nodes"].shape[1:])
    assert told.facts["content"] == source.facts["content"]


def test_small_units_are_standardised_and_constants_are_not(tmp_path):
    """Ages in units of 1e-12, all of them beside one number that is the same everywhere."""
    data = written(tmp_path)
    text = (tmp_path / "nodes.csv").read_text().splitlines()
    rows = [row.split(",") for row in text[1:]]
    small = [",".join([name, age and f"{age}e-12", kind, of, "0.1"]) for name, age, kind, of in rows]
    (tmp_path / "nodes.csv").write_text("\n".join([f"{text[0]},same", *small]))
    field = data.open(FileServices(tmp_path)).fields[0]
    ages = np.array([float(age) if age else np.nan for _, age, _, _ in rows])
    ages[np.isnan(ages)] = np.nanmean(ages)
    assert field.std[0] == pytest.approx(ages.std() * 1e-12, rel=1e-5)
    assert field.std[1] == 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"edges": [(0, 1)], "target": "clas"}, "no column 'clas'; did you mean 'class'?"),
        ({"edges": [(0, 1)], "source": "from"}, "edges.csv: no column 'from'"),
        ({"edges": [(0, 1)], "id": "kind"}, "nodes.csv:4: column 'kind': id 'a' occurs twice"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changes, said):
    edges = changes.pop("edges")
    with pytest.raises(DataError) as found:
        written(tmp_path, edges, **changes).open(FileServices(tmp_path))
    assert said in str(found.value)


def test_an_edge_to_no_node_is_named_with_its_line(tmp_path):
    dataset = written(tmp_path)
    with (tmp_path / "edges.csv").open("a") as stream:
        stream.write("n01,n1\n")
    with pytest.raises(DataError, match=r"edges\.csv:18: column 'target': no node 'n1'; did you mean 'n1[01]'\?"):
        dataset.open(FileServices(tmp_path))


def test_data_that_are_no_graph_are_refused():
    with pytest.raises(DataError, match=r"^node_classification: the data set has image .*Expected nodes"):
        NodeClassification(NodeClassification.options_class()).io((Field("image", "image", (3, 8, 8)),), {})


def test_the_bundled_graph_ties_a_digit_to_its_like():
    source = BundledGraph(BundledGraphOptions(neighbours=3)).open(None)
    split = source.split("train")
    nodes = split._nodes
    same = [
        float((nodes.labels[each] == nodes.labels[i]).float().mean()) for i, each in enumerate(nodes.graph.neighbours)
    ]
    assert np.mean(same) > 0.9
    assert all(len(each) >= 3 for each in nodes.graph.neighbours)
    assert isinstance(split.load([0]), Batch)
