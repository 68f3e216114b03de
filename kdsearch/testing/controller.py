"""What every controller keeps. A test class inherits `ControllerContract` and says how to make one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from kdsearch.kinds import IO, Ask, Controller, Dim, Model, Options, Range, SearchSpace, Trial, searched
from kdsearch.testing.contract import require


class HillSpec(Options):
    x: Annotated[int, searched(low=0, high=15)] = Field(0, description="position")
    y: Annotated[int, searched(*range(0, 32, 2))] = Field(0, description="position, even")
    wet: Annotated[bool, searched(False, True)] = Field(False, description="a category")
    twin: Annotated[int, searched(0, 1)] = Field(0, description="means nothing: two specs, one network")


class HillSpace(SearchSpace[HillSpec]):
    """1,024 specs, 512 networks, and a smooth loss over them whose least value, 0, is at x 11, y 6, wet."""

    def canonical(self, spec: HillSpec) -> HillSpec:
        return spec.model_copy(update={"twin": 0})

    def build(self, spec: HillSpec, io: IO) -> Model:
        return Model(nn.Linear(spec.x + 1, spec.y + 1), ("x",))


def hill_loss(ask: Ask) -> float:
    """Squared distance to the best architecture and, where they are asked, to the best values of `DIMS`."""
    loss = 0.0
    if ask.spec is not None:
        loss += ((ask.spec["x"] - 11) / 15) ** 2 + ((ask.spec["y"] - 6) / 30) ** 2 + 0.2 * (not ask.spec["wet"])
    if "rate" in ask.values:
        loss += (math.log10(ask.values["rate"]) + 2) ** 2 / 4 + 0.1 * (_as_json(ask.values["kind"]) != ["b", 2])
        loss += (ask.values.get("extra", 4) - 4) ** 2 / 16
    return loss


DIMS = (
    Dim("rate", Range(low=1e-4, high=1.0, log=True)),
    Dim("extra", Range(low=0, high=9, integer=True), when=(("kind", (("b", 2), "c")),)),
    Dim("kind", Range(choices=("a", ("b", 2), "c", None))),
)


class ControllerContract:
    """Set `controller`.

    wants_finite: it goes through finite dimensions, whatever the seed (an exhaustive one).
    most_objectives: so many it can search for, as `controller` makes it.
    """

    wants_finite = False
    most_objectives = 3

    def controller(self) -> Controller[Any]:
        raise NotImplementedError

    def dims(self) -> tuple[Dim, ...]:
        return tuple(dim for dim in DIMS if dim.range.size is not None) if self.wants_finite else DIMS

    def history(self, n: int = 24, n_losses: int = 1) -> list[Trial]:
        """Random candidates in every state: complete, infeasible, pruned with a curve, failed."""
        rng, space = torch.Generator().manual_seed(5), HillSpace()
        from kdsearch.kinds.space import draw

        found: list[Trial] = []
        for number in range(n):
            spec = space.canonical(space.sample(rng)).model_dump(mode="json")
            values = _as_json({dim.path: draw(dim, rng) for dim in self.dims()})
            if values["kind"] not in (["b", 2], "c"):
                del values["extra"]
            loss = hill_loss(Ask({}, spec))
            losses = several = (loss, 1.0 - loss, loss * loss)[:n_losses]
            violations = ((number % 5 - 3) / 3.0,)
            state = ("complete", "complete", "complete", "pruned", "failed", "infeasible")[number % 6]
            if state == "complete":
                found.append(
                    Trial(
                        number,
                        values,
                        spec,
                        "complete",
                        losses,
                        violations,
                        ((0.5, several),),
                    )
                )
            elif state == "pruned":
                found.append(
                    Trial(
                        number,
                        values,
                        spec,
                        "pruned",
                        (),
                        (-1.0,),
                        ((0.5, several),),
                    )
                )
            elif state == "failed":
                found.append(
                    Trial(number, values, spec, "failed", (), (-1.0,), ((0.5, (math.nan,) * n_losses),), "NaN")
                )
            else:
                found.append(Trial(number, values, spec, "pruned", (), (2.0,)))
        return found

    def ask(self, history: Sequence[Trial], n: int = 8, seed: int = 3, **changes: Any) -> list[Ask]:
        given = {"space": HillSpace(), "dims": self.dims(), **changes}
        return self.controller().ask(given["space"], given["dims"], history, n, seed)

    def test_asks_n_distinct_valid_candidates(self) -> None:
        space = HillSpace()
        for history in ([], self.history()):
            asks = self.ask(history)
            require(len(asks) == 8, f"asked for 8 candidates after {len(history)} trials, it gives {len(asks)}")
            require(
                len({_key(ask) for ask in asks}) == 8, f"candidates of one ask are equal, after {len(history)} trials"
            )
            for ask in asks:
                require(ask.spec is not None, f"{ask}: no architecture, though there is a space")
                spec = space.parse(dict(ask.spec or {}))
                require(
                    space.canonical(spec) == spec, f"architecture {dict(ask.spec or {})} is not in its canonical form"
                )
                _require_inside(ask, self.dims())

    def test_equal_arguments_equal_answer_and_global_streams_untouched(self) -> None:
        history = self.history()
        before = torch.get_rng_state()
        require(self.ask(history) == self.ask(history), "asked twice with equal arguments, it answers differently")
        require(torch.equal(before, torch.get_rng_state()), "asking draws from torch's global stream")

    def test_answer_does_not_depend_on_the_order_of_finishing(self) -> None:
        history = self.history()
        found = self.ask(history)
        for other in (history[::-1], history[7:] + history[:7]):
            require(
                self.ask(other) == found, "equal trials in another order, and it asks for others: sort by their number"
            )

    def test_what_it_keeps_between_asks_changes_no_answer(self) -> None:
        """One controller along a growing history, then back, to another space and forth, beside a fresh one at every ask."""
        n_losses = min(self.most_objectives, 2)
        history, space, kept = self.history(30, n_losses=n_losses), HillSpace(), self.controller()
        others = [*history[:10], replace(history[10], losses=(9.0,) * n_losses), *history[11:]]
        asked = ((space, history[:n]) for n in (0, 8, 9, 30, 30, 12))
        for where, told in (*asked, (HillSpace(), history[:12]), (space, history), (space, others)):
            arguments = (where, self.dims(), told, 3, 7)
            holds = kept.ask(*arguments) == self.controller().ask(*arguments)
            require(
                holds,
                f"after other asks it answers {len(told)} trials as no fresh one does: an answer follows from its arguments",
            )

    def test_what_runs_is_not_asked_again_and_says_nothing(self) -> None:
        """Trials that run have no losses yet: they are tried, and nothing else follows from them."""
        asked = self.ask([], n=6)
        running = [Trial(i, ask.values, ask.spec, "running") for i, ask in enumerate(asked)]
        asked_again = {_key(ask) for ask in asked} & {_key(ask) for ask in self.ask(running)}
        require(not asked_again, f"asks again for what runs: {', '.join(sorted(asked_again))}")
        history = self.history()
        late = [Trial(trial.number, trial.values, trial.spec, "running") for trial in history[-6:]]
        found = self.ask([*history[:-6], *late])
        require(found == self.ask([*late, *history[:-6]]), "what it asks for depends on where trials that run stand")
        tried = {_key(Ask(trial.values, trial.spec)) for trial in history} & {_key(ask) for ask in found}
        require(not tried, f"asks again for what was tried or runs: {', '.join(sorted(tried))}")

    def test_never_asks_for_what_was_tried(self) -> None:
        dims = tuple(dim for dim in DIMS if dim.path != "rate" and dim.range.size is not None)
        history: list[Trial] = []
        while len(history) <= 22 and (asks := self.ask(history, n=5, space=None, dims=dims)):
            for ask in asks:
                trial = Trial(len(history), ask.values, ask.spec, "complete", (hill_loss_of_kind(ask),))
                history.append(trial)
        # a and null alone, (b, 2) and c with ten values of `extra` each
        distinct = {_key(Ask(trial.values)) for trial in history}
        require(len(distinct) == len(history), f"{len(history)} asks for {len(distinct)} candidates: some twice")
        require(20 <= len(history) <= 22, f"{len(history)} of 22 candidates asked for: expected all, or nearly")

    def test_nothing_to_search_is_asked_once(self) -> None:
        first = self.ask([], space=None, dims=())
        require(first == [Ask()], f"nothing to search: got {first}, expected one candidate without values")
        again = self.ask([Trial(0, {}, None, "complete", (1.0,))], space=None, dims=())
        require(again == [], f"nothing to search, and that was tried: got {again}, expected none")

    def test_architectures_alone_and_dimensions_alone(self) -> None:
        for ask in self.ask([], dims=()):
            require(ask.values == {} and ask.spec is not None, f"{ask}: expected an architecture alone")
        for ask in self.ask([], space=None):
            require(ask.spec is None and "kind" in ask.values, f"{ask}: expected values alone")

    def test_several_objectives_with_constraints(self) -> None:
        self.controller().preflight(self.most_objectives)
        for n_losses in range(2, self.most_objectives + 1):
            found = self.ask(self.history(n_losses=n_losses))
            require(len(found) == 8, f"with {n_losses} objectives and a constraint: {len(found)} of 8 candidates")

    def test_what_is_known_of_choices_is_taken_or_left(self) -> None:
        """Scores of an architecture, and what it costs of the second objective: NaN is an objective that a training tells."""
        n_losses = min(self.most_objectives, 2)
        facts, costs = (
            tuple((i / 4, 4.0 - i) for i in range(5)),
            tuple((math.nan, 10.0**i) for i in range(5)),
        )
        net = Dim("net", Range(choices=tuple("vwxyz"), facts=facts, costs=costs if n_losses > 1 else ()))
        dims = (net, *self.dims())
        told = [
            replace(trial, values={**trial.values, "net": "vwxyz"[trial.number % 5]}, spec=None)
            for trial in self.history(n_losses=n_losses)
        ]
        running = [replace(told[0], state="running", losses=(), violations=(), curve=())]
        for history in ([], running, told):
            asks = self.ask(history, n=4, space=None, dims=dims)
            require(
                len({_key(ask) for ask in asks}) == 4, f"4 asked after {len(history)} trials: {len(asks)}, some equal"
            )
            for ask in asks:
                _require_inside(ask, dims)

    def test_another_seed_or_a_longer_history_asks_for_others(self) -> None:
        if self.wants_finite:
            return
        history = self.history()
        require(self.ask(history, seed=4) != self.ask(history), "another seed changes nothing")
        require(self.ask(history[:-1]) != self.ask(history), "a longer history changes nothing")


def hill_loss_of_kind(ask: Ask) -> float:
    """A loss over `kind` and `extra` alone."""
    return float(ask.values.get("extra", 12))


def _require_inside(ask: Ask, dims: Sequence[Dim]) -> None:
    by_path = {dim.path: dim.range for dim in dims}
    others = set(ask.values) - set(by_path)
    require(not others, f"values of no dimension: {', '.join(sorted(others))}")
    wanted = _as_json(ask.values["kind"]) in (["b", 2], "c")
    require(
        ("extra" in ask.values) == wanted,
        f"{dict(ask.values)}: 'extra' has a value if and only if 'kind' is (b, 2) or c",
    )
    for path, value in ask.values.items():
        ranged = by_path[path]
        if ranged.choices:
            holds = _as_json(value) in [_as_json(choice) for choice in ranged.choices]
            require(holds, f"'{path}' is {value!r}, none of {list(ranged.choices)}")
        else:
            is_inside = ranged.low is not None and ranged.high is not None and ranged.low <= value <= ranged.high
            require(is_inside, f"'{path}' is {value!r}, outside of {ranged.low} to {ranged.high}")
            kind = int if ranged.integer else float
            require(isinstance(value, kind), f"'{path}' is {value!r}, expected {kind.__name__}")


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _key(ask: Ask) -> str:
    return json.dumps([ask.spec, dict(ask.values)], sort_keys=True)
