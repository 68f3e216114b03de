"""Initialisations that training-free scores ask for; weights that know nothing in place of trained ones."""

from __future__ import annotations

import torch
from torch import Generator, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdsearch.ops.seeding import seed_generators

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


@torch.no_grad()
def gaussian_init(module: nn.Module, generator: Generator) -> None:
    """In place: weights of convolutions and linear layers from N(0, 1), their biases 0, norms 1 and 0, batch statistics reset.

    All else (embeddings, tokens) stays. Drawn on the CPU in the order of `modules()`: a function of the generator alone.
    """
    for part in module.modules():
        if isinstance(part, WEIGHTED):
            drawn = torch.randn(part.weight.shape, generator=generator, dtype=torch.float32)
            part.weight.copy_(drawn)
            if part.bias is not None:
                part.bias.zero_()
        elif isinstance(part, NORMS):
            if part.weight is not None:
                part.weight.fill_(1.0)
            if part.bias is not None:
                part.bias.zero_()
            if isinstance(part, _BatchNorm):
                part.reset_running_stats()


@torch.no_grad()
def fresh_init(module: nn.Module, seed: int) -> None:
    """In place: every part that can reset its parameters does, as its class defines it; what stands outside of these stays.

    A function of the seed and of the order of `modules()`; the global generators are left as they were.
    """
    with torch.random.fork_rng(devices=[]):
        seed_generators(seed)
        for part in module.modules():
            reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
            if callable(reset):
                reset()
