"""What a search minimises beside the score."""

import pytest

from kdsearch.stages.search import search_costs


@pytest.mark.parametrize(
    ("objectives", "costs"),
    [
        (["accuracy"], []),
        (["accuracy", "params"], ["params"]),
        (["macs", "accuracy", "params"], ["params", "macs"]),
        (["accuracy", "latency_ms"], ["macs"]),
        (["accuracy", "latency_ms", "macs"], ["macs"]),
        (["accuracy", "latency_ms", "params"], ["params", "macs"]),
        (["accuracy", "onnx_bytes"], ["params"]),
    ],
)
def test_costs_are_those_a_formula_knows_or_what_stands_in(objectives: list[str], costs: list[str]) -> None:
    assert search_costs(objectives) == costs
