"""The terms of AZ-NAS and their sum of log ranks (Lee and Ham, CVPR 2024, arXiv 2403.19232). `complexity` is `macs`.

Features are the outputs of the model's blocks, and what the first of them reads; of its stages where it names no blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from kdsearch.errors import PluginError
from kdsearch.kinds import Model, NoOptions, Probe, Proxy
from kdsearch.ops.ranks import Rank
from kdsearch.ops.record import passing
from kdsearch.ops.undisturbed import undisturbed
from kdsearch_plugins.zero_cost.loss import finite
from kdsearch_plugins.zero_cost.size import Macs

EPS = 1e-8  # in the entropy's logarithm, as released


def feature_paths(student: Model) -> tuple[str, list[str]]:
    """(path whose input is the first feature or "", paths whose outputs are the others)."""
    if len(student.blocks) > 1:
        return student.blocks[0], list(student.blocks)
    names = [tap for tap in student.taps if tap.name == "stem" or tap.name.startswith("stage[")]
    return "", [tap.path for tap in names if tap.side == "output"]


def feature_rows(feature: Tensor) -> Tensor:
    """(rows, C): a map's places (B, C, H, W), tokens (B, N, C), or vectors (B, C)."""
    return feature.movedim(1, -1).flatten(0, -2) if feature.dim() > 3 else feature.flatten(0, -2)


def entropies(student: Model, probe: Probe) -> list[float]:
    """Of each feature, from input to output: of the spectrum of the channels' covariance, in [0, ln C]. One forward pass."""

    def make() -> list[float]:
        found: list[float] = []

        def keep(path: str, feature: Tensor) -> None:
            found.append(spectral_entropy(feature_rows(feature)))

        first, paths = feature_paths(student)
        with (
            undisturbed(student.module),
            passing(student.module, [first] if first else [], keep, "input"),
            passing(student.module, paths, keep),
        ):
            probe.task.call(student, probe.batch)
        return found

    return probe.shared(student, "zero_cost.entropies", make)


def spectral_entropy(rows: Tensor) -> float:
    """-sum p ln(p + eps), p the eigenvalues of the rows' covariance (N, C) divided by their sum; NaN where all rows are equal."""
    scale = rows.abs().amax()  # the entropy does not change with it, and squares stay in range
    if not bool(torch.isfinite(scale) & (scale > 0)):
        return math.nan
    centred = rows / scale
    centred = centred - centred.mean(0)
    p = torch.linalg.eigvalsh((centred.mT @ centred).double() / len(rows)).clamp(min=0)
    p = p / p.sum()
    return -float((p * (p + EPS).log()).sum())


class Expressivity(Proxy[NoOptions]):
    """Sum over features of their spectral entropy (eq. 2, 3)."""

    def score(self, student: Model, probe: Probe) -> float:
        found = entropies(student, probe)
        return finite(sum(found)) if found else -math.inf


class Progressivity(Proxy[NoOptions]):
    """The least growth of the entropy from one feature to the next (eq. 4); -inf with fewer than two features."""

    def score(self, student: Model, probe: Probe) -> float:
        found = entropies(student, probe)
        if not all(map(math.isfinite, found)):
            return -math.inf
        return min((b - a for a, b in pairwise(found)), default=-math.inf)


class Trainability(Proxy[NoOptions]):
    """Mean over blocks of 2 - s - 1/(s + 1e-6), s the spectral norm of the block's mean Jacobian (eq. 5 to 7); at most 0.

    The Jacobian is estimated with signs drawn for the gradient of the output. -inf: a block that is the identity, or no two
    features of one kind. One forward pass, cut after each feature, and the backward passes in between.
    """

    def score(self, student: Model, probe: Probe) -> float:
        rng, values = probe.rng, list[float]()
        last: Tensor | None = None

        def step(path: str, feature: Tensor) -> Tensor:
            nonlocal last
            if last is not None:
                values.extend(isometry(last, feature, rng))
            last = feature.detach().requires_grad_()
            return last.clone()  # the next block may work in place

        first, paths = feature_paths(student)
        with (
            undisturbed(student.module),
            torch.enable_grad(),
            passing(student.module, [first] if first else [], step, "input"),
            passing(student.module, paths, step),
        ):
            probe.task.call(student, probe.batch)
        return finite(sum(values) / len(values)) if values else -math.inf


def isometry(f_in: Tensor, f_out: Tensor, rng: Generator) -> list[float]:
    """[2 - s - 1/(s + 1e-6)] of one block; [-inf] for the identity; [] where input and output are of different kinds."""
    g_out = (2 * torch.randint(0, 2, f_out.shape, generator=rng) - 1).to(f_out)
    g_in = torch.autograd.grad(f_out, f_in, g_out, allow_unused=True)[0] if f_out.requires_grad else None
    if g_in is None:
        g_in = torch.zeros_like(f_in)
    if g_in.shape == g_out.shape and torch.equal(g_in, g_out):
        return [-math.inf]
    if g_in.dim() == 4 and g_out.dim() == 4:
        g_in = folded(g_in, (g_out.shape[2], g_out.shape[3]))
    if g_in.dim() != g_out.dim():
        return []
    rows_in, rows_out = feature_rows(g_in), feature_rows(g_out)
    if len(rows_in) != len(rows_out):
        return []
    jacobian = rows_in.mT @ rows_out / len(rows_out)
    if not bool(torch.isfinite(jacobian).all()):
        return [-math.inf]
    s = float(torch.linalg.matrix_norm(jacobian, 2))
    return [2 - s - 1 / (s + 1e-6)]


def folded(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C s s, *size): what a stride of s sees at one place as channels; edges are filled up with 0."""
    s = max(-(-x.shape[2] // size[0]), -(-x.shape[3] // size[1]))
    if s == 1:
        return x
    filled = F.pad(x, (0, size[1] * s - x.shape[3], 0, size[0] * s - x.shape[2]))
    return F.pixel_unshuffle(filled, s)


TERMS: Mapping[str, type[Proxy[NoOptions]]] = {
    "expressivity": Expressivity,
    "progressivity": Progressivity,
    "trainability": Trainability,
    "complexity": Macs,
}


class AzNas(Proxy[NoOptions]):
    """Sum over the four terms of the ln of the rank (eq. 8), here among models drawn from the space."""

    def __init__(self, options: NoOptions) -> None:
        super().__init__(options)
        self.terms = {name: term(options) for name, term in TERMS.items()}
        self.ranks: dict[str, Rank] = {}

    def fit(self, sample: Sequence[Model], probe: Probe) -> None:
        for name, term in self.terms.items():
            self.ranks[name] = Rank([term.score(model, probe) for model in sample])

    def score(self, student: Model, probe: Probe) -> float:
        """Raise PluginError before `fit`. A term without a score has the worst rank."""
        if not self.ranks:
            raise PluginError("az_nas ranks against a sample and has none", fix="Call fit(sample, probe) first.")
        return sum(math.log(self.ranks[name](term.score(student, probe))) for name, term in self.terms.items())
