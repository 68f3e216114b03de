"""Where a network is."""

from __future__ import annotations

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """Where its first parameter lies, or buffer; the CPU where it has neither."""
    return next((each.device for each in (*module.parameters(), *module.buffers())), torch.device("cpu"))
