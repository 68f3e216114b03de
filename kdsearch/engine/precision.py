"""Autocast and, for fp16, the loss scale that keeps small gradients from vanishing.

torch's own pieces suffice: importing lightning_fabric for them took 2.8 s in every process of a search, and it changes the
loss scale once an optimiser, not once a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from kdsearch.engine.optim import Bound
from kdsearch.errors import PluginError

_CAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """fp32, bf16 or fp16 on a device. Raise PluginError for fp16 without CUDA.

    Args:
        scaler: fp16's loss scale; default: torch's, growing and backing off.
    """

    def __init__(self, name: str, accelerator: str, scaler: torch.amp.GradScaler | None = None) -> None:
        if name == "fp16" and accelerator == "cpu" and scaler is None:
            raise PluginError(
                "precision 'fp16' on a CPU", path="run.precision", expected="fp32 or bf16, or a CUDA device for fp16"
            )
        self.accelerator, self.dtype = accelerator, _CAST.get(name)
        self.scaler = torch.amp.GradScaler(accelerator) if name == "fp16" and scaler is None else scaler

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.accelerator, self.dtype) if self.dtype is not None else nullcontext()

    def backward(self, loss: Tensor, parameters: Sequence[nn.Parameter], retain_graph: bool = False) -> None:
        """Add the gradients of these parameters, and of no others."""
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        torch.autograd.backward(scaled, inputs=parameters, retain_graph=retain_graph)

    def move(self, bounds: Sequence[Bound]) -> None:
        """Clip, step and clear the optimisers of one turn; under fp16 their one loss scale changes once, afterwards.

        An optimiser without any gradient (its terms were constants in this batch) rests.
        """
        bounds = [bound for bound in bounds if any(p.grad is not None for p in bound.parameters.values())]
        for bound in bounds:
            if self.scaler is not None:
                self.scaler.unscale_(bound.torch)
            if bound.declared.clip:
                nn.utils.clip_grad_norm_(list(bound.parameters.values()), bound.declared.clip)
        for bound in bounds:
            if self.scaler is not None:
                self.scaler.step(bound.torch)
            else:
                bound.torch.step()
            bound.torch.zero_grad(set_to_none=True)
        if self.scaler is not None and bounds:
            self.scaler.update()

    def state(self) -> dict[str, Any]:
        """fp16's loss scale and how long it has held; empty in other precisions. JSON."""
        return dict(self.scaler.state_dict()) if self.scaler is not None else {}

    def load(self, state: dict[str, Any]) -> None:
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)
