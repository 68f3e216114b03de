"""Teacher: builds or loads a model, text writer or embedder; says how far others may look into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Generic, Literal

from torch import Generator, Tensor

from kdsearch.errors import PluginError
from kdsearch.kinds.data import Batch
from kdsearch.kinds.model import Model
from kdsearch.kinds.normalization import Normalization
from kdsearch.kinds.options import Capability, O
from kdsearch.kinds.services import Services, Writer
from kdsearch.kinds.task import IO


class Access(IntEnum):
    """How far one may look into a teacher; each level includes those below."""

    TEXT = 0
    LOGPROBS = 1
    TOPK = 2
    LOGITS = 3
    TAPS = 4
    GRADIENT = 5


@dataclass(frozen=True)
class Training:
    """How the study itself trains a teacher before it is used; epochs 0 = not at all.

    `labels`: "all" = also those that the student's study hides; "given" = only what the study has labels for.
    `is_fresh`: `Teacher.model` gives random weights, so that all it knows is from this training.
    `threads`: of the CPU, None = as many as a trial has.
    `procedure`: an installed one that trains it, with its options; "" = by the task's loss alone. There the network is the role
    `student`, the only one; no teacher is at hand, and the network's structure stays as it is.
    """

    epochs: int
    labels: Literal["all", "given"] = "all"
    lr: float = 2e-3
    batch_size: int = 128
    optimizer: str = "adamw"
    weight_decay: float = 0.05
    scale: Mapping[str, float] = field(default_factory=dict)  # glob on parameter names -> factor on lr
    threads: int | None = None
    accumulate: int = 1  # micro-batches a step
    is_fresh: bool = False
    procedure: str = ""
    procedure_options: Mapping[str, Any] = field(default_factory=dict)


class Teacher(Capability, Generic[O]):
    """Not its work: training (declared by `training`, done by the stage), caching."""

    access: Access = Access.TAPS  # of every teacher of the class, or of one with these options
    stochastic: bool = False  # equal samples are answered otherwise each time, so that nothing is stored; as `access`
    by_id: bool = (
        False  # answers are looked up by the sample's id: of the sample as it is, whatever augmentation makes of it
    )

    def __init__(self, options: O) -> None:
        self.options = options

    @property
    def training(self) -> Training | None:
        """How to train what `model` returned, or None when it comes trained."""
        return None

    @property
    def normalization(self) -> Normalization | None:
        """What its weights were trained on, where they say so; the host feeds it so. None: not known."""
        return None

    def preflight(self, services: Services) -> None:
        """Raise at once, without the data, for files that are not there or do not load, and for names that are not known."""

    def model(self, io: IO, services: Services) -> Model:
        """The network, untrained where `training` says so. A table looked up by id is one too."""
        raise PluginError(
            f"teacher {type(self).__name__} has no model", expected="a teacher with access LOGITS or more"
        )

    def writer(self, services: Services) -> Writer:
        """What writes, ready to be asked. The host keeps its replies: an equal request is never asked again."""
        raise PluginError(f"teacher {type(self).__name__} writes no text", expected="a teacher that writes")

    def embed(self, texts: Sequence[str], services: Services) -> Tensor:
        """(N, D) float32, row i a function of texts[i] alone. The host keeps the rows: a text is embedded once."""
        raise PluginError(f"teacher {type(self).__name__} embeds no text", expected="a teacher that embeds")

    def identity(self, services: Services) -> Mapping[str, Any]:
        """What its replies and embeddings depend on, JSON-able; kept ones are of this. Default: all of its options."""
        return self.options.model_dump(mode="json")

    def view(self, batch: Batch, rng: Generator) -> Batch:
        """What it is fed: labels as a channel, crops, its own tokens. Default: the batch.

        The host asks the instance whose `model` it has called. Raise DataError for samples that it knows no answer to.
        """
        return batch

    def facts(self) -> Mapping[str, Any]:
        """What the report should say of its origin: weights' source, licence."""
        return {}
