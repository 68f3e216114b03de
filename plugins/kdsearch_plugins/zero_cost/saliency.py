"""Scores from dL/dw at initialisation, summed over the weight matrices w; as coded in `SamsungLabs/zero-cost-nas`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from kdsearch.kinds import Model, NoOptions, Options, Probe, Proxy, searched
from kdsearch.ops.init import WEIGHTED
from kdsearch.ops.record import passing
from kdsearch.ops.weights import differentiable, gradients, weight_matrices
from kdsearch_plugins.zero_cost.loss import batch_loss, finite, labelled, weight_gradients


def total(values: Tensor) -> float:
    return float(values.detach().sum(dtype=torch.float64))


def alive(grads: Mapping[str, Tensor], value: float) -> float:
    """The value, where it is a number and any gradient is not 0: signed sums are 0 in the midst of others for a dead network."""
    return finite(value) if any(bool(each.any()) for each in grads.values()) else -math.inf


class Snip(Proxy[NoOptions]):
    """Sum of |w dL/dw| (Lee et al., ICLR 2019, arXiv 1810.02340, eq. 6 without its normalisation)."""

    def score(self, student: Model, probe: Probe) -> float:
        weights, grads = weight_matrices(student.module), weight_gradients(student, probe)
        return finite(sum(total((weights[path] * grads[path]).abs()) for path in grads))


class Plain(Proxy[NoOptions]):
    """Sum of w dL/dw, signed (Mozer and Smolensky, NIPS 1988, as coded by Abdelfattah et al., ICLR 2021, arXiv 2101.08134)."""

    def score(self, student: Model, probe: Probe) -> float:
        weights, grads = weight_matrices(student.module), weight_gradients(student, probe)
        return alive(grads, sum(total(weights[path] * grads[path]) for path in grads))


class GradNorm(Proxy[NoOptions]):
    """Sum over layers of ||dL/dW||_2 (Abdelfattah et al., ICLR 2021, arXiv 2101.08134)."""

    def score(self, student: Model, probe: Probe) -> float:
        grads = weight_gradients(student, probe)
        return finite(sum(float(torch.linalg.vector_norm(each, dtype=torch.float64)) for each in grads.values()))


class TwiceDifferentiable(TorchFunctionMode):
    """Within, hardsigmoid is its own formula: torch's has no second derivative."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.hardsigmoid:
            return F.relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))


class GraspOptions(Options):
    temperature: Annotated[float, searched(low=1.0, high=200.0, log=True)] = Field(
        1.0, gt=0, description="outputs are divided by it, T; 1 as a score, 200 in the pruning paper"
    )


class Grasp(Proxy[GraspOptions]):
    """-sum w (H g), H the Hessian and g the gradient of the loss (Wang et al., ICLR 2020, arXiv 2002.07376, eq. 8, negated).

    H g is the gradient of sum g.detach() g: one forward pass and two backward passes, of which the second is twice as long.
    """

    def score(self, student: Model, probe: Probe) -> float:
        with (
            differentiable(student.module) as weights,
            TwiceDifferentiable(),
            sdpa_kernel(SDPBackend.MATH),
        ):  # the fused ones have no 2nd derivative
            loss = batch_loss(student, probe, labelled(probe), self.options.temperature)
            g = gradients(loss, weights, create_graph=True)
            z = torch.stack([torch.zeros(()), *((each.detach() * each).sum() for each in g.values())]).sum()
            hg = gradients(z, weights)
            return alive(g, -sum(total(weights[path] * hg[path]) for path in weights))


class FisherOptions(Options):
    count: Literal["weights", "channels"] = Field(
        "weights", description="a channel's value counts once for each of its weights, as released, or once"
    )


class Fisher(Proxy[FisherOptions]):
    """Sum over output channels of mean_n (sum_places a_n d_n)^2 / 2, a the activation, d = dL/da (Theis et al., 2018, eq. 6).

    Source of the score: Turner et al., BlockSwap, ICLR 2020 (arXiv 1906.04113). Over convolutions and linear layers.
    """

    def score(self, student: Model, probe: Probe) -> float:
        layers = {path: part for path, part in student.module.named_modules() if isinstance(part, WEIGHTED)}
        seen: list[tuple[nn.Module, Tensor]] = []

        def keep(path: str, out: Tensor) -> Tensor:
            seen.append((layers[path], out))
            return out.clone()  # a rectifier in place would change what was seen

        with differentiable(student.module), passing(student.module, list(layers), keep):
            loss = batch_loss(student, probe, labelled(probe))
            found = gradients(loss, {str(i): out for i, (_, out) in enumerate(seen)})
            values = [self.of_layer(layer, out, found[str(i)]) for i, (layer, out) in enumerate(seen)]
            return finite(sum(values))

    def of_layer(self, layer: nn.Module, a: Tensor, d: Tensor) -> float:
        """The layer's share; channels are the last axis of a linear layer's output, the second of a convolution's."""
        axis = -1 if isinstance(layer, nn.Linear) else 1
        s = (a * d).detach().movedim(axis, 1).flatten(2).sum(2) if a.dim() > 2 else (a * d).detach()  # (B, C)
        channels = s.double().square().mean(0) / 2
        weight = layer.weight
        assert isinstance(weight, Tensor)
        return total(channels) * (weight.numel() // len(channels) if self.options.count == "weights" else 1)
