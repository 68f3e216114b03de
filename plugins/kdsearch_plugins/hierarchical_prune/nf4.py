"""Stage 3, INT4 (W4A16): 4-bit weights in blocks with one scale each, as a round trip, and the bytes that they take.

NF4 (Dettmers et al., NeurIPS 2023, arXiv 2305.14314): 16 levels that are quantiles of a normal distribution; w = absmax * level.
Blocks of 64 weights run row by row through the whole matrix. INT4 symmetric: w = absmax / 7 * q, q in -7 .. 7.

onnxruntime's MatMulNBits and DequantizeLinear have uniform levels only, so there is no file in NF4: a study's 4-bit file is the
quantiser `int4`'s; `rounded` says what NF4 itself would answer, in fp32.
"""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
from torch import Tensor, nn

NF4 = torch.tensor(
    [
        -1.0, -0.69619280, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0,
        0.07958030, 0.16093020, 0.24611230, 0.33791524, 0.44070983, 0.56261700, 0.72295684, 1.0,
    ]
)  # fmt: skip
BLOCK = 64
BITS = {"fp32": 32, "int8": 8, "nf4": 4, "int4": 4}


def quantize(weight: Tensor, block: int = BLOCK, levels: Tensor = NF4) -> tuple[Tensor, Tensor]:
    """Codes (n,) and absmax (blocks,) of a weight with n elements, row by row; the last block may be short."""
    flat = weight.detach().float().flatten()
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % block)).view(-1, block)
    absmax = padded.abs().amax(1)  # (blocks,)
    scaled = padded / absmax.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)
    middle = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(scaled, middle)
    return codes.flatten()[: len(flat)], absmax


def dequantize(codes: Tensor, absmax: Tensor, shape: torch.Size, block: int = BLOCK, levels: Tensor = NF4) -> Tensor:
    """levels[code] * absmax of the code's block."""
    return (levels[codes] * absmax.repeat_interleave(block)[: len(codes)]).view(shape)


def int4_levels() -> Tensor:
    """-1, -6/7, ..., 1: symmetric INT4 in units of absmax."""
    return torch.arange(-7, 8) / 7


def rounded(module: nn.Module, kind: Literal["nf4", "int4"] = "nf4", block: int = BLOCK) -> nn.Module:
    """A copy whose linear layers have been through 4 bits and back: what their packed form answers, in fp32."""
    levels, found = NF4 if kind == "nf4" else int4_levels(), copy.deepcopy(module)
    for layer in found.modules():
        if isinstance(layer, nn.Linear):
            codes, absmax = quantize(layer.weight, block, levels)
            with torch.no_grad():
                layer.weight.copy_(dequantize(codes, absmax, layer.weight.shape, block, levels))
    return found


def weight_bytes(n: int, bits: int, block: int = BLOCK, scale_bits: int = 32) -> int:
    """Bytes of n weights in blocks with a scale each: 4 + 32 / 64 = 4.5 bits a weight. fp32 has no scales."""
    return math.ceil((n * bits + (0 if bits == 32 else math.ceil(n / block) * scale_bits)) / 8)


def file_bytes(module: nn.Module, kind: str = "nf4", block: int = BLOCK) -> int:
    """Of a network with the weights of its linear layers in this form; biases, embeddings, norms and convolutions in fp32."""
    linear = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear)}
    return sum(
        weight_bytes(each.numel(), BITS[kind] if id(each) in linear else 32, block) for each in module.parameters()
    )
