"""Phase: one stretch of training, and what it is declared by: feeds, optimisers, updates, averages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Generator, Tensor, nn

from kdsearch.kinds.step import Clock, Step

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
    """Batches of a split.

    Args:
        order: (Pass) -> index lists, one a batch; None = shuffled, the last short batch kept.
        classes: only samples that show one of them, with the targets of no other class (`Task.of_classes`); None = every sample.
    """

    split: str
    batch_size: int
    order: Callable[[Pass], list[list[int]]] | None = None
    augment: bool = True
    classes: Collection[int] | None = None


@dataclass(frozen=True)
class Optim:
    """What one optimiser moves and how.

    Args:
        modules: their parameters that require a gradient, under names `<key>.<parameter>`.
        scale: glob on those names -> factor on lr (0 = frozen); the first match counts.
        schedule: "constant", "cosine" (to 0), a `Schedule`, or any function of progress; multiplies lr.
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
    """`target`'s weights follow `source`'s: target = decay * target + (1 - decay) * source after each optimiser step.

    ships: they become the source's in the end, so that on validation, for `score` and `keep`, these are judged in its place.
    """

    source: nn.Module
    target: nn.Module
    decay: Factor = 0.999
    ships: bool = False


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
        classes: those that are learnt in it for the first time: at its end the objective of the first role in `score` is recorded
            on validation of these, of those of the phases before, of all so far, and how much of those before was forgotten.
        score: role whose objective on validation is recorded each epoch; of several the first one's is the training's; "" = none.
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
    classes: Collection[int] | None = None
    score: str | Sequence[str] = ""
    on_epoch_end: Callable[[Clock], None] | None = None
