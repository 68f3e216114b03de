"""Noise levels of generative models: what a noisy sample is, what the network predicts of it, and back. Two schedules, one shape.

Levels are (B,) floats: s in [0, 1] of a flow, 0 = clean; t in 0 .. 999 of a diffusion. Tensors are (B, ...). Everything random
comes from the generator that is handed in, before any network runs: networks that are compared see the same noisy samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

__all__ = ["Diffusion", "Flow", "Noise"]


class Noise(Protocol):
    def sample_level(self, n: int, generator: Generator) -> Tensor: ...
    def add_noise(self, x0: Tensor, eps: Tensor, level: Tensor) -> Tensor: ...
    def target(self, x0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        """What the network is to predict."""

    def to_x0(self, x: Tensor, out: Tensor, level: Tensor) -> Tensor: ...
    def to_eps(self, x: Tensor, out: Tensor, level: Tensor) -> Tensor: ...
    def weight(self, level: Tensor) -> Tensor:
        """Of the loss at a level."""

    def levels(self, n_steps: int) -> Tensor:
        """(n_steps + 1,) from noise to clean."""


def _wide(level: Tensor, x: Tensor) -> Tensor:
    return level.to(x).view(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True)
class Flow:
    """Rectified flow (Liu et al., ICLR 2023, arXiv 2209.03003): x = (1 - s) x0 + s eps, predicted is v = eps - x0.

    Levels are logit-normal (Esser et al., ICML 2024, arXiv 2403.03206, section 3.1) or uniform; `shift` k makes of s
    k s / (1 + (k - 1) s).
    """

    sampling: Literal["logit_normal", "uniform"] = "logit_normal"
    shift: float = 1.0

    def shifted(self, s: Tensor) -> Tensor:
        return self.shift * s / (1 + (self.shift - 1) * s)

    def sample_level(self, n: int, generator: Generator) -> Tensor:
        if self.sampling == "uniform":
            return self.shifted(torch.rand(n, generator=generator))
        return self.shifted(torch.randn(n, generator=generator).sigmoid())

    def add_noise(self, x0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        s = _wide(level, x0)
        return (1 - s) * x0 + s * eps

    def target(self, x0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        return eps - x0

    def to_x0(self, x: Tensor, out: Tensor, level: Tensor) -> Tensor:
        return x - _wide(level, x) * out

    def to_eps(self, x: Tensor, out: Tensor, level: Tensor) -> Tensor:
        return x + (1 - _wide(level, x)) * out

    def weight(self, level: Tensor) -> Tensor:
        return torch.ones_like(level)

    def levels(self, n_steps: int) -> Tensor:
        return self.shifted(torch.linspace(1, 0, n_steps + 1))


@dataclass(frozen=True)
class Diffusion:
    """DDPM with Stable Diffusion's betas: x = sqrt(a) x0 + sqrt(1 - a) eps, a the running product of 1 - beta.

    Args:
        predicts: eps, x0, or v = sqrt(a) eps - sqrt(1 - a) x0 (Salimans and Ho, ICLR 2022, arXiv 2202.00512).
        gamma: min-SNR weights min(SNR, gamma), for eps over SNR, for v over SNR + 1 (Hang et al., ICCV 2023, arXiv 2303.09556);
            0 = 1.
    """

    predicts: Literal["eps", "x0", "v"] = "eps"
    gamma: float = 0.0
    alphas: Tensor = field(init=False, compare=False)  # (1000,) float64

    def __post_init__(self) -> None:
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
        object.__setattr__(self, "alphas", (1 - betas).cumprod(0))

    def _alpha(self, level: Tensor) -> Tensor:
        """(B,) float64, or float32 where a device has no other."""
        known = self.alphas.float() if level.device.type == "mps" else self.alphas
        return known.to(level.device)[level.long().clamp(min=0)]

    def _roots(self, level: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a) and sqrt(1 - a); level -1 is clean."""
        a = torch.where(level < 0, 1.0, self._alpha(level))
        return _wide(a.sqrt(), x), _wide((1 - a).sqrt(), x)

    def sample_level(self, n: int, generator: Generator) -> Tensor:
        return torch.randint(0, 1000, (n,), generator=generator).float()

    def add_noise(self, x0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        root, rest = self._roots(level, x0)
        return root * x0 + rest * eps

    def target(self, x0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        root, rest = self._roots(level, x0)
        return {"eps": eps, "x0": x0, "v": root * eps - rest * x0}[self.predicts]

    def to_x0(self, x: Tensor, out: Tensor, level: Tensor) -> Tensor:
        root, rest = self._roots(level, x)
        return {"eps": (x - rest * out) / root, "x0": out, "v": root * x - rest * out}[self.predicts]

    def to_eps(self, x: Tensor, out: Tensor, level: Tensor) -> Tensor:
        root, rest = self._roots(level, x)
        return {"eps": out, "x0": (x - root * out) / rest, "v": root * out + rest * x}[self.predicts]

    def weight(self, level: Tensor) -> Tensor:
        if not self.gamma:
            return torch.ones_like(level)
        a = self._alpha(level).to(level)
        snr = a / (1 - a)
        return snr.clamp(max=self.gamma) / {"eps": snr, "x0": torch.ones_like(snr), "v": snr + 1}[self.predicts]

    def levels(self, n_steps: int) -> Tensor:
        return torch.cat([torch.linspace(999, 0, n_steps).round(), torch.tensor([-1.0])])
