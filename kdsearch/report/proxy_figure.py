"""Does a proxy rank networks as short trials do? One small panel a proxy, with Kendall's tau, beside parameter count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.kinds.figure import Figure, Table
from kdsearch.report.charts import Spec, axis, chart, number_format, tips, upright, zoom
from kdsearch.report.quality import Quality, quality_of
from kdsearch.report.stats import tau_noise
from kdsearch.report.trials import UNITS, cost_of, declared
from kdsearch.report.values import MISSING, general, mapping, number, plain, rows, short
from kdsearch.report.words import architecture
from kdsearch.search.agreement import kendall_tau

Row = Mapping[str, Any]
BASELINE = "params"  # every proxy is judged beside it
COUNTS = (BASELINE, "macs")  # a search scores them as logarithms, which are in the same order
LEAST = 5  # of fewer networks no order can be told from chance: tau's spread is above 0.4


def once(finals: Sequence[Row]) -> list[Row]:
    """One row a network, the best of its trials: one that several recipes were tried with has the same scores in each."""
    best: dict[object, tuple[float, Row]] = {}
    for at, final in enumerate(finals):
        quality = quality_of(final)
        gain = -math.inf if quality.value is None else quality.value if quality.up else -quality.value
        name = plain(final["architecture"]) if final.get("architecture") else at
        if name not in best or gain > best[name][0]:
            best[name] = gain, final
    return [final for _, final in best.values()]


def with_counts(finals: Sequence[Row], others: Sequence[Row]) -> list[dict[str, float | None]]:
    """The scores of each final. Of COUNTS not their logarithms but what the row itself counts, or that of the same architecture
    elsewhere."""
    named = {plain(row["architecture"]): row for row in others if row.get("architecture")}
    made = []
    for final in finals:
        scores = {plain(name): number(value) for name, value in mapping(final.get("scores")).items()}
        known = [final, named.get(plain(final.get("architecture")), {})]
        for name in COUNTS:
            if name in scores or name == BASELINE:
                scores[name] = next((n for row in known if (n := cost_of(row, name)) is not None), None)
        made.append(scores)
    return made


def agreement(scores: Sequence[float | None], gains: Sequence[float | None]) -> tuple[float | None, int]:
    """Tau-b over the networks that have both numbers, and how many those are."""
    both = [(s, a) for s, a in zip(scores, gains, strict=True) if s is not None and a is not None]
    tau = kendall_tau([s for s, _ in both], [a for _, a in both]) if len(both) > 1 else None
    return tau, len(both)


def tau_text(tau: float | None, n: int) -> str:
    return f"τ = {tau:+.2f}, n = {n}" if tau is not None else f"τ undefined, n = {n}"


def proxy_panel(
    name: str,
    finals: Sequence[Row],
    scores: Sequence[float | None],
    values: Sequence[float | None],
    said: str,
    goal: Quality,
    at: int,
) -> Spec:
    """A mark for every final that has a score and a value."""
    found: list[dict[str, Any]] = [
        {"x": score, "y": value, "name": short(architecture(final.get("architecture")), 90)}
        for final, score, value in zip(finals, scores, values, strict=True)
        if score is not None and value is not None
    ]
    title = UNITS[name] if name in COUNTS else f"score of {short(name, 24)}"
    x = axis("x", title, [row["x"] for row in found], log=name in COUNTS)
    y = upright(axis("y", goal.name, [row["y"] for row in found], share=goal.share))
    tooltip = tips(("name", " "), ("x", title, ",.5~g"), ("y", goal.name, number_format(goal.name, goal.share)))
    mark = {"mark": {"type": "point", "color": "#22609f"}, "encoding": {"x": x, "y": y, "tooltip": tooltip}}
    return chart(
        f"{short(goal.name, 24)}; {said}",
        f"{len(found)} networks, {short(name, 40)} against {goal.name} after a short trial; Kendall's {said}.",
        found,
        [{"params": [zoom(f"proxy{at}")], **mark}],
        190,
    )


def verdict(taus: Mapping[str, tuple[float | None, int]]) -> str:
    """One plain sentence on whether any proxy ranked better than counting parameters."""
    base = taus.get(BASELINE, (None, 0))[0]
    n = max(count for _, count in taus.values())
    ranked = {name: tau for name, (tau, _) in taus.items() if tau is not None and name != BASELINE}
    if not ranked:
        return "No proxy has a Kendall tau here: too few networks, or all alike."
    noise = (
        f" Over {n} networks, scores that know nothing scatter by ±{tau_noise(n):.2f} around zero: "
        "differences of that size say little."
    )
    if base is None:
        return "Parameter count has no Kendall tau to compare with." + noise
    better = sorted((name for name, tau in ranked.items() if tau > base), key=lambda name: -ranked[name])
    listed = ", ".join(f"{short(name, 40)} ({ranked[name]:+.2f})" for name in better)
    if not better:
        return f"No proxy ranked these networks better than their parameter count (τ = {base:+.2f})." + noise
    return f"Above parameter count (τ = {base:+.2f}): {listed}." + noise


def proxy_figure(result: Row, evidence: Row) -> Figure:
    """One panel a proxy, the baseline last; none where there are too few networks to tell an order."""
    finals = once(rows(evidence.get("finals")))
    scores = with_counts(finals, [*rows(evidence.get("candidates")), *rows(evidence.get("trials"))])
    names = [name for name in dict.fromkeys(name for each in scores for name in each) if name != BASELINE]
    names += [BASELINE] if any(each.get(BASELINE) is not None for each in scores) else []
    measured = [quality_of(final) for final in finals]
    values = [each.value for each in measured]
    named = next(iter(declared(evidence)), "the result")
    goal = next((each for each in measured if each.value is not None), Quality(named, None))
    gains = [value if value is None or goal.up else -value for value in values]
    taus = {name: agreement([each.get(name) for each in scores], gains) for name in names}
    judged = bool(taus) and max(n for _, n in taus.values()) >= LEAST
    tried = sum(value is not None for value in values)
    chosen_by = f" The search chose by {short(evidence['proxy'], 40)}." if evidence.get("proxy") else ""
    body = [
        [architecture(final.get("architecture")), goal.write(value), *(general(each.get(name)) for name in names)]
        for final, value, each in zip(finals, values, scores, strict=True)
    ]
    foot = ["Kendall tau", "", *(MISSING if (tau := taus[name][0]) is None else f"{tau:+.3f}" for name in names)]
    return Figure(
        "proxies",
        f"Proxy scores against {goal.name} after short trials, on validation",
        "Each panel asks whether a score computed without training orders the networks that were tried as their short trials did, "
        "each at the best of its own. Kendall's τ is 1 for the same order, 0 for none. Parameter count is the baseline that costs "
        f"nothing.{chosen_by}"
        if judged
        else "",
        [
            proxy_panel(name, finals, [each.get(name) for each in scores], values, tau_text(*taus[name]), goal, at)
            for at, name in enumerate(names)
        ]
        if judged
        else (),
        [
            Table(
                f"{len(finals)} networks, each at the best of its short trials, on validation",
                ["architecture", goal.name, *names],
                [*body, foot] if judged else body,
            )
        ]
        if finals
        else (),
        (verdict(taus),) if judged else (),
        missing=f"Different networks that were tried to the end: {tried}, too few to judge a proxy, which takes {LEAST}."
        if tried
        else "No network has both proxy scores and the result of a trial, so the proxies cannot be judged.",
    )
