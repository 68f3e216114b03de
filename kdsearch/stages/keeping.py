"""The candidates that go on: the best whose exported file keeps its limits, by as few exports and measurements as may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch.errors import InterruptedRun, RefusedError
from kdsearch.search.candidates import Candidate, select
from kdsearch.stages.costs import needs_file, violations
from kdsearch.stages.file_costs import file_costs
from kdsearch.training.materials import Materials
from kdsearch.training.tools import Tools

SLACK = 0.01, 0.1  # by twice the fit's error, within these, an estimate may be above the limit
ANCHORS = (0.0, 0.25, 0.5)  # quantiles of MACs that are measured for the estimate, once a limit was broken
ENOUGH = 4  # measurements that an estimate needs; with twice as many its error is known
UNBUILT = {"build", "process"}  # errors of a candidate that were none of a proxy
TRIES = (
    12  # files measured on the way down to the largest that keeps the limits; of which none is written before giving up
)


@dataclass(frozen=True)
class Kept:
    """Args:
    rows: of the candidates that go on, the best first.
    broken: of those measured that do not: constraint -> (value - limit) / limit, the least broken first.
    largest: params, macs -> the row of the candidate that has most of it and keeps the limits: what one takes without a search.
    cheapest: of `costs`, alike: the one that has least.
    families: family -> the row of its best-scored candidate that keeps the limits, the best first; without that of `rows[0]`.
    unwritten: key -> why there is no file of it.
    """

    rows: list[dict[str, Any]]
    broken: list[dict[str, float]]
    largest: dict[str, dict[str, Any]]
    cheapest: dict[str, dict[str, Any]]
    families: dict[str, dict[str, Any]]
    unwritten: dict[str, RefusedError]


def keep_best(
    materials: Materials,
    role: str,
    candidates: Sequence[Candidate],
    keep: int,
    costs: Sequence[str],
    work: Path,
    tools: Tools,
    shortest: int,
) -> Kept:
    """The `keep` best of `search.candidates.select`, of those that keep the limits; where files have none, without measuring.

    Once one breaks a limit, estimates from what was measured say who is worth measuring. Where those are too few, the nearest
    others are tried too, until none of a round keeps the limits. The `shortest` best of them are the short list. A role that does
    not ship has no limits to keep. What could not be built, or was lost with its process, is nothing to go on with, unless all are;
    nor is a network of which no file can be written.

    Raises:
        RefusedError: why the first has no file, where none of those that are tried has one: `keep`, at least TRIES.
    """
    candidates = [each for each in candidates if not UNBUILT & each.scored.errors.keys()] or candidates
    is_costed, space = role in materials.ships, materials.spaces[role]
    family = {
        each.scored.key: space.family(space.parse(each.scored.spec)) if space.family_fields else ""
        for each in candidates
    }
    found: dict[str, dict[str, float]] = {}  # key -> costs, of all that were measured
    excess: dict[str, dict[str, float]] = {}  # key -> constraint -> (value - limit) / limit
    unwritten: dict[str, RefusedError] = {}

    def measure(these: Sequence[Candidate]) -> bool:
        """Whether any of them keeps the limits."""
        is_measured = is_costed and needs_file(materials)
        if is_measured:
            if not found and not unwritten:
                tools.progress.anew()
            tools.progress.more(len(these))
        for each in these:
            if tools.stop():
                raise InterruptedRun("stopped; measured candidates are kept")
            scored = each.scored
            sizes: dict[str, float] = {"params": scored.params, "macs": scored.macs}
            try:
                found[scored.key] = sizes | (file_costs(materials, role, scored.spec, work) if is_measured else {})
                excess[scored.key] = violations(materials, found[scored.key]) if is_costed else {}
            except RefusedError as error:
                unwritten[scored.key] = error
            if is_measured:
                tools.progress.at(tools.progress.done + 1, note=f"{len(found)} files measured")
        if not found and len(unwritten) >= min(max(TRIES, keep), len(candidates)):
            raise next(iter(unwritten.values()))
        return any(is_good(each) for each in these)

    def worst_of(these: Sequence[Candidate]) -> list[float]:
        """By what was measured of its own family: a recurrent layer takes another time than its sizes would elsewhere."""
        worst = [0.0] * len(these)
        for name in dict.fromkeys(family[each.scored.key] for each in these):
            at = [i for i, each in enumerate(these) if family[each.scored.key] == name]
            own = {key: each for key, each in excess.items() if family[key] == name}
            for i, value in zip(at, estimates([these[i] for i in at], found, own), strict=True):
                worst[i] = value
        return worst

    def is_new(candidate: Candidate) -> bool:
        return candidate.scored.key not in found and candidate.scored.key not in unwritten

    def is_good(candidate: Candidate) -> bool:
        key = candidate.scored.key
        return key in excess and max(excess[key].values(), default=0.0) <= 0

    while True:
        worst = worst_of(candidates)
        pool = [
            each for each, over in zip(candidates, worst, strict=True) if (over <= 0 if is_new(each) else is_good(each))
        ]
        chosen = select(pool, keep, costs)
        if new := [each for each in chosen if is_new(each)]:
            measure(new)
            if not all(is_good(each) for each in new if each.scored.key in found):
                measure([each for each in anchors(candidates) if is_new(each)])
            continue
        rest = [(over, i) for i, over in enumerate(worst) if is_new(candidates[i])]
        nearest = [candidates[i] for _, i in sorted(rest)[:keep]]
        if len(chosen) == keep or not nearest or not measure(nearest):
            break

    def first_of(order: Sequence[Candidate]) -> Candidate | None:
        """The first that keeps the limits: no more measured than need be, nor than TRIES."""
        for _ in range(TRIES):
            worst = worst_of(order)
            likely = (
                each for each, over in zip(order, worst, strict=True) if (over <= 0 if is_new(each) else is_good(each))
            )
            top = next(likely, None)
            if top is None or not is_new(top):
                return top
            if not measure([top]):
                measure([each for each in anchors(order) if is_new(each)])
        return next((each for each in order if not is_new(each) and is_good(each)), None)

    short = {each.scored.key for each in select(chosen, shortest, costs)}
    rows = [row_of(each, found[each.scored.key], each.scored.key in short) for each in chosen]
    over = [{name: value for name, value in each.items() if value > 0} for each in excess.values()]

    def first_rows(orders: Mapping[str, Sequence[Candidate]]) -> dict[str, dict[str, Any]]:
        firsts = {name: first_of(order) for name, order in orders.items()} if chosen else {}
        return {
            name: row_of(each, found[each.scored.key], each.scored.key in short)
            for name, each in firsts.items()
            if each is not None
        }

    def by(name: str, is_largest: bool) -> list[Candidate]:
        return sorted(candidates, key=lambda each: (each.cost(name), each.scored.key), reverse=is_largest)

    largest = first_rows({name: by(name, True) for name in ("params", "macs")})
    cheapest = first_rows({name: by(name, False) for name in costs})
    by_family: dict[str, list[Candidate]] = {}
    for each in select(candidates, len(candidates)) if chosen else ():
        by_family.setdefault(family[each.scored.key], []).append(each)
    others = {name: order for name, order in by_family.items() if name != family[chosen[0].scored.key]}
    families = first_rows(others)
    broken = sorted((each for each in over if each), key=lambda each: max(each.values()))
    return Kept(rows, broken, largest, cheapest, families, unwritten)


def row_of(candidate: Candidate, costs: Mapping[str, float], is_short: bool) -> dict[str, Any]:
    """is_short: whether it stands on the short list, for controllers that do not look at scores."""
    scored = candidate.scored
    own = {"key": scored.key, "spec": scored.spec, "score": candidate.score, "scores": scored.scores}
    return {**own, "costs": dict(costs), "short": is_short}


def anchors(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The smallest and some up to the middle, by MACs: what fits may be far from the best scores."""
    order = sorted(candidates, key=lambda each: (each.scored.macs, each.scored.params, each.scored.key))
    return [order[int(share * (len(order) - 1))] for share in ANCHORS]


