"""Which of several trials is the one: `distill.pick` as text, and the order that it puts trials in.

    best                            front by front, within a front by the first objective that is a metric; of one objective that
                                    one, and first the largest network, of its family, of those that validation cannot tell from
                                    it (`stages/choice.py`)
    knee                            front by front, within a front by the sum of objectives scaled to [0, 1] over it
    min:latency_ms, max:accuracy    by one figure alone
    ...,accuracy>=0.9,params<20000  after any of these: of those alone for which it holds

The knee is the point of a front farthest from the plane through its ends (Das, On characterizing the "knee" of the Pareto curve,
1999): with every objective scaled to [0, 1] that is the least sum.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kdsearch.errors import RefusedError, StudyError, nearest, one_of
from kdsearch.search.pareto import fronts

WAYS = ("best", "knee", "min", "max")
SIGNS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
PATH = "distill.pick"


@dataclass(frozen=True)
class Condition:
    name: str
    sign: str
    bound: float

    def holds(self, figures: Mapping[str, float]) -> bool:
        return self._meets(figures[self.name])

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.bound:.12g}"

    def apart(self, value: float) -> str:
        """A whole number as it is, another one in as few digits, four at least, as are on its own side of the bound."""
        if float(value).is_integer():
            return f"{value:.0f}"
        texts = (f"{value:.{digits}g}" for digits in range(4, 18))
        return next(text for text in texts if self._meets(float(text)) == self._meets(value))

    def _meets(self, value: float) -> bool:
        return bool(SIGNS[self.sign](value, self.bound))


@dataclass(frozen=True)
class Pick:
    """Args:
    way: of WAYS. name: the figure that `min` and `max` go by.
    """

    way: str
    name: str = ""
    conditions: tuple[Condition, ...] = ()

    def goes_by(self, objective: str) -> bool:
        """Whether that objective, the first one, puts trials in order."""
        return self.way == "best" or (bool(self.name) and self.name == objective)

    def check(self, known: Collection[str], costs: Collection[str] = ()) -> None:
        """Raise StudyError for a figure that trials do not have. `costs`: what they would have if the study spoke of it."""
        for name in [*([self.name] if self.name else []), *(each.name for each in self.conditions)]:
            if name not in known:
                raise StudyError(
                    f"no trial has a '{name}'",
                    path=PATH,
                    nearest=nearest(name, known),
                    expected=one_of(known),
                    fix="It is measured where it is a constraint or an objective." if name in costs else "",
                )


def parsed(text: str) -> Pick:
    """Raise StudyError for what is no pick."""
    first, *others = [part.strip() for part in text.split(",")]
    way, colon, name = (part.strip() for part in first.partition(":"))
    expected = "best, knee, min:NAME or max:NAME, then conditions as in min:latency_ms,accuracy>=0.9"
    if way not in WAYS or bool(colon) != (way in ("min", "max")) or bool(name) != bool(colon):
        near = nearest(way, WAYS) if way not in WAYS else ""
        raise StudyError(f"got '{first}'", path=PATH, nearest=near, expected=expected)
    return Pick(way, name, tuple(_condition(each) for each in others))


def _condition(text: str) -> Condition:
    found = re.fullmatch(r"([\w.@-]+)\s*(>=|<=|>|<)\s*([\d.eE+-]+)\s*(%?)", text)
    expected = "a condition such as accuracy>=0.9, accuracy>=90% or params<20000"
    if found is None:
        raise StudyError(f"got '{text}'", path=PATH, expected=expected)
    name, sign, number, percent = found.groups()
    try:
        bound = float(number) / (100 if percent else 1)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise StudyError(f"got '{text}'", path=PATH, expected=expected)
    return Condition(name, sign, bound)


def ordered(pick: Pick, figures: Sequence[Mapping[str, float]], objectives: Mapping[str, str], first: str) -> list[int]:
    """Indices of those that meet the conditions, the picked one first; equal ones in the order given.

    Args:
        figures: name -> value, a mapping each: objectives in their own direction, and costs.
        objectives: name -> `max` or `min`. first: the one among them that decides within a front.

    Raises:
        RefusedError: the conditions hold for none, with what comes nearest.
    """
    among = [i for i, each in enumerate(figures) if all(condition.holds(each) for condition in pick.conditions)]
    if not among:
        raise _refused(pick, figures)
    losses = {
        i: tuple(-figures[i][name] if way == "max" else figures[i][name] for name, way in objectives.items())
        for i in among
    }
    at = list(objectives).index(first)
    if pick.way in ("min", "max"):
        sign = 1 if pick.way == "min" else -1
        return sorted(among, key=lambda i: (sign * figures[i][pick.name], losses[i][at], i))
    order: list[int] = []
    for front in fronts([losses[i] for i in among]):
        own = {among[member]: losses[among[member]] for member in front}
        by = _scaled_sums(own) if pick.way == "knee" else {i: each[at] for i, each in own.items()}
        order += sorted(own, key=lambda i: (by[i], losses[i][at], losses[i], i))
    return order


def _scaled_sums(losses: Mapping[int, Sequence[float]]) -> dict[int, float]:
    """Of a front: each one's sum of losses, every loss scaled to [0, 1]."""
    ends = [(min(column), max(column)) for column in zip(*losses.values(), strict=True)]
    return {
        i: math.fsum((x - low) / (high - low) if high > low else 0.0 for x, (low, high) in zip(each, ends, strict=True))
        for i, each in losses.items()
    }


def _refused(pick: Pick, figures: Sequence[Mapping[str, float]]) -> RefusedError:
    """Says of each condition how far the best of all trials comes."""
    reached = []
    for each in pick.conditions:
        best = (max if each.sign.startswith(">") else min)(row[each.name] for row in figures)
        reached.append(f"{each.name} reaches {each.apart(best)}")
    wanted = ", ".join(map(str, pick.conditions))
    return RefusedError(
        f"none of {len(figures)} trials has {wanted}; {'; '.join(reached)}",
        path=PATH,
        expected="conditions that one meets",
    )
