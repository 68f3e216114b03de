"""Does a proxy rank students as training does? One small panel a proxy, with Kendall's tau, beside parameter count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch.report.figure import Figure
from kdsearch.report.stats import tau_b, tau_noise
from kdsearch.report.svg import Frame, axes, drawing, mark, scale_of
from kdsearch.report.trials import cost_of
from kdsearch.report.values import MISSING, esc, general, mapping, metric, number, plain, rows, short, table

Row = Mapping[str, Any]
BASELINE = "params"  # every proxy is judged beside it


def with_params(finals: Sequence[Row], others: Sequence[Row]) -> list[dict[str, float | None]]:
    """The scores of each final, `params` filled in from the row itself or from the same architecture elsewhere."""
    named = [row for row in others if row.get("architecture")]
    known = {plain(row["architecture"]): cost_of(row, BASELINE) for row in named}
    made = []
    for final in finals:
        scores = {plain(name): number(value) for name, value in mapping(final.get("scores")).items()}
        if scores.get(BASELINE) is None:
            scores[BASELINE] = cost_of(final, BASELINE) or known.get(plain(final.get("architecture")))
        made.append(scores)
    return made


def agreement(scores: Sequence[float | None], accuracies: Sequence[float | None]) -> tuple[float | None, int]:
    """Tau-b over the students that have both numbers, and how many those are."""
    both = [(s, a) for s, a in zip(scores, accuracies, strict=True) if s is not None and a is not None]
    return tau_b([s for s, _ in both], [a for _, a in both]), len(both)


def tau_text(tau: float | None, n: int) -> str:
    return f"τ = {tau:+.2f}, n = {n}" if tau is not None else f"τ undefined, n = {n}"


def proxy_panel(name: str, finals: Sequence[Row], scores: Sequence[float | None], at: int) -> str:
    """A mark for every final; one without a score or accuracy lies in the lane at the foot."""
    accuracies = [number(final.get("accuracy")) for final in finals]
    tau, n = agreement(scores, accuracies)
    holes = None in scores or None in accuracies
    frame = Frame(width=320, height=230, top=30, lane=16 if holes else 0, right=16)
    known = [s for s in scores if s is not None]
    x = scale_of(known, *frame.x_range, log=name in ("params", "macs"))
    y = scale_of([a for a in accuracies if a is not None], *frame.y_range, percent=True)
    marks = []
    for final, score, accuracy in zip(finals, scores, accuracies, strict=True):
        where = (
            x(score) if score is not None else x.start,
            y(accuracy) if accuracy is not None and score is not None else frame.lane_y,
        )
        values = f"{general(score)}|{metric('accuracy', accuracy)}"
        marks.append(mark("final", "dot", *where, values, short(final.get("architecture"), 80)))
    body = axes(
        frame, x, y, "parameters" if name == BASELINE else f"score of {short(name, 24)}", "accuracy (%)", lane="none"
    )
    body += (
        "".join(marks) + f'<text class="tau e" x="{frame.width - frame.right:g}" y="14">{esc(tau_text(tau, n))}</text>'
    )
    desc = f"{len(finals)} trained students; Kendall's {tau_text(tau, n)}."
    return drawing(f"proxy-{at}", frame, f"{name} against accuracy", desc, body, (short(name, 24), "accuracy"))


def verdict(taus: Mapping[str, tuple[float | None, int]]) -> str:
    """One plain sentence on whether any proxy ranked better than counting parameters."""
    base = taus.get(BASELINE, (None, 0))[0]
    n = max(count for _, count in taus.values())
    ranked = {name: tau for name, (tau, _) in taus.items() if tau is not None and name != BASELINE}
    if not ranked:
        return "No proxy has a Kendall tau here: too few students, or all alike."
    noise = (
        f" Over {n} students, scores that know nothing scatter by ±{tau_noise(n):.2f} around zero: "
        "differences of that size say little."
    )
    if base is None:
        return "Parameter count has no Kendall tau to compare with." + noise
    better = sorted((name for name, tau in ranked.items() if tau > base), key=lambda name: -ranked[name])
    listed = ", ".join(f"{short(name, 40)} ({ranked[name]:+.2f})" for name in better)
    if not better:
        return f"No proxy ranked these students better than their parameter count (τ = {base:+.2f})." + noise
    return f"Above parameter count (τ = {base:+.2f}): {listed}." + noise


def proxy_figure(result: Row, evidence: Row) -> Figure:
    """One panel a proxy, the baseline last."""
    finals = rows(evidence.get("finals"))
    scores = with_params(finals, [*rows(evidence.get("candidates")), *rows(evidence.get("trials"))])
    names = [name for name in dict.fromkeys(name for each in scores for name in each) if name != BASELINE]
    names += [BASELINE] if any(each.get(BASELINE) is not None for each in scores) else []
    accuracies = [number(final.get("accuracy")) for final in finals]
    taus = {name: agreement([each.get(name) for each in scores], accuracies) for name in names}
    body = [
        [
            esc(final.get("architecture")),
            metric("accuracy", final.get("accuracy")),
            *(general(each.get(name)) for name in names),
        ]
        for final, each in zip(finals, scores, strict=True)
    ]
    foot = ["Kendall tau", "", *(MISSING if (tau := taus[name][0]) is None else f"{tau:+.3f}" for name in names)]
    return Figure(
        "proxies",
        "Proxy scores against accuracy after distillation",
        "Each panel asks whether a score computed without training orders the students as training did. "
        "Kendall's τ is 1 for the same order, 0 for none. Parameter count is the baseline that costs nothing.",
        tuple(proxy_panel(name, finals, [each.get(name) for each in scores], at) for at, name in enumerate(names)),
        twin=table(["architecture", "accuracy", *names], [*body, foot], numeric=range(1, 2 + len(names))),
        columns=3,
        missing="No student has both proxy scores and an accuracy after training, so the proxies cannot be judged.",
        notes=(verdict(taus),) if names else (),
    )
