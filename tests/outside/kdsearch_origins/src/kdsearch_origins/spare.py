"""Pruner `spare`: the modality that validation can best do without is read no more."""

from __future__ import annotations

from pydantic import Field as Option
from torch import Tensor, nn

from kdsearch.kinds import Compressor, Model, Options, Plan, Subject


class SpareOptions(Options):
    loss: float = Option(0.05, ge=0, description="of the objective on validation that a modality may be worth, at most")


class Unread(nn.Module):
    """Stands for an encoder: (B, D) zeros, whatever there is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor, *beside: Tensor) -> Tensor:
        return x.new_zeros((x.shape[0], self.width)).float()


class Spare(Compressor[SpareOptions]):
    """Takes one encoder out of a network of the space `fusion`: what nobody reads need not be gathered."""

    def plan(self, subject: Subject) -> Plan:
        model = subject.model
        whole, names = subject.score(model), list(model.module.encoders)  # type: ignore[arg-type]
        worth = {name: whole - subject.score(self.apply(model, Plan({"drop": name}))) for name in names}
        log = tuple(f"without {name}: {lost:+.3f} of the objective lost" for name, lost in worth.items())
        least = min(worth, key=lambda name: worth[name])
        return Plan({"drop": least if worth[least] <= self.options.loss else None}, log=log)

    def apply(self, model: Model, plan: Plan) -> Model:
        cut, name = model.copy(), plan.edits["drop"]
        if name is not None:
            cut.module.encoders[name] = Unread(cut.width(name))  # type: ignore[operator,index]
        return cut
