"""Stage 2, what recovery may move: PWP (Positional Weight Preservation) and SGDistill (Sensitivity-Guided Distillation).

PWP freezes everything before the first part that is gone, in the order in which modules are defined: embedders and early blocks
stay as they are. SGDistill, where the cut is at least r_thres, moves part (i, c) in inverse proportion to its sensitivity:

    s(i, c) = min(1, (tau + eps) / (|DeltaP(i, c)| + eps)),    tau a quantile of |DeltaP| > 0 over what is trained

Ours: an accuracy often does not move at all, and a tau of 0 would freeze all else; eps on both sides keeps 1 where drops are equal.
s is a factor on the learning rate: a factor on gradients does nothing under Adam, which divides by their size.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from kdsearch.kit.blocks import ALL, Block, Part, Removal
from kdsearch.kit.blocks import replacements as replaced_by

EPS = 1e-8


def preserved(
    module: nn.Module, blocks: Sequence[Block], parts: Sequence[Part], removal: Removal, before: int | None = None
) -> set[str]:
    """PWP: names of the weights, of the intact network, that are frozen; what is removed has none afterwards.

    before: freeze what is defined before this block instead.
    """
    paths = [path for path, _ in module.named_modules()]
    gone = [next(block.path for block in blocks if block.index == before)] if before is not None else []
    gone = gone or list(replaced_by(module, blocks, parts, removal))
    if not gone:
        return set()
    first = min(paths.index(path) for path in gone)
    at = {path: nth for nth, path in enumerate(paths)}
    return {name for name, _ in module.named_parameters() if at[name.rpartition(".")[0]] < first}


def sensitivity_of(blocks: Sequence[Block], delta: Mapping[Part, float]) -> dict[str, float]:
    """|DeltaP| by path: of components where they were measured, else of their whole block."""
    found: dict[str, float] = {}
    for block in blocks:
        for name, paths in block.components.items():
            drop = delta.get((block.index, name), delta.get((block.index, ALL)))
            if drop is not None:
                own = paths if name.startswith("branch") else paths[:1]
                found |= {path: abs(drop) for path in own}
    return found


def multipliers(
    names: Sequence[str],
    sensitivity: Mapping[str, float],
    mode: str,
    tau_quantile: float = 0.5,
    zero_above: float | None = None,
) -> dict[str, float]:
    """SGDistill: weight name -> factor on its learning rate, of those (trained ones) whose factor is not 1.

    binary: 1, and 0 for parts more sensitive than the quantile `zero_above` (the released code: 0 for a list of blocks).
    """
    of = {name: path for path in sensitivity for name in names if name == path or name.startswith(f"{path}.")}
    drops = {path: sensitivity[path] for path in of.values()}
    if not drops:
        return {}
    finite = [each for each in drops.values() if each < float("inf")] or [1.0]
    tau = _quantile([each for each in finite if each > 0] or [0.0], tau_quantile)
    limit = _quantile(finite, zero_above) if zero_above is not None else float("inf")
    found = {}
    for name, path in of.items():
        drop = drops[path]
        factor = 0.0 if drop > limit else 1.0 if mode == "binary" else min(1.0, (tau + EPS) / (drop + EPS))
        if factor < 1.0 - 1e-6:
            found[name] = factor
    return found


def _quantile(values: Sequence[float], q: float) -> float:
    return statistics.median(values) if q == 0.5 else float(torch.tensor(values, dtype=torch.float64).quantile(q))
