"""Looking at a module without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(module: nn.Module, train: bool = True) -> Iterator[None]:
    """Run `module` in train (or eval) mode without graph; afterwards buffers, mode flags and global RNG are as they were.

    For forward passes only: weights and gradients are not saved, as a pass without graph cannot change them.
    """
    flags = [(part, part.training) for part in module.modules()]
    buffers = [
        (part, name, buffer, buffer.detach().clone())
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    devices = sorted({each.get_device() for each in module.parameters() if each.is_cuda})
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            module.train(train)
            yield
    finally:
        for part, flag in flags:
            part.training = flag
        for part, name, buffer, saved in buffers:
            buffer.detach().copy_(saved)
            part._buffers[name] = buffer  # a pass may have put another one there
