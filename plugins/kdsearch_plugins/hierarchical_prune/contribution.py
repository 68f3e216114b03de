"""Stage 0, contribution analysis: P(i, c), the network's quality without component c of block i, and DeltaP(i, c) = P(i, c) - P.

Each measurement is kept as soon as it is made: killed anywhere, at most the one under way is lost, and none is made twice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdsearch.kit.blocks import Block, Part, Removal, surgery

FAILS = (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, LookupError)
Once = Callable[[str, Callable[[], Any]], Any]  # `Services.once`


@dataclass(frozen=True)
class Evaluator:
    """What P is: `score(network)`, higher is better.

    Args:
        name: of the metric and all that it is measured on. seed: of what it draws.
        once: keeps values by key.
    """

    name: str
    score: Callable[[nn.Module], float]
    once: Once
    seed: int = 0


def fingerprint(module: nn.Module) -> str:
    """Hash of the structure and of every weight and buffer."""
    found = hashlib.sha256(str(module).encode())
    for name, value in module.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(-1).numpy().tobytes())
    return found.hexdigest()[:32]


def contributions(
    module: nn.Module,
    blocks: Sequence[Block],
    parts: Sequence[Part],
    removal: Removal,
    evaluator: Evaluator,
    told: Callable[[float, str], None] = lambda share, what: None,
    lost: Callable[[Part, str], None] = lambda part, why: None,
) -> dict[Part, float]:
    """DeltaP of each part, removed alone. A network that does not answer, or answers with no number, has lost everything.

    Args:
        told: the share of them that is measured, and what comes next.
        lost: a part without which all is lost, and why.

    Raises:
        Exception: what the intact network raises, and what memory that is short does: nothing of the kind is kept.
    """
    own = fingerprint(module)

    def measured(part: Part | None) -> float:
        where = "intact" if part is None else f"{part[0]}\t{part[1]}\t{removal}"
        key = f"hierarchical_prune 3 {own} {where} {evaluator.name} seed {evaluator.seed}"

        def make() -> float | str:
            try:
                with surgery(module, blocks, [] if part is None else [part], removal):
                    value = evaluator.score(module)
            except FAILS as error:  # a network that reads what a part was for
                if part is None or is_short_of_memory(error):
                    raise
                return why(error)
            return value if math.isfinite(value) else f"a score of {value}"

        found = evaluator.once(key, make)
        if part is not None and isinstance(found, str):
            lost(part, found)
        return -math.inf if isinstance(found, str) else float(found)

    intact, found = measured(None), dict[Part, float]()
    for nth, part in enumerate(parts):
        told(nth / len(parts), f"without part {nth + 1} of {len(parts)}")
        found[part] = measured(part) - intact
    return found


def why(error: Exception) -> str:
    """In one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def is_short_of_memory(error: Exception) -> bool:
    """Allocators of the CPU, and libraries on a GPU, say so in words alone."""
    said = str(error).lower()
    words = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
    return isinstance(error, torch.OutOfMemoryError) or any(each in said for each in words)
