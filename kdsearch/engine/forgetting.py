"""What a training that learns classes one group after another has learnt and forgotten.

a[l][j] is the objective of the classes of phase j after phase l. Forgetting after phase k is the mean over the phases j before of
the best a[l][j] for l < k, less a[k][j] (Chaudhry et al., ECCV 2018): what the groups have lost since they were at their best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

Classes = Mapping[str, Collection[int]]  # by phase, in order


def by_classes(
    of_classes: Callable[[Collection[int]], float],
    learnt: Classes,
    before: Sequence[Mapping[str, Any]],
    direction: str,
) -> dict[str, Any]:
    """After the last phase of `learnt`: `new` of its classes, `old` of those before, `all` of both, `forgotten`, `phases` of
    each, and `of` which classes they are.

    `old` and `forgotten` are None after the first phase. Figures of groups that nothing shows are None.

    Args:
        of_classes: the objective of a group of classes now.
        before: what this said after the phases before.
    """
    *earlier, last = learnt
    every = [each for name in learnt for each in learnt[name]]
    old = [each for name in earlier for each in learnt[name]]
    now = {name: _known(of_classes(learnt[name])) for name in learnt}
    lost = []
    for name in earlier:
        had = [value for row in before if (value := row["phases"].get(name)) is not None]
        if (is_now := now[name]) is not None and had:
            lost.append(max(had) - is_now if direction == "max" else is_now - min(had))
    return {
        "new": now[last],
        "old": _known(of_classes(dict.fromkeys(old))) if old else None,
        "all": _known(of_classes(dict.fromkeys(every))),
        "forgotten": sum(lost) / len(lost) if lost else None,
        "phases": now,
        "of": {name: sorted(learnt[name]) for name in learnt},
    }


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
