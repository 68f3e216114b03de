"""Structure strings of Zen-NAS (Lin et al., ICCV 2021, arXiv 2102.01063): a network as super blocks from input to output.

    SuperConvK3BNRELU(in,out,stride,1)                      one convolution
    SuperResK3K3(in,out,stride,bottleneck,sublayers)        units of two KxK convolutions
    SuperResK1K3K1(in,out,stride,bottleneck,sublayers)      units of a KxK between two 1x1 convolutions

The stride is that of the first sublayer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

IMAGE = 3  # channels that a text says go into the first block, whatever the images have
SPLIT = 6  # sublayers from which a block is split in two
LARGEST = 8192  # channels and sublayers that a text may ask for

Kind = Literal["conv", "kxk", "k1kxk1"]

_FORMS: tuple[tuple[Kind, re.Pattern[str], str], ...] = (
    ("conv", re.compile(r"SuperConvK(1|3|5|7)BNRELU"), "SuperConvK{k}BNRELU"),
    ("k1kxk1", re.compile(r"SuperResK1K(3|5|7)K1"), "SuperResK1K{k}K1"),
    ("kxk", re.compile(r"SuperResK(3|5|7)K\1"), "SuperResK{k}K{k}"),
)
_BLOCK = re.compile(r"(\w+)\(([\d,]*)\)")


@dataclass(frozen=True)
class SuperBlock:
    """`bottleneck`: channels inside a residual unit (0 for a convolution). What goes in is what the block before gives out."""

    kind: Kind
    kernel: int
    c_out: int
    stride: int = 1
    bottleneck: int = 0
    sublayers: int = 1


@dataclass(frozen=True)
class Unit:
    """One sublayer: a convolution, or a residual unit."""

    kind: Kind
    kernel: int
    c_in: int
    c_out: int
    stride: int
    bottleneck: int


Structure = tuple[SuperBlock, ...]


def read(text: str) -> Structure:
    """The blocks that a text names. Raise ValueError saying what was expected, and where."""
    blocks: list[SuperBlock] = []
    text, at, c_in = re.sub(r"\s", "", text), 0, IMAGE
    while at < len(text):
        found = _BLOCK.match(text, at)
        if found is None:
            raise ValueError(f"blocks such as SuperResK3K3(16,32,2,32,2), not '{text[at : at + 40]}'")
        block, told_in = _read_block(found[1], found[2], found[0])
        if blocks and told_in != c_in:
            raise ValueError(
                f"{c_in} channels into block {len(blocks) + 1}, as many as leave the one before: {found[0]}"
            )
        blocks.append(block)
        at, c_in = found.end(), block.c_out
    if len(blocks) < 2 or blocks[0].kind != "conv":
        raise ValueError("a SuperConv block as the stem and at least one block after it")
    return tuple(blocks)


def _read_block(name: str, inside: str, shown: str) -> tuple[SuperBlock, int]:
    kind, kernel = next(((kind, int(m[1])) for kind, form, _ in _FORMS if (m := form.fullmatch(name))), ("", 0))
    if not kind:
        raise ValueError(
            f"SuperConvK1|3|5|7BNRELU, SuperResK3K3|K5K5|K7K7 or SuperResK1K3K1|K1K5K1|K1K7K1, not '{name}'"
        )
    numbers = [int(each) for each in inside.split(",") if each]
    names = (
        ["in", "out", "stride", "sublayers"] if kind == "conv" else ["in", "out", "stride", "bottleneck", "sublayers"]
    )
    if len(numbers) != len(names) or inside.count(",") != len(names) - 1:
        raise ValueError(f"({','.join(names)}) in {shown}")
    told = dict(zip(names, numbers, strict=True))
    for each, value in told.items():
        if each == "stride" and value not in (1, 2):
            raise ValueError(f"stride 1 or 2 in {shown}")
        if not 1 <= value <= LARGEST:
            raise ValueError(f"{each} from 1 to {LARGEST} in {shown}")
    if kind == "conv" and told["sublayers"] != 1:
        raise ValueError(f"one sublayer in {shown}")
    block = SuperBlock(kind, kernel, told["out"], told["stride"], told.get("bottleneck", 0), told["sublayers"])  # type: ignore[arg-type]
    return block, told["in"]


def write(blocks: Structure) -> str:
    """The text of the blocks: the inverse of `read`."""
    texts, c_in = [], IMAGE
    for block in blocks:
        name = next(form for kind, _, form in _FORMS if kind == block.kind).format(k=block.kernel)
        inner = () if block.kind == "conv" else (block.bottleneck,)
        numbers = (c_in, block.c_out, block.stride, *inner, block.sublayers)
        texts.append(f"{name}({','.join(map(str, numbers))})")
        c_in = block.c_out
    return "".join(texts)


def n_layers(blocks: Structure) -> int:
    """Sublayers of all blocks; a SuperConv has one."""
    return sum(block.sublayers for block in blocks)


def normal(blocks: Structure) -> Structure:
    """The one way to write this network: what continues a block is part of it, then blocks of 6 sublayers are split in two.

    A block of L >= 6 becomes L // 2 and the rest, the second with stride 1, until all are shorter.
    """
    merged: list[SuperBlock] = []
    for block in blocks:
        last = merged[-1] if merged else None
        if last is not None and block == replace(last, stride=1, sublayers=block.sublayers) and block.kind != "conv":
            merged[-1] = replace(last, sublayers=last.sublayers + block.sublayers)
        else:
            merged.append(block)
    return tuple(part for block in merged for part in _split(block))


def _split(block: SuperBlock) -> list[SuperBlock]:
    if block.sublayers < SPLIT:
        return [block]
    half = block.sublayers // 2
    rest = replace(block, stride=1, sublayers=block.sublayers - half)
    return _split(replace(block, sublayers=half)) + _split(rest)


def stages(blocks: Structure) -> list[Structure]:
    """The blocks after the stem by resolution: a block of stride 2 begins a stage, and so does the first."""
    numbers, stage = [], 0
    for block in blocks[1:]:
        stage += block.stride > 1
        numbers.append(stage)
    parts = groupby(zip(numbers, blocks[1:], strict=True), key=lambda each: each[0])
    return [tuple(block for _, block in part) for _, part in parts]


def units(blocks: Sequence[SuperBlock], c_in: int) -> list[Unit]:
    """The sublayers of consecutive blocks that read c_in channels."""
    found = []
    for block in blocks:
        for position in range(block.sublayers):
            stride = 1 if position else block.stride
            found.append(Unit(block.kind, block.kernel, c_in, block.c_out, stride, block.bottleneck))
            c_in = block.c_out
    return found
