"""What the page says of proxies: whether they order the networks as their short trials did."""

from __future__ import annotations

import math
from typing import Any

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
