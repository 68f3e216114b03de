"""Zeros by magnitude, which come in during recovery.

The cubic schedule is that of Zhu and Gupta (2017, arXiv 1710.01878), eq. 1: s(p) = s_f + (s_i - s_f) (1 - p)^3, p the progress
of the ramp. The 2:4 pattern is that of Mishra et al. (2021, arXiv 2104.08378): of four weights in a row along the input, two
are zero. Ours: the smallest weights are chosen anew after every optimiser step, where Zhu and Gupta choose every hundred or so.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from kdsearch.errors import KdsearchError, RefusedError, UserError
from kdsearch.kinds import IO, Compressor, Model, Options, Plan, Subject, searched

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

    @model_validator(mode="after")
    def _grows(self) -> Self:
        end = ZEROS / ROW if self.pattern == "2:4" else self.sparsity
        if self.start > end:
            raise ValueError(f"start {self.start:g} is above the {end:g} that is zero at the end")
        return self


class Magnitude(Compressor[MagnitudeOptions]):
    """Linear layers and convolutions; embeddings, layers that share an embedding's weight, weights that are computed from others
    (weight norm), norms and biases stay dense.
    """

    side = "weights"

    def preflight(self, model: Model, io: IO) -> None:
        """Raise UserError where no layer can be sparse."""
        self._layers(model.module, UserError)

    def _layers(self, module: nn.Module, error: type[KdsearchError]) -> tuple[list[str], list[str]]:
        """Names of the weights, and of which layers they stay as they are, and why. Raise the error where none is left."""
        options, found, left = self.options, list[str](), list[str]()
        embedded = {id(each.weight) for each in module.modules() if isinstance(each, nn.Embedding | nn.EmbeddingBag)}
        for path, layer in module.named_modules():
            if not isinstance(layer, LAYERS):
                continue
            if any(fnmatch.fnmatchcase(path, glob) for glob in options.keep):
                left.append(f"{path}: stays dense, as asked")
            elif "weight" not in dict(layer.named_parameters(recurse=False)):
                left.append(f"{path}: stays dense, its weight is computed from others")
            elif id(layer.weight) in embedded:
                left.append(f"{path}: stays dense, as the embedding whose weight it has")
            elif options.pattern == "2:4" and (n := layer.weight.shape[inputs_at(layer)]) % ROW:
                left.append(f"{path}: stays dense, its {n} inputs are no multiple of {ROW}")
            else:
                found.append(f"{path}.weight" if path else "weight")
        if not found:
            raise error(
                "; ".join([f"no layer can be sparse of {len(left)}", *left[:1]]),
                path="compress.prune.options.keep",
                expected="a Linear layer or a convolution",
            )
        return found, left

    def plan(self, subject: Subject) -> Plan:
        """Names of the weights. Raise RefusedError where none is left."""
        options, (found, left) = self.options, self._layers(subject.model.module, RefusedError)
        n = sum(subject.model.module.get_parameter(name).numel() for name in found)
        share = ZEROS / ROW if options.pattern == "2:4" else options.sparsity
        log = (f"{share:.3g} of {n:,} weights in {len(found)} layers become zero ({options.pattern})", *left)
        return Plan({"weights": found}, log=log)

    @torch.no_grad()
    def enforce(self, model: Model, plan: Plan, progress: float) -> None:
        weights = [model.module.get_parameter(name) for name in plan.edits["weights"]]
        options = self.options
        if options.pattern == "2:4":
            layers = [model.module.get_submodule(name.rpartition(".")[0]) for name in plan.edits["weights"]]
            along = [each.movedim(inputs_at(layer), -1) for each, layer in zip(weights, layers, strict=True)]
            half = ZEROS / ROW  # of the weights, where all rows of four have their zeros
            _rows(along, cubic(options.start, half, progress / options.until) / half)
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


def inputs_at(layer: nn.Module) -> int:
    """The axis of a weight that its inputs lie along: of a transposed convolution (in, out / groups, ...) the first."""
    return 0 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 1


def _rows(weights: Sequence[Tensor], share: float) -> None:
    """In this share of all rows of four, along the last axis, the two smallest become zero: first where these are smallest."""
    views = [weight.reshape(-1, ROW) for weight in weights]  # copies where there is a kernel
    every = torch.cat([each.abs() for each in views])
    least, at = every.topk(ZEROS, dim=1, largest=False)
    n = math.floor(share * len(every))
    chosen = least.square().sum(1).argsort(stable=True)[:n]
    mask = torch.zeros_like(every, dtype=torch.bool)
    mask[chosen.unsqueeze(1), at[chosen]] = True
    for weight, rows in zip(weights, torch.split(mask, [len(each) for each in views]), strict=True):
        weight.masked_fill_(rows.view(weight.shape), 0)
