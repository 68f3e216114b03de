"""Stage 0, contribution analysis: P(i, c), the network's quality without component c of block i, and DeltaP(i, c) = P(i, c) - P.

Each measurement is kept as soon as it is made: killed anywhere, at most the one under way is lost, and none is made twice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from kdsearch.kit.blocks import Block, Part, Removal, surgery

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
) -> dict[Part, float]:
    """DeltaP of each part, removed alone. A network that does not answer, or answers with no number, has lost everything.

    told: the share of them that is measured, and what comes next.
    """
    own = fingerprint(module)

    def measured(part: Part | None) -> float:
        where = "intact" if part is None else f"{part[0]}\t{part[1]}\t{removal}"
        key = f"hierarchical_prune {own} {where} {evaluator.name} seed {evaluator.seed}"

        def make() -> float | None:
            with surgery(module, blocks, [] if part is None else [part], removal):
                value = evaluator.score(module)
            return value if math.isfinite(value) else None

        found = evaluator.once(key, make)
        return -math.inf if found is None else float(found)

    intact, found = measured(None), dict[Part, float]()
    for nth, part in enumerate(parts):
        told(nth / len(parts), f"without part {nth + 1} of {len(parts)}")
        found[part] = measured(part) - intact
    return found
