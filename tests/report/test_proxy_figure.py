"""What the page says of proxies: whether they order the networks as their short trials did."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from kdsearch.report.proxy_figure import proxy_figure


def final(name: str, params: int, accuracy: float, **scores: float) -> dict[str, Any]:
    """A network of `name`, whose counts a search scores as logarithms."""
    logs = {"params": math.log(params), "macs": math.log(9 * params)}
    counts = {"params": params, "macs": 9 * params}
    return {"architecture": name, **counts, "scores": {**scores, **logs}, "accuracy": accuracy}


def test_parameters_and_macs_are_counted_not_their_logarithms() -> None:
    finals = [
        final(name, n, at / 10) for at, (name, n) in enumerate(zip("abcde", (100, 300, 200, 500, 400), strict=True))
    ]
    figure = proxy_figure({}, {"finals": finals})
    macs, params = figure.panels
    titles = [panel["layer"][0]["encoding"]["x"]["title"] for panel in (macs, params)]
    assert titles == ["MACs", "parameters"]
    assert [row["x"] for row in params["data"]["values"]] == [100, 300, 200, 500, 400]
    assert [row["x"] for row in macs["data"]["values"]] == [900, 2700, 1800, 4500, 3600]
    assert macs["title"] == params["title"] == "accuracy; τ = +0.60, n = 5", (
        "8 pairs of 10 are in order, as of logarithms"
    )
    (table,) = figure.tables
    assert [row[2:] for row in table.rows][1] == ["2,700", "300"]
    bare = [
        {key: each[key] for key in ("architecture", "scores", "accuracy")} for each in finals
    ]  # of a folder of before
    assert proxy_figure({}, {"finals": bare, "trials": finals}).panels == figure.panels


@pytest.mark.parametrize("way", ["max", "min"])
def test_a_network_counts_once_at_the_best_of_its_trials(way: str) -> None:
    """However many recipes it was tried with: their rows have the same scores."""
    sign = 1 if way == "max" else -1
    values = {"a": (0.1, 0.2), "b": (0.9, 0.3), "c": (0.4,), "d": (0.5, 0.1, 0.2), "e": (0.6,)}
    finals = [
        {
            **final(name, 10 * at, 0.0, auto=float(at)),
            "quality": {"metric": "m", "value": sign * each, "direction": way},
        }
        for at, (name, own) in enumerate(values.items(), 1)
        for each in own
    ]
    figure = proxy_figure({}, {"finals": finals, "proxy": "auto"})
    auto = figure.panels[0]
    assert [row["y"] for row in auto["data"]["values"]] == [sign * max(own) for own in values.values()]
    assert auto["title"] == "m; τ = +0.40, n = 5", "7 pairs of 10 are in order"
    assert "Over 5 networks" in figure.notes[0]
    assert figure.title == "Proxy scores against m after short trials, on validation"
    assert "The search chose by auto." in figure.says
    assert [row[0] for row in figure.tables[0].rows] == [*"abcde", "Kendall tau"]
    assert figure.tables[0].caption.startswith("5 networks")
    few = proxy_figure({}, {"finals": [each for each in finals if each["architecture"] != "e"]})
    assert few.panels == (), "8 trials, of 4 networks"
    assert re.search(r"\b4, too few", few.missing)
