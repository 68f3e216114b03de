"""Stage 1, HPP (Hierarchical Position Pruning): which parts go, and in which order.

    W_pos(i) = exp((i - |B|) / |B|),    i the block's index of |B|
    Score(i, c) = -|DeltaP(i, c)| W_pos(i),    DeltaP(i, c) = P without component c of block i - P of the intact network

As printed, with the highest score first, of equal drops the EARLY block goes; the paper's intent is that late ones do. `intent` is
I(i, c) = |DeltaP| / W_pos, smallest first; `literal` is the printed formula; `none` is |DeltaP| alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kdsearch.errors import UserError
from kdsearch.kit.blocks import ALL, Block, Part

Position = Literal["intent", "literal", "none"]


def parse_range(text: str | None) -> list[int]:
    """Block indices of "25-29,31": the end of a range is not in it. None or "" is none.

    Raise ValueError for anything else, and for a range with nothing in it.
    """
    found: list[int] = []
    for each in (text or "").replace(" ", "").split(","):
        first, dash, end = each.partition("-")
        if not each:
            continue
        named = range(int(first), int(end)) if dash else [int(first)]
        if not named:
            raise ValueError(f"nothing is in '{each}'")
        found += named
    return found


def w_pos(i: int, n_blocks: int, temperature: float = 1.0) -> float:
    """In (exp(-1 / temperature), 1), larger for later blocks."""
    return math.exp((i - n_blocks) / n_blocks / temperature)


def importance(part: Part, drop: float, n_blocks: int, position: Position, temperature: float = 1.0) -> float:
    """The part of least importance goes first."""
    weight = w_pos(part[0], n_blocks, temperature)
    return {"intent": drop / weight, "literal": drop * weight, "none": drop}[position]


def ordered(delta: Mapping[Part, float], n_blocks: int, position: Position, temperature: float = 1.0) -> list[Part]:
    """Parts, least important first. Of equal ones, as those without any drop are, the later goes first under `intent`."""
    late = -1 if position == "intent" else 1

    def key(part: Part) -> tuple[float, int]:
        return importance(part, abs(delta[part]), n_blocks, position, temperature), late * part[0]

    return sorted(delta, key=key)


@dataclass
class Cut:
    """Parts that are removed, in order, and the ratio of the cost after each."""

    parts: list[Part] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)


def cut_to(
    order: Iterable[Part], blocks: Sequence[Block], ratio_of: Callable[[list[Part]], float], target: float, cut: Cut
) -> bool:
    """Remove parts in their order until the ratio is strictly below `target`: it overshoots by a part. Whether it got there.

    ratio_of: cost without these parts, of the intact network's; infinite where it does not run without them all, so that the last
    one stays. cut: goes on from it.
    """
    components = {block.index: set(block.components) for block in blocks}
    if cut.ratios and cut.ratios[-1] < target:
        return True
    for index, component in order:
        gone = {name for at, name in cut.parts if at == index}
        if ALL in gone or component in gone or (component != ALL and gone >= components[index]):
            continue
        ratio = ratio_of([*cut.parts, (index, component)])
        if math.isinf(ratio):
            continue
        cut.parts.append((index, component))
        cut.ratios.append(ratio)
        if ratio < target:
            return True
    return False


def eligible(blocks: Sequence[Block], text: str, key: str) -> set[int]:
    """Indices that a range names; "" names all. Raise UserError for what is no range, or no block."""
    try:
        named = parse_range(text)
        if text.strip() and not named:
            raise ValueError
    except ValueError:
        raise UserError(f"'{text}'", path=key, expected='block indices such as "3,5-8", where 8 is not in it') from None
    if beyond := [each for each in named if not 0 <= each < len(blocks)]:
        raise UserError(f"block {beyond[0]}", path=key, expected=f"0 to {len(blocks) - 1}: the network's blocks")
    return set(named) if named else {block.index for block in blocks}
