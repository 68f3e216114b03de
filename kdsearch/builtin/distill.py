"""Procedure `distill`: one phase whose step sums the task's loss and the weighted terms of the recipe's distillers.

Without distillers it is plain training: the baseline, the all-labels control and the training of teachers are this, too.
"""

from __future__ import annotations

from kdsearch.kit.distillation import Distillation, DistillOptions


class Distill(Distillation[DistillOptions]):
    """Terms: `task`, and `<distiller>.<term>` of each distiller."""
