"""Named random streams: a seed is a function of names, never of a state or an order."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import Generator


def seed_of(*names: Any) -> int:
    """A seed in [0, 2**63) from JSON values: equal names, equal seed, on every machine."""
    text = json.dumps(names, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(*names: Any) -> Generator:
    """The CPU generator seeded by `seed_of(*names)`."""
    return Generator().manual_seed(seed_of(*names))
