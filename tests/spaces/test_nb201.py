import csv
import gzip
from collections import defaultdict
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kdsearch_spaces.cifar_resnet.resnet64 import ResNet64Space
from kdsearch_spaces.nb201.cells import OPS, expression, read, representatives, written
from kdsearch_spaces.nb201.net import Cell
from kdsearch_spaces.nb201.space import Nb201Space, Nb201Spec

from kdsearch.errors import StudyError
from kdsearch.testing.space import SearchSpaceContract

ALL_3X3 = ("nor_conv_3x3",) * 6
cells = st.tuples(*[st.sampled_from(OPS)] * 6)


class TestNb201(SearchSpaceContract):
    space = Nb201Space
    spec: ClassVar = {"width": 4, "cells": 1}


class TestResNet64(SearchSpaceContract):
    space = ResNet64Space


def test_the_all_3x3_cell_costs_what_the_benchmark_says():
    space = Nb201Space()
    cost = space.cost(Nb201Spec(edges=ALL_3X3), space.example_io())
    assert cost.params == 1_531_546
    assert cost.macs + 10 == 220_119_690  # the benchmark counts the bias of the classifier


@given(edges=cells, width=st.sampled_from([3, 4]), n=st.integers(1, 2))
@settings(max_examples=20, deadline=None)
def test_params_and_macs_are_the_built_network_s(edges, width, n):
    from kdsearch.deploy.cost import count

    space = Nb201Space()
    spec = Nb201Spec(edges=edges, width=width, cells=n)
    assert space.cost(spec, space.example_io()) == count(space.build(spec, space.example_io()), space.example_io())


def test_all_cells_are_6466_classes_and_those_of_the_table(ground_truth):
    file = ground_truth("nb201_cifar10.csv.gz")
    assert len(representatives()) == 6466
    space, classes = Nb201Space(), defaultdict(set)
    with gzip.open(file, "rt") as stream:
        for row in csv.DictReader(stream):
            spec = space.decode(row["arch"])
            classes[space.key(spec)].add(row["iso_class"])
            cost = space.cost(spec, space.example_io())
            assert (cost.params, cost.macs + 10) == (int(row["params"]), int(row["macs"]))
    assert len(classes) == 6466
    assert all(len(each) == 1 for each in classes.values())


def test_the_table_s_landmarks(ground_truth):
    file = ground_truth("nb201_cifar10.csv.gz")
    with gzip.open(file, "rt") as stream:
        rows = list(csv.DictReader(stream))
    teacher = Nb201Space().encode(Nb201Space().teacher_spec())
    assert rows[9930]["arch"] == teacher
    assert float(rows[9930]["cifar10"]) == pytest.approx(94.363, abs=1e-3)
    best = max(range(len(rows)), key=lambda i: float(rows[i]["cifar10"]))
    assert (best, float(rows[best]["cifar10"])) == (6111, pytest.approx(94.373, abs=1e-3))
    skip = next(row for row in rows if row["arch"] == written(("skip_connect",) * 6))
    assert float(skip["cifar10"]) == pytest.approx(54.30, abs=1e-2)


@given(cells)
@settings(max_examples=50, deadline=None)
def test_text_is_read_as_written(edges):
    assert read(written(edges)) == edges
    assert Nb201Space().decode(written(edges)).edges == edges


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("|nor_conv_3x4~0|+|none~0|none~1|+|none~0|none~1|none~2|", "did you mean 'nor_conv_3x3'"),
        ("|none~0|+|none~1|none~0|+|none~0|none~1|none~2|", "is no cell"),
        ("|none~0|", "is no cell"),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|x", "is no cell"),
        ("", "is no cell"),
        ("{}x", "is no architecture"),
    ],
)
def test_what_is_no_cell_is_named(text, message):
    with pytest.raises(StudyError, match=message):
        Nb201Space().decode(text)


def test_expressions_by_hand():
    none, skip, conv = "none", "skip_connect", "nor_conv_3x3"
    assert expression((conv, none, conv, none, none, skip)) == "#+#+#+((0)@nor_conv_3x3)@nor_conv_3x3"
    assert expression((none,) * 6) == "#+#+#"
    assert expression((skip,) * 6) == "0+0+0+0"


@given(cells)
@settings(max_examples=30, deadline=None)
def test_the_canonical_cell_computes_the_same_up_to_shared_weights(edges):
    """With every convolution replaced by one fixed function of its kind, both cells are the same function."""
    space = Nb201Space()
    canonical = space.canonical(Nb201Spec(edges=edges)).edges
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.manual_seed(1)
    kernels = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
    kinds = {op: torch.nn.Conv2d(3, 3, k, padding=k // 2, bias=False).double() for op, k in kernels.items()}
    outs = []
    for ops in (edges, canonical):
        cell = Cell(3, ops).double()
        for (_, module), op in zip(list(cell.edges.items()), [op for op in ops if op != "none"], strict=True):
            if op in kinds:
                module[1] = kinds[op]
                module[2] = torch.nn.Identity()
        outs.append(cell(x))
    assert torch.allclose(*outs)


@pytest.mark.parametrize(("text", "depths"), [("713", (7, 1, 3)), ("7,1,3", (7, 1, 3)), ("18,18,18", (18, 18, 18))])
def test_a_resnet_by_its_name(text, depths):
    space = ResNet64Space()
    assert space.decode(text).depths == depths
    assert space.cost(space.decode("713"), space.example_io()).params == 259_892 - 90 * 65


@pytest.mark.parametrize("text", ["7133", "7,1", "a", "7;1;3"])
def test_what_is_no_resnet_is_named(text):
    with pytest.raises(StudyError, match="three depths"):
        ResNet64Space().decode(text)


def test_the_resnet_table_s_costs(ground_truth):
    with ground_truth("resnet64_dev.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    from kdsearch.kinds import IO, Field

    io = IO((Field("image", "image", (3, 32, 32)),), (Field("logits", "logits", (100,)),))
    for row in rows:
        cost = ResNet64Space().cost(ResNet64Space().decode(",".join(row[name] for name in ("d1", "d2", "d3"))), io)
        assert (cost.params, cost.macs) == (int(row["params"]), int(row["macs"]))
