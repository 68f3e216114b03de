"""What can be said of limits before any work, by parameters and MACs alone: whether anything of a space keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdsearch.kinds import Cost
from kdsearch.search.scoring import by_formula
from kdsearch.stages.costs import bounds, most_params
from kdsearch.store.hashing import stream
from kdsearch.training.materials import Materials

DRAWN = 256  # architectures


def hardly_feasible(materials: Materials) -> list[str]:
    """Of each student of whose space nothing that is drawn keeps the limits on params, MACs and its file's bytes: so. It may hold
    some all the same.

    By formula alone: nothing is said of a space without one.
    """
    found, limits = [], bounds(materials)
    for role in materials.ships:
        asked = {"params": limits.get("params"), "macs": limits.get("macs"), "onnx_bytes": most_params(materials, role)}
        most = {name: bound for name, bound in asked.items() if bound is not None}
        if not most:
            continue
        space, rng = materials.spaces[role], stream(materials.seed, "feasible", role)
        drawn = (by_formula(space, space.sample(rng), materials.io) for _ in range(DRAWN))
        above: list[Cost] = []
        for cost in filter(None, drawn):
            if all((cost.macs if name == "macs" else cost.params) <= bound for name, bound in most.items()):
                break
            above.append(cost)
        else:
            if above:
                found.append(_all_above(materials, role, above, {name: limits[name] for name in most}))
    return found


def _all_above(materials: Materials, role: str, costs: Sequence[Cost], limits: Mapping[str, float]) -> str:
    least = min(costs, key=lambda cost: cost.params)
    stated = ", ".join(f"{name} <= {limit:,}" for name, limit in limits.items())
    return (
        f"none of {len(costs)} architectures drawn from '{materials.study.students[role].space}' keeps {stated}; "
        f"the smallest of them has {least.params:,} params and {least.macs:,} MACs"
    )
