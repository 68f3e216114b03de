"""Students as a procedure makes them (`Procedure.adapt`, `grown`): what proxies score, costs count, and the report speaks of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kdsearch.engine.setup import LiveSetup
from kdsearch.kinds import Model, Procedure, SearchSpace
from kdsearch.kinds.units import a_model


def grows(procedure: type[Procedure[Any]]) -> bool:
    """Whether it says that its phases make other networks."""
    return procedure.grown is not Procedure.grown


def adapts(procedure: type[Procedure[Any]]) -> bool:
    """Whether the students that it ships are other networks than the search space's."""
    return procedure.adapt is not Procedure.adapt or grows(procedure)


def adapt(procedure: Procedure[Any], role: str, model: Model, setup: LiveSetup) -> Model:
    """The model as the procedure adapts it; a formula for the cost of what it was does not count any more."""
    if type(procedure).adapt is Procedure.adapt:
        return model
    formula = model.cost_of
    return _without(procedure.adapt(role, model, setup), formula)


def grow(procedure: Procedure[Any], role: str, model: Model, setup: LiveSetup) -> Model:
    """An adapted model as the procedure's phases leave it, with weights that mean nothing."""
    if not grows(type(procedure)):
        return model
    formula = model.cost_of
    return _without(procedure.grown(role, model, setup), formula)


def _without(found: Model, formula: Callable[[], Any] | None) -> Model:
    return replace(found, cost_of=None) if found.cost_of is formula else found


def adapted(space: SearchSpace[Any], change: Callable[[Model], Model]) -> SearchSpace[Any]:
    """The space with changed networks, which no formula gives the cost of; in all else the same."""
    own = type(space)

    class Adapted(own):  # type: ignore[valid-type, misc]
        def build(self, spec: Any, io: Any) -> Model:
            return change(a_model(self, own.build(self, spec, io)))

        def cost(self, spec: Any, io: Any) -> None:
            return None

    Adapted.__name__, Adapted.__qualname__, Adapted.__module__ = own.__name__, own.__qualname__, own.__module__
    made = copy.copy(space)
    made.__class__ = Adapted
    return made
