"""Ranks of scores against a fixed reference, so that no score depends on its company."""

from __future__ import annotations

import torch
from torch import Tensor


def log_ranks(values: Tensor, reference: Tensor) -> Tensor:
    """ln of the share of the reference that each value reaches: (N,), (R,) -> (N,) in [ln(1/(R+1)), 0], float64.

    The rank of a value is 1 + how many of the reference are below it + half of those equal to it, divided by R + 1. NaN counts
    as -infinity: the worst. Log ranks punish being among the worst in any one score more than they reward being the best.
    """
    v, r = (_ordered(each) for each in (values, reference))
    below = torch.searchsorted(r.sort().values, v, side="left")
    upto = torch.searchsorted(r.sort().values, v, side="right")
    return ((1 + (below + upto).double() / 2) / (len(r) + 1)).log()


def _ordered(scores: Tensor) -> Tensor:
    return (
        scores.detach()
        .to("cpu", torch.float64)
        .flatten()
        .nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    )
