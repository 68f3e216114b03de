"""Procedure: a list of phases. What one loss on one loop cannot express; the plain case is the built-in `distill`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic

from torch import nn

from kdsearch.kinds.distiller import Setup
from kdsearch.kinds.model import Model
from kdsearch.kinds.options import Capability, O
from kdsearch.kinds.phase import Phase
from kdsearch.kinds.task import Product


class Procedure(nn.Module, Capability, Generic[O]):
    """Parameters and modules it creates are its own parts: trained where an Optim names them, checkpointed, not exported.

    `phases` is a generator that is replayed on resume: it must be deterministic, or draw through `setup.once`; after a `yield`
    that phase is trained, or loaded. Not its work: backward, optimiser steps, checkpoints, loaders.
    """

    roles: ClassVar[tuple[str, ...]] = ("student",)  # models it trains
    ships: ClassVar[tuple[str, ...]] = ("student",)  # those that are costed and exported; see `shipped`
    needs_teacher: ClassVar[bool] = False
    paper_recipe: ClassVar[
        Mapping[str, Any]
    ] = {}  # what a study's `recipe:` says to train as the paper does, beside its use

    def __init__(self, options: O) -> None:
        super().__init__()
        self.options = options

    def adapt(self, role: str, model: Model, setup: Setup) -> Model:
        """Wide head, graft, LoRA. Default: the model.

        What it gives is what trials train and, unless `grown` says another, what controls train, proxies score, constraints count
        and the file holds. For the search it is asked with the defaults of options that are searched; there and for controls
        without teachers.
        """
        return model

    def grown(self, role: str, model: Model, setup: Setup) -> Model:
        """What the phases make of an adapted model where that is another network, such as one of more classes; it may be changed,
        and its weights may be any that a training can begin with, as controls do. Default: the model.

        Proxies score and constraints count this one, and pruning finds its weights again in it. Asked as `adapt` is.
        """
        return model

    def shipped(self) -> tuple[str, ...]:
        """The roles that are costed and exported, where that depends on options: `ships`, unless overridden.

        For costs and the search it is asked with the defaults of options that are searched, so an option that it reads is not
        one to search.
        """
        return self.ships

    @abstractmethod
    def phases(self, setup: Setup) -> Iterator[Phase]: ...

    def recovery(self, setup: Setup) -> Iterator[Phase]:
        """The phases after pruning, of models that are trained, as large as `grown` says, and cut. They leave networks as they are.

        Default: `phases`, which does for procedures that make no network larger.
        """
        return self.phases(setup)

    def product(self, setup: Setup) -> Product | None:
        """Fold, merge, more graphs; None = the task's product of every role that ships, each by itself.

        After the phases, or on models that are fresh or cut, where costs and scores ask what would be delivered.
        """
        return None

    def forward(self, *args: Any) -> Any:
        raise TypeError(f"{type(self).__name__} is not called; the engine asks for phases(setup)")
