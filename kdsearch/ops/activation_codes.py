"""Binary activation codes: which units are on for which sample, as the training-free scores of the field read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
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
    """Within `with ActivationCodes() as codes:`, keeps `input > 0` (B, units) of every rectifier that runs.

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
            is_on = x.detach() > 0  # before `func`, which may work in place
            if is_on.dim() == 4 and is_on.is_contiguous(memory_format=torch.channels_last):
                is_on = is_on.permute(0, 2, 3, 1)  # as it lies in memory: a view; the units' order tells nothing
            self.layers.append(is_on.reshape(x.shape[0], -1))
        return func(*args, **(kwargs or {}))


def of_samples(layers: list[Tensor], n: int) -> list[Tensor]:
    """Codes of n samples, (n, units) each: of k n rows, as frames and patches that are folded into the batch, k are a sample's.

    Layers whose rows are no samples are left out, such as those of an MLP of positions. Where all layers have equally many rows
    they are as they are, be they of nodes or of pairs.
    """
    if len({len(layer) for layer in layers}) < 2:
        return layers
    return [layer.reshape(n, -1) for layer in layers if len(layer) and len(layer) % n == 0]


def hamming_kernel(layers: list[Tensor]) -> Tensor:
    """K = sum over units of c c^T + (1 - c)(1 - c)^T: how many units agree for two samples. (B, B), float64.

    Source: Mellor et al., Neural Architecture Search without Training, ICML 2021 (arXiv 2006.04647), eq. 2.
    """
    if not layers:
        raise ValueError("no activation codes: the model ran no rectifier")
    total = torch.zeros(layers[0].shape[0], layers[0].shape[0], dtype=torch.float64)
    for layer in layers:
        c = layer.to(torch.float32)
        both = (c @ c.mT).to("cpu", torch.float64)  # units that are on for both: whole numbers, exact up to 2^24
        n_on = both.diagonal()
        total += layer.shape[1] - n_on[:, None] - n_on + 2 * both
    return total


def log_determinant(kernel: Tensor) -> float:
    """ln |det K|; -inf where K is singular."""
    sign, value = torch.linalg.slogdet(kernel)
    return float(value) if float(sign) else float("-inf")


def distinct_patterns(layers: list[Tensor]) -> int:
    """How many different rows the matrix units x samples has.

    Source: Peng et al., SWAP-NAS, ICLR 2024 (arXiv 2403.04161), definition 2: sample-wise activation patterns.
    """
    if not layers:
        return 0
    words = np.concatenate([_packed(layer) for layer in layers], 1)  # (B / 64, units)
    ids = words[0]
    for word in words[1:]:
        _, which = np.unique(ids, return_inverse=True)
        others, other = np.unique(word, return_inverse=True)
        ids = which * np.int64(len(others)) + other
    ids.sort()  # counted here, as numpy's unique hashes and is many times slower
    return int(np.count_nonzero(np.diff(ids))) + 1 if len(ids) else 0


def _packed(layer: Tensor) -> npt.NDArray[np.int64]:
    """(B, units) booleans -> (ceil(B / 64), units): a unit's pattern over the samples as the bits of words."""
    octets = np.packbits(layer.cpu().numpy(), axis=0).astype(np.int64)  # (ceil(B / 8), units)
    words = np.zeros((-(-len(octets) // 8), octets.shape[1]), np.int64)
    for i, octet in enumerate(octets):
        words[i // 8] |= octet << (8 * (i % 8))
    return words
