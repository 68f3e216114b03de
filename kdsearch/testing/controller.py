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
    """Set `controller`. `is_endless` = it wants finite dimensions only (an exhaustive one)."""

    wants_finite = False

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
            assert len(asks) == 8
            assert len({_key(ask) for ask in asks}) == 8
            for ask in asks:
                assert ask.spec is not None
                spec = space.parse(dict(ask.spec))
                assert space.canonical(spec) == spec
                _assert_inside(ask, self.dims())

    def test_equal_arguments_equal_answer_and_global_streams_untouched(self) -> None:
        history = self.history()
        before = torch.get_rng_state()
        assert self.ask(history) == self.ask(history)
        assert torch.equal(before, torch.get_rng_state())

    def test_answer_does_not_depend_on_the_order_of_finishing(self) -> None:
        history = self.history()
        assert self.ask(history) == self.ask(history[::-1]) == self.ask(history[7:] + history[:7])

    def test_what_it_keeps_between_asks_changes_no_answer(self) -> None:
        """One controller along a growing history, then back, to another space and forth, beside a fresh one at every ask."""
        history, space, kept = self.history(30, n_losses=2), HillSpace(), self.controller()
        others = [*history[:10], replace(history[10], losses=(9.0, 9.0)), *history[11:]]
        asked = ((space, history[:n]) for n in (0, 8, 9, 30, 30, 12))
        for where, told in (*asked, (HillSpace(), history[:12]), (space, history), (space, others)):
            arguments = (where, self.dims(), told, 3, 7)
            assert kept.ask(*arguments) == self.controller().ask(*arguments)

    def test_what_runs_is_not_asked_again_and_says_nothing(self) -> None:
        """Trials that run have no losses yet: they are tried, and nothing else follows from them."""
        asked = self.ask([], n=6)
        running = [Trial(i, ask.values, ask.spec, "running") for i, ask in enumerate(asked)]
        assert not {_key(ask) for ask in asked} & {_key(ask) for ask in self.ask(running)}
        history = self.history()
        late = [Trial(trial.number, trial.values, trial.spec, "running") for trial in history[-6:]]
        found = self.ask([*history[:-6], *late])
        assert found == self.ask([*late, *history[:-6]])
        assert not {_key(Ask(trial.values, trial.spec)) for trial in history} & {_key(ask) for ask in found}

    def test_never_asks_for_what_was_tried(self) -> None:
        dims = tuple(dim for dim in DIMS if dim.path != "rate" and dim.range.size is not None)
        history: list[Trial] = []
        while asks := self.ask(history, n=5, space=None, dims=dims):
            for ask in asks:
                trial = Trial(len(history), ask.values, ask.spec, "complete", (hill_loss_of_kind(ask),))
                history.append(trial)
        # a and null alone, (b, 2) and c with ten values of `extra` each
        assert len({_key(Ask(trial.values)) for trial in history}) == len(history) <= 22
        assert len(history) >= 20

    def test_nothing_to_search_is_asked_once(self) -> None:
        first = self.ask([], space=None, dims=())
        assert first == [Ask()]
        assert self.ask([Trial(0, {}, None, "complete", (1.0,))], space=None, dims=()) == []

    def test_architectures_alone_and_dimensions_alone(self) -> None:
        assert all(ask.values == {} and ask.spec is not None for ask in self.ask([], dims=()))
        assert all(ask.spec is None and "kind" in ask.values for ask in self.ask([], space=None))

    def test_several_objectives_with_constraints(self) -> None:
        for n_losses in (2, 3):
            assert len(self.ask(self.history(n_losses=n_losses))) == 8

    def test_another_seed_or_a_longer_history_asks_for_others(self) -> None:
        if self.wants_finite:
            return
        history = self.history()
        assert self.ask(history, seed=4) != self.ask(history)
        assert self.ask(history[:-1]) != self.ask(history)


def hill_loss_of_kind(ask: Ask) -> float:
    """A loss over `kind` and `extra` alone."""
    return float(ask.values.get("extra", 12))


def _assert_inside(ask: Ask, dims: Sequence[Dim]) -> None:
    by_path = {dim.path: dim.range for dim in dims}
    assert set(ask.values) <= set(by_path)
    assert ("extra" in ask.values) == (_as_json(ask.values["kind"]) in (["b", 2], "c"))
    for path, value in ask.values.items():
        ranged = by_path[path]
        if ranged.choices:
            assert _as_json(value) in [_as_json(choice) for choice in ranged.choices]
        else:
            assert ranged.low is not None
            assert ranged.high is not None
            assert ranged.low <= value <= ranged.high
            assert isinstance(value, int if ranged.integer else float)


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _key(ask: Ask) -> str:
    return json.dumps([ask.spec, dict(ask.values)], sort_keys=True)
