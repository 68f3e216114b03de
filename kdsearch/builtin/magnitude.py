"""Zeros by magnitude, which come in during recovery.

The cubic schedule is that of Zhu and Gupta (2017, arXiv 1710.01878), eq. 1: s(p) = s_f + (s_i - s_f) (1 - p)^3, p the progress
of the ramp. The 2:4 pattern is that of Mishra et al. (2021, arXiv 2104.08378): of four weights in a row along the input, two
are zero. Ours: the smallest weights are chosen anew after every optimiser step, where Zhu and Gupta choose every hundred or so.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kdsearch.errors import RefusedError
from kdsearch.kinds import Compressor, Model, Options, Plan, Subject, searched

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
ROW, ZEROS = 4, 2  # of the pattern 2:4


class MagnitudeOptions(Options):
    pattern: Literal["unstructured", "2:4"] = Field(
        "unstructured", description="2:4: two of four neighbours along the input, half of the weights"
    )
    sparsity: Annotated[float, searched(low=0.3, high=0.95)] = Field(
        0.5, gt=0, lt=1, description="share of the weights that is zero at the end; of `unstructured`"
    )
    scope: Literal["global", "layer"] = Field(
        "global", description="global: the smallest weights anywhere; layer: the same share of every layer"
    )
    start: float = Field(0.0, ge=0, lt=1, description="share that is zero when the recovery begins")
    until: float = Field(
        0.7, gt=0, le=1, description="share of the recovery over which zeros come in, by a cubic schedule"
    )
    keep: tuple[str, ...] = Field((), strict=False, description="globs on paths of layers that stay dense")


class Magnitude(Compressor[MagnitudeOptions]):
    """Linear layers and convolutions; embeddings, norms and biases stay dense."""

    side = "weights"

    def plan(self, subject: Subject) -> Plan:
        """Names of the weights. Raise RefusedError where none is left."""
        options, found, left = self.options, list[str](), list[str]()
        for path, layer in subject.model.module.named_modules():
            if not isinstance(layer, LAYERS):
                continue
            if any(fnmatch.fnmatchcase(path, glob) for glob in options.keep):
                left.append(f"{path}: stays dense, as asked")
            elif options.pattern == "2:4" and layer.weight.shape[1] % ROW:
                left.append(f"{path}: stays dense, its {layer.weight.shape[1]} inputs are no multiple of {ROW}")
            else:
                found.append(f"{path}.weight" if path else "weight")
        if not found:
            raise RefusedError(
                f"no layer can be sparse of {len(left)}",
                path="compress.prune.options.keep",
                expected="a Linear layer or a convolution",
            )
        n = sum(subject.model.module.get_parameter(name).numel() for name in found)
        share = ZEROS / ROW if options.pattern == "2:4" else options.sparsity
        log = (f"{share:.3g} of {n:,} weights in {len(found)} layers become zero ({options.pattern})", *left)
        return Plan({"weights": found}, log=log)

    @torch.no_grad()
    def enforce(self, model: Model, plan: Plan, progress: float) -> None:
        weights = [model.module.get_parameter(name) for name in plan.edits["weights"]]
        options = self.options
        if options.pattern == "2:4":
            _rows(weights, cubic(options.start, 1.0, progress / options.until))
            return
        share = cubic(options.start, options.sparsity, progress / options.until)
        for group in [weights] if options.scope == "global" else [[each] for each in weights]:
            _smallest(group, share)


def cubic(start: float, end: float, progress: float) -> float:
    """Zhu and Gupta, eq. 1; `end` from progress 1 on."""
    return end + (start - end) * (1 - min(1.0, progress)) ** 3


def _smallest(weights: Sequence[Tensor], share: float) -> None:
    """The smallest weights of all become zero, exactly so many; of equal ones the first."""
    sizes = torch.cat([each.abs().flatten() for each in weights])
    n = math.floor(share * len(sizes))
    if n == 0:
        return
    bar = sizes.kthvalue(n).values
    gone = sizes < bar
    equal = (sizes == bar).nonzero().flatten()[: n - int(gone.sum())]
    gone[equal] = True
    for weight, mask in zip(weights, torch.split(gone, [each.numel() for each in weights]), strict=True):
        weight.masked_fill_(mask.view_as(weight), 0)


def _rows(weights: Sequence[Tensor], share: float) -> None:
    """In this share of all rows of four the two smallest become zero: first where these are smallest."""
    views = [weight.movedim(1, -1).reshape(-1, ROW) for weight in weights]  # copies where there is a kernel
    every = torch.cat([each.abs() for each in views])
    least, at = every.topk(ZEROS, dim=1, largest=False)
    n = math.floor(share * len(every))
    chosen = least.square().sum(1).argsort(stable=True)[:n]
    mask = torch.zeros_like(every, dtype=torch.bool)
    mask[chosen.unsqueeze(1), at[chosen]] = True
    for weight, rows in zip(weights, torch.split(mask, [len(each) for each in views]), strict=True):
        moved = weight.movedim(1, -1)
        moved.masked_fill_(rows.view(moved.shape), 0)
