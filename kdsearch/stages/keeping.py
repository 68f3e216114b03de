"""The candidates that go on: the best whose exported file keeps its limits, by as few exports and measurements as may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch.errors import InterruptedRun, RefusedError
from kdsearch.kinds import SearchSpace
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
    files = Files(materials, role, work, tools, families_of(materials.spaces[role], candidates), max(TRIES, keep))
    chosen = _chosen(files, candidates, keep, costs)
    short = {each.scored.key for each in select(chosen, shortest, costs)}

    def row(each: Candidate) -> dict[str, Any]:
        return row_of(each, files.found[each.scored.key], each.scored.key in short)

    def first_rows(orders: Mapping[str, Sequence[Candidate]]) -> dict[str, dict[str, Any]]:
        firsts = {name: _first_of(files, order) for name, order in orders.items()} if chosen else {}
        return {name: row(each) for name, each in firsts.items() if each is not None}

    def by(name: str, is_largest: bool) -> list[Candidate]:
        return sorted(candidates, key=lambda each: (each.cost(name), each.scored.key), reverse=is_largest)

    by_family: dict[str, list[Candidate]] = {}
    for each in select(candidates, len(candidates)) if chosen else ():
        by_family.setdefault(files.family[each.scored.key], []).append(each)
    if chosen:
        by_family.pop(files.family[chosen[0].scored.key])
    return Kept(
        [row(each) for each in chosen],
        largest=first_rows({name: by(name, True) for name in ("params", "macs")}),
        cheapest=first_rows({name: by(name, False) for name in costs}),
        families=first_rows(by_family),
        broken=files.broken(),
        unwritten=files.unwritten,
    )


def families_of(space: SearchSpace[Any], candidates: Sequence[Candidate]) -> dict[str, str]:
    """key -> the candidate's family, "" in a space that has none."""
    if not space.family_fields:
        return dict.fromkeys((each.scored.key for each in candidates), "")
    return {each.scored.key: space.family(space.parse(each.scored.spec)) for each in candidates}


@dataclass
class Files:
    """What candidates cost as files, each written and measured once, and only where a limit or an objective is of files.

    Args:
        family: see `families_of`.
        patience: files that cannot be written before giving up, where none could.
        found: key -> costs, of all that were measured. excess: alike, constraint -> (value - limit) / limit.
        unwritten: key -> why there is no file of it.
    """

    materials: Materials
    role: str
    work: Path
    tools: Tools
    family: Mapping[str, str]
    patience: int
    found: dict[str, dict[str, float]] = field(default_factory=dict)
    excess: dict[str, dict[str, float]] = field(default_factory=dict)
    unwritten: dict[str, RefusedError] = field(default_factory=dict)

    def measure(self, these: Sequence[Candidate]) -> bool:
        """Whether any of them keeps the limits.

        Raises:
            RefusedError: why the first has no file, where none has one.
        """
        is_costed = self.role in self.materials.ships
        is_measured = is_costed and needs_file(self.materials)
        if is_measured:
            if not self.found and not self.unwritten:
                self.tools.progress.anew()
            self.tools.progress.more(len(these))
        for each in these:
            if self.tools.stop():
                raise InterruptedRun("stopped; measured candidates are kept")
            scored = each.scored
            costs: dict[str, float] = {"params": scored.params, "macs": scored.macs}
            try:
                if is_measured:
                    costs |= file_costs(self.materials, self.role, scored.spec, self.work)
                self.found[scored.key] = costs
                self.excess[scored.key] = violations(self.materials, costs) if is_costed else {}
            except RefusedError as error:
                self.unwritten[scored.key] = error
            if is_measured:
                self.tools.progress.at(self.tools.progress.done + 1, note=f"{len(self.found)} files measured")
        if not self.found and len(self.unwritten) >= min(self.patience, len(self.family)):
            raise next(iter(self.unwritten.values()))
        return any(map(self.is_good, these))

    def is_new(self, candidate: Candidate) -> bool:
        return candidate.scored.key not in self.found and candidate.scored.key not in self.unwritten

    def is_good(self, candidate: Candidate) -> bool:
        """Whether it was measured, and keeps the limits."""
        key = candidate.scored.key
        return key in self.excess and max(self.excess[key].values(), default=0.0) <= 0

    def estimated(self, these: Sequence[Candidate]) -> list[float]:
        """See `estimates`: each by what was measured of its own family, as a recurrent layer takes another time than its sizes
        would elsewhere.
        """
        worst = [0.0] * len(these)
        for name in dict.fromkeys(self.family[each.scored.key] for each in these):
            at = [i for i, each in enumerate(these) if self.family[each.scored.key] == name]
            own = {key: each for key, each in self.excess.items() if self.family[key] == name}
            for i, value in zip(at, estimates([these[i] for i in at], self.found, own), strict=True):
                worst[i] = value
        return worst

    def likely(self, these: Sequence[Candidate]) -> list[Candidate]:
        """Those that keep the limits, by measurement or, not measured yet, by estimate."""
        estimated = zip(these, self.estimated(these), strict=True)
        return [each for each, over in estimated if (over <= 0 if self.is_new(each) else self.is_good(each))]

    def broken(self) -> list[dict[str, float]]:
        """Of those measured that break limits: constraint -> share that it is above it, the least broken first."""
        over = [{name: value for name, value in each.items() if value > 0} for each in self.excess.values()]
        return sorted((each for each in over if each), key=lambda each: max(each.values()))


def _chosen(files: Files, candidates: Sequence[Candidate], keep: int, costs: Sequence[str]) -> list[Candidate]:
    """The `keep` best that keep the limits, all measured."""
    while True:
        chosen = select(files.likely(candidates), keep, costs)
        if new := [each for each in chosen if files.is_new(each)]:
            files.measure(new)
            if not all(files.is_good(each) for each in new if each.scored.key in files.found):
                files.measure([each for each in anchors(candidates) if files.is_new(each)])
            continue
        rest = [(over, i) for i, over in enumerate(files.estimated(candidates)) if files.is_new(candidates[i])]
        nearest = [candidates[i] for _, i in sorted(rest)[:keep]]
        if len(chosen) == keep or not nearest or not files.measure(nearest):
            return chosen


def _first_of(files: Files, order: Sequence[Candidate]) -> Candidate | None:
    """The first that keeps the limits: no more measured than need be, nor than TRIES."""
    for _ in range(TRIES):
        top = next(iter(files.likely(order)), None)
        if top is None or not files.is_new(top):
            return top
        if not files.measure([top]):
            files.measure([each for each in anchors(order) if files.is_new(each)])
    return next(filter(files.is_good, order), None)


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
