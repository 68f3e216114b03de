"""Who may be a parent: the youngest or the best candidates told, the better ones first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kdsearch.kinds import Trial
from kdsearch.kit.histories import Folded
from kdsearch.kit.pareto import crowding, fronts, violation

Survivors = Literal["youngest", "best"]


@dataclass
class _Kept:
    scored: list[Trial] = field(default_factory=list)  # constraints hold; failed ones too, they are the worst
    broken: list[Trial] = field(default_factory=list)  # the least broken of those that break a constraint
    n_scored: int = 0


@dataclass(frozen=True)
class Population:
    """Args:
    members: the best first; at most as many as the population holds.
    n_scored: candidates told that keep the constraints, those that left the population included.
    """

    members: tuple[Trial, ...]
    n_scored: int


class Survival:
    """The population as a function of the history.

    `youngest`: the last `size` scored ones; the oldest leaves, however good (aging evolution). `best`: the lowest leave; of one
    objective those left are the best `size` of all, of several they are NSGA-II's (front by front, then the least crowded),
    thinned whenever `size` new ones were told. What breaks a constraint is no member, but while fewer than `least` are scored
    the least broken ones stand in, so that breeding leads to where constraints hold.
    """

    def __init__(self, size: int, survivors: Survivors = "youngest", least: int = 0) -> None:
        self.size, self.survivors, self.least = size, survivors, least
        self._kept: Folded[_Kept] = Folded()

    def of(self, told: Sequence[Trial], key: Any = None) -> Population:
        """`told` in order of number, all of them ended; `key`: what else trials belong to."""
        kept, _ = self._kept.of(key, told, _Kept, self._add)
        members = best_first(kept.scored)[: self.size]
        standing_in = best_first(kept.broken)[: max(self.least - len(members), 0)]
        return Population((*members, *standing_in), kept.n_scored)

    def _add(self, kept: _Kept, trial: Trial) -> None:
        if violation(trial.violations) > 0:
            kept.broken.append(trial)
            if len(kept.broken) >= 2 * self.least:
                kept.broken = best_first(kept.broken)[: self.least]
            return
        kept.n_scored += 1
        kept.scored.append(trial)
        if self.survivors == "youngest":
            del kept.scored[: -self.size]
        elif len(kept.scored) == 2 * self.size:
            kept.scored = best_first(kept.scored)[: self.size]


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Complete ones by front, the least crowded first; then stopped ones; then broken ones by how much; failed ones last."""
    whole = [trial for trial in trials if trial.state == "complete" and trial.losses and not _is_broken(trial)]
    order: list[Trial] = []
    for members in fronts([trial.losses for trial in whole]):
        distance = crowding([whole[i].losses for i in members])
        ranked = sorted(range(len(members)), key=lambda k: (-distance[k], whole[members[k]].number))
        order += [whole[members[k]] for k in ranked]
    broken = sorted(filter(_is_broken, trials), key=lambda trial: (violation(trial.violations), trial.number))
    rest = [trial for trial in trials if not _is_broken(trial) and not (trial.state == "complete" and trial.losses)]
    stopped = [trial for trial in rest if trial.state == "pruned"]
    return order + stopped + broken + [trial for trial in rest if trial.state != "pruned"]


def _is_broken(trial: Trial) -> bool:
    return violation(trial.violations) > 0
