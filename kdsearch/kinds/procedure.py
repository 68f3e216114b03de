"""Procedure: a list of phases. What one loss on one loop cannot express; the plain case is the built-in `distill`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, Protocol

from torch import Generator, Tensor, nn

from kdsearch.kinds.data import DataSource
from kdsearch.kinds.distiller import Distiller
from kdsearch.kinds.model import Model
from kdsearch.kinds.options import Capability, O
from kdsearch.kinds.services import Services
from kdsearch.kinds.step import Clock, Step
from kdsearch.kinds.task import IO, Product, Task

Factor = float | Callable[[float], float]  # of progress in [0, 1)


@dataclass(frozen=True)
class Pass:
    """One pass over a feed: `order` is a pure function of it."""

    epoch: int
    ids: Sequence[str]
    batch_size: int
    rng: Generator


@dataclass(frozen=True)
class Feed:
    """Batches of a split. `order(Pass)` -> index lists, one a batch; None = shuffled, the last short batch kept."""

    split: str
    batch_size: int
    order: Callable[[Pass], list[list[int]]] | None = None
    augment: bool = True


@dataclass(frozen=True)
class Optim:
    """What one optimiser moves and how.

    Args:
        modules: their parameters that require a gradient, under names `<key>.<parameter>`.
        scale: glob on those names -> factor on lr (0 = frozen); the first match counts.
        schedule: "constant", "cosine" (to 0), or a function of progress; multiplies lr.
        clip: largest gradient norm; 0 = none.
    """

    modules: Mapping[str, nn.Module]
    name: str = "main"
    kind: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    clip: float = 0.0
    schedule: Literal["constant", "cosine"] | Callable[[float], float] = "cosine"
    scale: Mapping[str, Factor] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """Terms to sum, weight and descend; `train` names the optimisers that they move (None = all of the phase)."""

    terms: Mapping[str, Tensor]
    train: str | Sequence[str] | None = None


@dataclass(frozen=True)
class Ema:
    """`target`'s weights follow `source`'s: target = decay * target + (1 - decay) * source after each optimiser step."""

    source: nn.Module
    target: nn.Module
    decay: Factor = 0.999


StepFunction = Callable[[Step], Iterable[Update | tuple[Update, ...]]]


@dataclass(frozen=True)
class Phase:
    """One stretch of training.

    Args:
        name: unique in its procedure.
        step: a generator; every yield is a turn (its backward and optimiser step follow at once), a tuple is one turn whose
            gradients are all taken before any optimiser moves.
        feeds: by name; `epochs` counts passes over the first, the others cycle.
        train: optimisers; everything else is frozen and in eval mode.
        weights: of terms: `term`, `distiller.term` or `distiller`, else 1; may be functions of the clock.
        taps: role -> taps that `step` reads, beside those of the distillers.
        normalize: measure |task| / |term| on 8 batches before step 0, so that weights count in units of the task's loss.
        keep_eval: submodules that stay in eval mode though they are trained (frozen batch statistics).
        keep: "last" epoch's weights, or "best" = least total of the step on the validation split.
        score: role whose objective on validation is recorded each epoch; "" = none.
    """

    name: str
    step: StepFunction
    feeds: Mapping[str, Feed]
    train: Sequence[Optim]
    epochs: int
    weights: Mapping[str, float | Callable[[Clock], float]] = field(default_factory=dict)
    taps: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ema: Sequence[Ema] = ()
    normalize: bool = False
    keep_eval: Sequence[nn.Module] = ()
    keep: Literal["last", "best"] = "last"
    score: str = ""
    on_epoch_end: Callable[[Clock], None] | None = None


class Setup(Services, Protocol):
    """What a procedure builds its phases from."""

    @property
    def task(self) -> Task[Any]: ...
    @property
    def data(self) -> DataSource: ...
    @property
    def io(self) -> IO: ...
    @property
    def models(self) -> dict[str, Model]:
        """By role. A role that the procedure trains may be replaced or changed; teachers are constants."""
        ...

    @property
    def distillers(self) -> Mapping[str, Distiller[Any]]: ...
    @property
    def teacher_of(self) -> Mapping[str, str]:
        """Distiller -> the role of the teacher it learns from."""
        ...

    @property
    def weights(self) -> Mapping[str, float]:
        """The recipe's weights: `task`, `<distiller>`, `<distiller>.<term>`."""
        ...

    @property
    def normalize(self) -> bool: ...
    @property
    def epochs(self) -> int:
        """The recipe's whole length, in passes over the training split."""
        ...

    def feed(self, split: str, **changes: Any) -> Feed:
        """The study's batch size and shuffling, changed."""

    def optim(self, modules: Mapping[str, nn.Module], **changes: Any) -> Optim:
        """The study's optimiser, changed."""

    def fresh(self, role: str) -> Model:
        """A freshly initialised model of a role's architecture, adapted as the role's own. Each call draws other weights."""

    def freeze(self, role: str, model: Model) -> None:
        """A constant model under a new name (a previous self). Raises for the name of a trained role."""

    def score(self, metric: str, role: str, split: str = "val") -> float:
        """A metric of a role's model now. Never the test split."""


class Procedure(nn.Module, Capability, Generic[O]):
    """Parameters and modules it creates are its own parts: trained where an Optim names them, checkpointed, not exported.

    `phases` is a generator that is replayed on resume: it must be deterministic, or draw through `setup.once`; after a `yield`
    that phase is trained, or loaded. Not its work: backward, optimiser steps, checkpoints, loaders.
    """

    roles: ClassVar[tuple[str, ...]] = ("student",)  # models it trains
    ships: ClassVar[tuple[str, ...]] = ("student",)  # those that are costed and exported
    needs_teacher: ClassVar[bool] = False

    def __init__(self, options: O) -> None:
        super().__init__()
        self.options = options

    def adapt(self, role: str, model: Model, setup: Setup) -> Model:
        """Wide head, graft, LoRA: before proxies and costs. Default: the model."""
        return model

    @abstractmethod
    def phases(self, setup: Setup) -> Iterator[Phase]: ...

    def product(self, setup: Setup) -> Product | None:
        """Fold, merge, more graphs; None = the task's product of the first shipped role."""
        return None

    def forward(self, *args: Any) -> Any:
        raise TypeError(f"{type(self).__name__} is not called; the engine asks for phases(setup)")
