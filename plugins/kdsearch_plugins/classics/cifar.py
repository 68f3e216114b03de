"""How the benchmarks of distillation train on CIFAR-100 (Tian et al., ICLR 2020, arXiv 1910.10699): 240 epochs, as shares.

As in the scripts that were released with that paper and with DKD: lr 0.05, a tenth of it after epochs 150, 180 and 210 (MobileNet
and ShuffleNet students begin at 0.01). They are the field's, not those of KD's and SP's own papers, which train on other data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CIFAR: Mapping[str, Any] = {
    "optimizer": "sgd",
    "lr": 0.05,
    "batch_size": 64,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": {"kind": "step", "at": [0.625, 0.75, 0.875], "factor": 0.1},
}
