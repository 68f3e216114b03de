"""Scores from activation codes at initialisation: one forward pass in train mode, no teacher, no labels, no gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, pvariance

from pydantic import Field
from torch import Tensor

from kdsearch.errors import PluginError
from kdsearch.kinds import Model, NoOptions, Options, Probe, Proxy
from kdsearch.ops.activation_codes import (
    ActivationCodes,
    distinct_patterns,
    hamming_kernel,
    log_determinant,
    of_samples,
)
from kdsearch.ops.cost import parameters
from kdsearch.ops.undisturbed import undisturbed


def activation_codes(student: Model, probe: Probe) -> list[Tensor]:
    """(B, units) booleans of every rectifier of the student on the probe's batch; one pass a candidate."""

    def make() -> list[Tensor]:
        codes = ActivationCodes()
        with undisturbed(student.module), codes:
            probe.task.call(student, probe.batch)
        return of_samples(codes.layers, len(probe.batch))

    return probe.shared(student, "zero_cost.codes", make)


class Nwot(Proxy[NoOptions]):
    """ln |det K|, K the Hamming kernel of the codes (Mellor et al., ICML 2021, arXiv 2006.04647).

    -inf: two samples look alike, or there is no rectifier. Codes of GELU, SiLU and Hardswish count as of ReLU:
    whether the input is above 0.
    """

    def score(self, student: Model, probe: Probe) -> float:
        layers = activation_codes(student, probe)
        return log_determinant(hamming_kernel(layers)) if layers else -math.inf


class Swap(Proxy[NoOptions]):
    """Number of distinct sample-wise activation patterns (Peng et al., ICLR 2024, arXiv 2403.04161), the size not counted."""

    def score(self, student: Model, probe: Probe) -> float:
        return float(distinct_patterns(activation_codes(student, probe)))


class SwapRegOptions(Options):
    mu: float | None = Field(
        None, ge=0, description="thousands of parameters that are best; default: the mean of a sample of the space"
    )
    sigma: float | None = Field(
        None,
        gt=0,
        description="thousands of parameters, squared, over which the score falls; default: the sample's variance",
    )


class SwapReg(Proxy[SwapRegOptions]):
    """ln psi - (P - mu)^2 / sigma: the regularised score psi exp(-(P - mu)^2 / sigma) of the same paper (section 4) in logs.

    psi: as `swap`; P: thousands of parameters. In logs sizes far from mu keep their order where exp would be 0.
    """

    def __init__(self, options: SwapRegOptions) -> None:
        super().__init__(options)
        self.mu, self.sigma = options.mu, options.sigma

    def fit(self, sample: Sequence[Model], probe: Probe) -> None:
        sizes = [thousands(model) for model in sample]
        self.mu = fmean(sizes) if self.options.mu is None else self.options.mu
        self.sigma = pvariance(sizes) or 1.0 if self.options.sigma is None else self.options.sigma

    def score(self, student: Model, probe: Probe) -> float:
        """Raise PluginError where mu or sigma is neither given nor fitted."""
        if self.mu is None or self.sigma is None:
            raise PluginError("swap_reg has no mu and sigma", fix="Give both, or call fit(sample, probe) first.")
        psi = distinct_patterns(activation_codes(student, probe))
        return math.log(psi) - (thousands(student) - self.mu) ** 2 / self.sigma if psi else -math.inf


def thousands(model: Model) -> float:
    cost = model.cost()
    return (cost.params if cost else parameters(model.module)) / 1000
