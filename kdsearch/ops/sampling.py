"""Samples of a generative network: Euler for a flow, DDIM for a diffusion, or one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from kdsearch.ops.noise import Flow, Noise

__all__ = ["sample", "sampled_steps"]

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x (B, ...), level (B,), cond (B, ...)) -> out like x


def sampled_steps(
    denoise: Denoise,
    cond: Tensor,
    null: Tensor | None,
    shape: Sequence[int],
    seed: int,
    steps: int = 10,
    guidance: float = 1.0,
    noise: Noise | None = None,
    solver: Literal["euler", "ddim", "one_step"] = "euler",
) -> Iterator[tuple[Tensor, Tensor]]:
    """(x, level) from the noise on, the sample last. See `sample`."""
    schedule = noise or Flow()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(
        len(cond), *shape, generator=generator
    )  # in the order of samples: result i is the same at any batch size
    levels = schedule.levels(1 if solver == "one_step" else steps)

    def predicted(x: Tensor, level: Tensor) -> Tensor:
        if guidance == 1.0:
            return denoise(x, level, cond)
        assert null is not None, "guidance needs the null condition"
        u = denoise(x, level, null.expand_as(cond))
        return u if guidance == 0.0 else u + guidance * (denoise(x, level, cond) - u)

    for now, after in pairwise(levels):
        level = now.expand(len(x))
        yield x, level
        out = predicted(x, level)
        if solver == "euler":
            x = x + (after - now) * out
        elif solver == "ddim":
            x = schedule.add_noise(schedule.to_x0(x, out, level), schedule.to_eps(x, out, level), after.expand(len(x)))
        else:
            x = schedule.to_x0(x, out, level)
    yield x, levels[-1].expand(len(x))


def sample(
    module: nn.Module,
    cond: Tensor,
    null: Tensor | None,
    shape: Sequence[int],
    seed: int,
    steps: int = 10,
    guidance: float = 1.0,
    noise: Noise | None = None,
    solver: Literal["euler", "ddim", "one_step"] = "euler",
    grad: bool = False,
) -> Tensor:
    """(B, *shape) samples, one a condition, in eval mode; the mode before comes back and no global generator is touched.

    Args:
        module: called with (x, level, cond). cond: (B, ...); null: (1, ...), the condition of none.
        guidance: g of u + g (c - u); 1 calls the conditional network alone, 0 the unconditional one.
        grad: keep the graph.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with nullcontext() if grad else torch.no_grad():
            x = torch.empty(0)
            for x, _ in sampled_steps(module, cond, null, shape, seed, steps, guidance, noise, solver):  # noqa: B007
                pass
        return x
    finally:
        for part, mode in modes:
            part.training = mode
