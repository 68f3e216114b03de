"""Compressor: the one contract of pruners, sparsifiers and quantizers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol

from torch import Tensor

from kdsearch.errors import PluginError
from kdsearch.kinds.data import Batch
from kdsearch.kinds.model import Cost, Model
from kdsearch.kinds.options import Capability, O
from kdsearch.kinds.procedure import Procedure
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

    def batches(self, n: int, size: int = 32) -> Sequence[Batch]:
        """The same n training samples at each call (all, where there are fewer), unaugmented, `size` a batch. Labels that the study
        hides are hidden. Raise PluginError where there are no data.
        """
        ...

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """The task's loss of the model as it is, a scalar with its graph. Raise PluginError where there is no task."""
        ...

    @property
    def budget(self) -> Mapping[str, float]:
        """Constraint -> its limit, of those that the study sets."""
        ...

    def score(self, model: Model, samples: int | None = None) -> float:
        """The study's objective on validation, or on so many samples of it, evenly spaced; higher is better."""

    def cost(self, model: Model) -> Cost: ...


@dataclass(frozen=True)
class Judge:
    """What validation says of files that a quantizer chooses among; the test split has no say.

    Args:
        lost: file -> how much worse than the network's fp32 file it is, in the objective's own unit.
        allowed: how much the study lets it lose. equal: a difference that decides nothing.
    """

    lost: Callable[[Path], float]
    allowed: float
    equal: float

    def allows(self, loss: float) -> bool:
        return loss <= self.allowed + 1e-12


def planned(compressor: Compressor[Any], subject: Subject) -> Plan:
    """A compressor's plan. Raise PluginError where it gives something else."""
    plan: object = compressor.plan(subject)
    if not isinstance(plan, Plan):
        expected = "a kdsearch.kinds.Plan"
        raise PluginError(f"`plan` of {type(compressor).__name__} gives a {type(plan).__name__}", expected=expected)
    return plan


def uncut(role: str) -> str:
    """The role, in a recovery, of the network that a pruned role was before: a frozen teacher."""
    return f"uncut.{role}"


class Compressor(Capability, Generic[O]):
    """Not its work: the loop of the recovery (the engine's), gating (deploy).

    `side`: "model" changes the torch model before export, by `apply`: a pruner. "weights" leaves its shapes, and demands zeros of
    its weights by `enforce`: a sparsifier. "file" rewrites each exported file of the suffix `rewrites`, by `rewrite`: a quantizer.

    Of a quantizer: `calibrates`: it needs samples. `elsewhere`: by how much of an output's scale its files may answer differently
    on another processor, whose integer kernels round otherwise; 0 = as fp32 files.
    """

    side: Literal["model", "weights", "file"] = "model"
    rewrites: ClassVar[str] = ".onnx"
    calibrates: ClassVar[bool] = False
    elsewhere: ClassVar[float] = 0.0
    watch: Callable[[float, str], None] | None = None  # the host's, where somebody looks on
    judge: Judge | None = None  # the host's, while it has a file rewritten and has validation data

    def __init__(self, options: O) -> None:
        self.options = options

    def preflight(self, model: Model, io: IO) -> None:
        """Before any work: raise UserError for an option that names what no network like `model`, which is not trained, has.

        Key paths start with `compress.prune`, wherever the study has the step.
        """

    @property
    def is_timed(self) -> bool:
        """Whether its plan goes by how fast this machine is: on another one it is made anew."""
        return False

    @abstractmethod
    def plan(self, subject: Subject) -> Plan:
        """Does not change the model."""

    def apply(self, model: Model, plan: Plan) -> Model:
        """Torch side. Of a pruner surgery, which replayed on a freshly built model gives equal shapes.

        Of a quantizer a copy that computes as its file will, with gradients: what is trained where a file loses too much. Weights
        that are parametrised become what they compute when it is written. Default: the model, which is not trained then.
        """
        return model

    def enforce(self, model: Model, plan: Plan, progress: float) -> None:
        """Weights side: change the model's weights in place to what the plan demands at progress in (0, 1] of the recovery.

        Asked after every optimiser step, and last with 1.0. A pure function of weights, plan and progress: on several devices each
        does it for itself, and a killed recovery goes on.
        """

    def recovery(self, plans: Mapping[str, Plan]) -> Procedure[Any] | None:
        """What trains the cut networks again, from their plans by role; None = the winner's recipe.

        Its setup has the networks before the cut as frozen teachers, by `uncut(role)`. What ships stays the winner's procedure's
        word.
        """
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What `rewrite` found out, for result and card."""
        return tuple(self.__dict__.get("_notes", ()))

    def note(self, text: str) -> None:
        """A line on what was found or chosen while a file was rewritten."""
        self.__dict__.setdefault("_notes", []).append(text)

    def progress(self, share: float, what: str) -> None:
        """Call it in long work: `share` of it is done, `what` comes next. The host shows it, and stops the work here by raising."""
        if self.watch is not None:
            self.watch(share, what)

    def rewrite(self, file: Path, plan: Plan, feeds: Iterable[Mapping[str, Any]]) -> None:
        """File side: rewrite the file, and its companions, in place. `feeds`: calibration inputs, NumPy arrays by input name."""