def estimates(
    candidates: Sequence[Candidate], found: Mapping[str, Mapping[str, float]], excess: Mapping[str, Mapping[str, float]]
) -> list[float]:
    """Each candidate's largest (value - limit) / limit, less what the fit errs by: a + b params + c MACs, of what was measured.

    0 for all before there are enough measurements, or while none breaks a limit.
    """
    broken = {name for each in excess.values() for name, value in each.items() if value > 0}
    if not broken or len(excess) < ENOUGH:
        return [0.0] * len(candidates)
    sizes = np.array([[1.0, each.scored.params, each.scored.macs] for each in candidates])
    scale = np.maximum(sizes.max(0), 1.0)
    known = np.array([[1.0, found[key]["params"], found[key]["macs"]] for key in excess]) / scale
    worst = np.full(len(candidates), -1.0)
    for name in sorted(broken):
        values = np.array([1.0 + each[name] for each in excess.values()])  # in limits
        weight = 1 / np.maximum(values, 1e-9)  # errors count by their share
        fit, *_ = np.linalg.lstsq(known * weight[:, None], values * weight, rcond=1e-6)
        error = np.sqrt(np.square(known @ fit * weight - 1).sum() / (len(values) - known.shape[1]))
        slack = np.clip(2 * error, *SLACK) if len(values) >= 2 * ENOUGH else SLACK[1]
        worst = np.maximum(worst, sizes / scale @ fit - 1.0 - slack)
    return [float(each) for each in worst]
