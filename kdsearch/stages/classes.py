"""What ships, by the groups of classes that its phases taught it, on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.engine.forgetting import by_classes
from kdsearch.engine.measured import values_of
from kdsearch.kinds import Measurement, Predict, Services
from kdsearch.training.materials import Materials


def classes_on_test(
    materials: Materials, predict: Predict, services: Services, history: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """`new`, `old`, `all` and `phases` as after the last phase that taught classes; None where none did.

    history: rows of the training that it is from.
    """
    taught = [row["classes"]["of"] for row in history if "classes" in row]
    if not taught:
        return None
    metric = materials.metrics[materials.objective]
    found = values_of(materials.objective, metric, predict, materials.data, "test", services)
    assert isinstance(found, Measurement)
    assert found.of_classes is not None
    groups = by_classes(found.of_classes, taught[-1], [], metric.direction)
    return {name: value for name, value in groups.items() if name != "forgotten"}
