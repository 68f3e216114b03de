"""Binary activation codes: which units are on for which sample, as the training-free scores of the field read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
RECTIFIERS = frozenset(
    packet
    for name in (
        "relu",
        "hardtanh",
        "hardswish",
        "gelu",
        "silu",
        "leaky_relu",
        "elu",
        "mish",
        "_prelu_kernel",
        "threshold",
    )
    for packet in (getattr(_aten, name, None), getattr(_aten, name + "_", None))
    if packet is not None
)


class ActivationCodes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Within `with ActivationCodes() as codes:`, keeps `input > 0` (B, units) of every rectifier that runs, in order.

    It listens at the dispatcher, so that modules (nn.ReLU6, nn.Hardswish, nn.GELU, ...) and functions (F.relu, x.relu_())
    count alike and no hook is left on the model. Saturating gates (sigmoid, hardsigmoid) are no rectifiers.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket in RECTIFIERS:
            x = args[0]
            self.layers.append((x.detach() > 0).reshape(x.shape[0], -1))  # before `func`, which may work in place
        return func(*args, **(kwargs or {}))


def hamming_kernel(layers: list[Tensor]) -> Tensor:
    """K = sum over units of c c^T + (1 - c)(1 - c)^T: how many units agree for two samples. (B, B), float64.

    Source: Mellor et al., Neural Architecture Search without Training, ICML 2021 (arXiv 2006.04647), eq. 2.
    """
    if not layers:
        raise ValueError("no activation codes: the model ran no rectifier")
    total = torch.zeros(layers[0].shape[0], layers[0].shape[0], dtype=torch.float64)
    for layer in layers:
        signs = layer.to(torch.float32).mul_(2).sub_(1)  # +-1: agreements = (units + signs signs^T) / 2
        total += ((signs.shape[1] + signs @ signs.mT) / 2).to("cpu", torch.float64)
    return total


def log_determinant(kernel: Tensor) -> float:
    """ln |det K|; -inf where K is singular."""
    sign, value = torch.linalg.slogdet(kernel)
    return float(value) if float(sign) else float("-inf")


def distinct_patterns(layers: list[Tensor]) -> int:
    """How many different rows the matrix units x samples has.

    Source: Peng et al., SWAP-NAS, ICLR 2024 (arXiv 2403.04161), definition 2: sample-wise activation patterns.
    """
    found: list[Tensor] = []
    for layer in layers:
        units = layer.mT  # (units, B)
        words = [units[:, i : i + 62].to(torch.int64) for i in range(0, units.shape[1], 62)]
        packed = torch.stack([(word << torch.arange(word.shape[1], device=word.device)).sum(1) for word in words], 1)
        found.append(torch.unique(packed, dim=0).cpu())
    return int(torch.unique(torch.cat(found), dim=0).shape[0]) if found else 0
