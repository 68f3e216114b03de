"""Compressor: the one contract of pruners and quantizers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol

from kdsearch.kinds.model import Cost, Model
from kdsearch.kinds.options import Capability, O
from kdsearch.kinds.services import Services
from kdsearch.kinds.task import IO


@dataclass(frozen=True)
class Plan:
    """What to do, as JSON: it is stored, replayed on fresh weights, and shown. `lr_scale`: for the recovery that follows."""

    edits: Mapping[str, Any]
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    log: tuple[str, ...] = ()


class Subject(Services, Protocol):
    """What a plan is made from. Calibration and scores see training and validation data only."""

    @property
    def model(self) -> Model: ...
    @property
    def io(self) -> IO: ...
    @property
    def budget(self) -> Mapping[str, float]:
        """The study's constraints."""
        ...

    def score(self, model: Model) -> float:
        """The study's objective on validation; higher is better."""

    def cost(self, model: Model) -> Cost: ...


class Compressor(Capability, Generic[O]):
    """Not its work: recovery (a procedure), gating (deploy).

    `side`: "model" changes the torch model before export, by `apply`: a pruner. "file" rewrites each exported ONNX file, by
    `rewrite`: a quantizer.
    """

    side: Literal["model", "file"] = "model"

    def __init__(self, options: O) -> None:
        self.options = options

    @abstractmethod
    def plan(self, subject: Subject) -> Plan:
        """Does not change the model."""

    def apply(self, model: Model, plan: Plan) -> Model:
        """Torch side: surgery. Replayed on a freshly built model it gives equal shapes."""
        return model

    def rewrite(self, file: Path, plan: Plan, feeds: Iterable[Mapping[str, Any]]) -> None:
        """File side: rewrite the ONNX file in place. `feeds`: calibration inputs, NumPy arrays by input name."""
