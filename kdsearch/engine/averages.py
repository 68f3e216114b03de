"""Averages of weights: how they follow what is trained, and a look at the networks as they would ship."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from kdsearch.kinds import Ema


@torch.no_grad()
def follow(ema: Ema, decay: float) -> None:
    """One step of the average: weights and floating buffers, one that has several names once; counters are copied."""
    source, target = ema.source.state_dict(), ema.target.state_dict()
    floating = [name for name, tensor in target.items() if tensor.dtype.is_floating_point]
    once: dict[tuple[int, torch.Size], str] = {}
    for name in floating:
        once.setdefault((target[name].data_ptr(), target[name].shape), name)
    names = list(once.values())
    move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch's own lacks types
    move([target[name] for name in names], [source[name].to(target[name]) for name in names], 1)
    for name in target.keys() - set(floating):
        target[name].copy_(source[name])


@contextmanager
def as_shipped(emas: Sequence[Ema], enforce: Callable[[], None]) -> Iterator[None]:
    """Meanwhile what is trained has the weights and buffers of its average, where that ships; afterwards its own again, to the bit.

    enforce: makes weights what a compressor demands of them, as it did with those that are trained.
    """
    shipped = [ema for ema in emas if ema.ships]
    before = [{name: each.clone() for name, each in ema.source.state_dict().items()} for ema in shipped]
    try:
        for ema in shipped:
            ema.source.load_state_dict(ema.target.state_dict())
        if shipped:
            enforce()
        yield
    finally:
        for ema, state in zip(shipped, before, strict=True):
            ema.source.load_state_dict(state)
