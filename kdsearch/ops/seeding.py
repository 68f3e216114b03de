"""torch's global generators, seeded."""

from __future__ import annotations

import torch


def seed_generators(seed: int) -> None:
    """What `torch.manual_seed` does, which formats a stack trace for each kind of absent accelerator: 1 ms a call."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
