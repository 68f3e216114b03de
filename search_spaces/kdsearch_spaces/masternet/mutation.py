"""Mutations of super blocks, as the searches of Zen-NAS (wide) and of DisWOT around ResNet-18 (narrow) make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Generator

from kdsearch_spaces.masternet.structure import Kind, Structure, SuperBlock, normal, stages

MULTIPLE, LEAST, MOST = 8, 8, 2048  # channels after a mutation
KERNELS = (3, 5, 7)

T = TypeVar("T")
Reach = Literal["wide", "narrow"]


@dataclass(frozen=True)
class Moves:
    """What a mutation draws from: factors of channels, kinds of residual blocks, changes of sublayers."""

    factors: tuple[float, ...]
    kinds: tuple[Kind, ...]
    sublayers: tuple[int, ...]


MOVES: dict[Reach, Moves] = {
    "wide": Moves((2.5, 2, 1.5, 1.25, 1, 1 / 1.25, 1 / 1.5, 1 / 2, 1 / 2.5), ("kxk", "k1kxk1"), (-2, -1, 0, 1, 2)),
    "narrow": Moves((1.5, 1.25, 1, 1 / 1.25, 1 / 1.5), ("kxk",), (-1, 0, 1)),
}


def mutated(blocks: Structure, moves: Moves, rng: Generator) -> Structure:
    """One block, drawn uniformly, with everything about it redrawn but its stride; maybe the same again."""
    at = pick(rng, range(len(blocks)))
    return normal((*blocks[:at], mutated_block(blocks[at], moves, rng), *blocks[at + 1 :]))


def mutated_block(block: SuperBlock, moves: Moves, rng: Generator) -> SuperBlock:
    """Convolutions change their channels alone; residual blocks kernel, kind, both widths and the number of sublayers."""
    c_out = scaled(block.c_out, pick(rng, moves.factors))
    if block.kind == "conv":
        return replace(block, c_out=c_out)
    return SuperBlock(
        kind=pick(rng, moves.kinds),
        kernel=pick(rng, KERNELS),
        c_out=c_out,
        stride=block.stride,
        bottleneck=scaled(block.bottleneck, pick(rng, moves.factors)),
        sublayers=max(block.sublayers + pick(rng, moves.sublayers), 1),
    )


def scaled(channels: int, factor: float) -> int:
    """channels x factor, to the nearest multiple of 8 (a half goes up) in [8, 2048]."""
    nearest = MULTIPLE * int(channels * factor / MULTIPLE + 0.5)
    return min(max(nearest, LEAST), MOST)


def crossed(a: Structure, b: Structure, rng: Generator) -> Structure | None:
    """The stem and each stage from one of two parents; None where they have other stages, by strides."""
    left, right = stages(a), stages(b)
    if [a[0].stride, *_strides(left)] != [b[0].stride, *_strides(right)]:
        return None
    stem = pick(rng, (a[0], b[0]))
    chosen = [pick(rng, pair) for pair in zip(left, right, strict=True)]
    return normal((stem, *(block for stage in chosen for block in stage)))


def _strides(found: list[Structure]) -> list[int]:
    return [stage[0].stride for stage in found]


def pick(rng: Generator, options: Sequence[T]) -> T:
    return options[int(torch.randint(len(options), (1,), generator=rng))]
