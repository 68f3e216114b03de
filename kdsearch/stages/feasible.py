"""What can be said of limits on params and MACs before any work: whether anything of a space keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdsearch.kinds import Cost
from kdsearch.store.hashing import stream
from kdsearch.training.materials import Materials

DRAWN = 256  # architectures


def hardly_feasible(materials: Materials) -> list[str]:
    """Of each student of whose space nothing that is drawn keeps the limits on params and MACs: so. It may hold some all the same.

    By formula alone: nothing is said of a space without one.
    """
    limits = materials.study.config.constraints
    bounds = {name: bound for name in ("params", "macs") if (bound := getattr(limits, name)) is not None}
    found = []
    for role in materials.ships if bounds else ():
        space, rng = materials.spaces[role], stream(materials.seed, "feasible", role)
        drawn = (space.cost(space.sample(rng), materials.io) for _ in range(DRAWN))
        above: list[Cost] = []
        for cost in filter(None, drawn):
            if all(getattr(cost, name) <= bound for name, bound in bounds.items()):
                break
            above.append(cost)
        else:
            if above:
                found.append(_all_above(materials, role, above, bounds))
    return found


def _all_above(materials: Materials, role: str, costs: Sequence[Cost], bounds: Mapping[str, float]) -> str:
    least = min(costs, key=lambda cost: cost.params)
    stated = ", ".join(f"{name} <= {bound:,}" for name, bound in bounds.items())
    return (
        f"none of {len(costs)} architectures drawn from '{materials.study.students[role].space}' keeps {stated}; "
        f"the smallest of them has {least.params:,} params and {least.macs:,} MACs"
    )
