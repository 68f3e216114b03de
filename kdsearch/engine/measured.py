"""The one door to a metric: its values, its own among them under its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdsearch.errors import PluginError
from kdsearch.kinds import DataSource, Metric, Predict, Services


def values_of(
    name: str, metric: Metric[Any], predict: Predict, data: DataSource, split: str, services: Services
) -> dict[str, float]:
    """A metric's values on a split, as it gives them. Raise what `check_values` does, and what it raises itself."""
    found = metric.measure(predict, data, split, services)
    check_values(name, metric, found)
    return found


def check_values(name: str, metric: Metric[Any], values: Any) -> None:
    """Raise PluginError, naming the metric, where these are no numbers by name, or its own name is not among them."""
    who = f"metric '{name}' ({type(metric).__module__}:{type(metric).__qualname__})"
    if not isinstance(values, Mapping):
        raise PluginError(f"{who} gives a {type(values).__name__}", expected="values by name")
    if name not in values:
        problem = f"{who} gives {', '.join(map(str, values)) or 'nothing'}"
        raise PluginError(problem, expected=f"'{name}', the name that it is registered by, among them")
    for each, value in values.items():
        if not hasattr(value, "__float__"):
            raise PluginError(f"{who} gives {value!r} as '{each}'", expected="a number")
