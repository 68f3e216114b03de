"""The one door to a metric: its values, its own among them under its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdsearch.errors import PluginError
from kdsearch.kinds import DataSource, Metric, Predict, Services


def values_of(
    name: str, metric: Metric[Any], predict: Predict, data: DataSource, split: str, services: Services
) -> dict[str, float]:
    """A metric's values on a split, as it gives them. Raise PluginError where none has its name, and what it raises itself."""
    found = metric.measure(predict, data, split, services)
    check_named(name, metric, found)
    return found


def check_named(name: str, metric: Metric[Any], values: Mapping[str, float]) -> None:
    if name not in values:
        problem = f"metric '{name}' ({type(metric).__module__}:{type(metric).__qualname__}) gives {', '.join(values)}"
        raise PluginError(problem, expected=f"'{name}', the name that it is registered by, among them")
