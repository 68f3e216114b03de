"""Task `node_classification`: the class of a node, from the graph around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.builtin.classification import Classification
from kdsearch.errors import DataError
from kdsearch.kinds import IO, Field

READS = {"nodes": "(N, D) floats", "adjacency": "(N, N) integers", "mask": "(N,) integers"}


class NodeClassification(Classification):
    """Reads `nodes` (B, N, D), `adjacency` (B, N, N) and `mask` (B, N): a padded ego-graph a sample, whose first node is the one
    that `label` (B,) is of. Answers `logits` (B, K); loss and metrics are those of classification.
    """

    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> IO:
        """Raise DataError without one of the three inputs, and as classification does."""
        kinds = {each.kind: each for each in fields if each.use == "input"}
        missing = [kind for kind in READS if kind not in kinds]
        if missing:
            has = ", ".join(f"{each.name} ({each.kind}, {each.dtype})" for each in fields) or "no field"
            raise DataError(
                f"node_classification: the data set has {has}", expected=f"{missing[0]} {READS[missing[0]]} too"
            )
        found = super().io(fields, facts)
        return IO(tuple(kinds[kind] for kind in READS), found.outputs)
