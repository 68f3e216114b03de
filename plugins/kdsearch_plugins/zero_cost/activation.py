"""Scores from activation codes at initialisation: one forward pass in train mode, no teacher, no labels, no gradient."""

from __future__ import annotations

import math

from torch import Tensor

from kdsearch.kinds import Model, NoOptions, Probe, Proxy
from kdsearch.ops.activation_codes import ActivationCodes, distinct_patterns, hamming_kernel, log_determinant
from kdsearch.ops.undisturbed import undisturbed


def activation_codes(student: Model, probe: Probe) -> list[Tensor]:
    """(B, units) booleans of every rectifier of the student on the probe's batch."""
    codes = ActivationCodes()
    with undisturbed(student.module), codes:
        probe.task.call(student, probe.batch)
    return codes.layers


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
