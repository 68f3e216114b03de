"""Cells as text and as classes of isomorphic ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import product

from kdsearch.errors import StudyError, nearest, one_of
from kdsearch_spaces.nb201.net import EDGES

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
Ops = tuple[str, str, str, str, str, str]
ZERO = "#"  # what no path reaches
WEIGHT = {"nor_conv_3x3": 9, "nor_conv_1x1": 1}  # of a convolution, in weights a channel pair
_EDGE = re.compile(r"([a-z0-9_]+)~(\d+)")


def written(ops: Sequence[str]) -> str:
    """The benchmark's text: `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`."""
    texts = [f"{op}~{source}" for (_, source), op in zip(EDGES, ops, strict=True)]
    return f"|{texts[0]}|+|{texts[1]}|{texts[2]}|+|{texts[3]}|{texts[4]}|{texts[5]}|"


def read(text: str) -> Ops:
    """The inverse of `written`; raise StudyError for anything else."""
    edges = _EDGE.findall(text)
    for op, _ in edges:
        if op not in OPS:
            raise StudyError(f"unknown operation '{op}' in '{text}'", nearest=nearest(op, OPS), expected=one_of(OPS))
    a, b, c, d, e, f = ops if len(ops := [op for op, _ in edges]) == len(EDGES) else ("",) * len(EDGES)
    found = (a, b, c, d, e, f)
    if written(found) != text:
        raise StudyError(f"'{text[:160]}' is no cell", expected="|op~0|+|op~0|op~1|+|op~0|op~1|op~2|")
    return found


def expression(ops: Sequence[str]) -> str:
    """The cell's output as a sum of paths: `none` is zero, `skip_connect` is nothing, sums are sorted.

    Cells of equal expression are isomorphic (section 2.1 of the paper: 6,466 classes). A value that is used twice is written out
    twice, so that a convolution shared by two paths and two convolutions, one a path, are one class.
    """
    of, nodes = dict(zip(EDGES, ops, strict=True)), ["0"]
    for node in (1, 2, 3):
        nodes.append("+".join(sorted(_term(nodes[source], of[node, source]) for source in range(node))))
    return nodes[3]


def _term(given: str, op: str) -> str:
    if op == "none" or given == ZERO:
        return ZERO
    return given if op == "skip_connect" else f"({given})@{op}"


@cache
def representatives() -> dict[str, Ops]:
    """expression -> the cheapest cell of the class, the first one in the order of OPS among equals."""
    found: dict[str, tuple[int, Ops]] = {}
    for ops in product(OPS, OPS, OPS, OPS, OPS, OPS):
        text, weight = expression(ops), sum(WEIGHT.get(op, 0) for op in ops)
        if text not in found or weight < found[text][0]:
            found[text] = (weight, ops)
    return {text: ops for text, (_, ops) in found.items()}
