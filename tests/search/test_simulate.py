"""Strategies on a table: what counts as an evaluation, and what a curve says."""

from collections import deque
from types import SimpleNamespace

import pytest

from kdsearch.kinds import Ask, Controller, NoOptions
from kdsearch.search.simulate import DRY, LOST, curve_in_order, curve_of, patience_of

VALUES = {"a": 1.0, "b": 3.0, "c": 2.0}


class Scripted(Controller[NoOptions]):
    """Asks for these keys, one at a time, and keeps what it was told."""

    def __init__(self, *keys):
        super().__init__(NoOptions())
        self.keys, self.told = deque(keys), []

    def ask(self, space, dims, history, n, seed):
        self.told = list(history)
        return [Ask({"key": self.keys.popleft()})] if self.keys else []


def curve(controller, budget=3):
    return curve_of(controller, None, (), lambda ask: ask.values["key"], VALUES, budget, 0)


def test_the_best_so_far_after_each_evaluation():
    assert curve(Scripted("a", "b", "c")) == [1.0, 3.0, 3.0]
    assert curve(Scripted("a", "b", "c"), budget=1) == [1.0]
    assert curve(Scripted("c")) == [2.0]


def test_what_the_table_lacks_costs_nothing_and_is_told_as_infeasible():
    controller = Scripted("x", "c", "y", "b", "z")
    assert curve(controller) == [2.0, 3.0]
    assert [(trial.state, trial.losses, trial.violations) for trial in controller.told] == [
        ("pruned", (), (1.0,)),
        ("complete", (-2.0,), (0.0,)),
        ("pruned", (), (1.0,)),
        ("complete", (-3.0,), (0.0,)),
        ("pruned", (), (1.0,)),
    ]


def test_a_network_is_evaluated_once():
    assert curve(Scripted("a", "a", "b", "a", "c")) == [1.0, 3.0, 3.0]


def test_a_strategy_that_asks_for_nothing_new_ends():
    controller = Scripted(*["a"] * (DRY + 5))
    assert curve(controller) == [1.0]
    assert len(controller.keys) == 4


def test_once_all_are_known_nothing_is_asked():
    controller = Scripted("a", "b", "c", "a")
    assert curve(controller, budget=9) == [1.0, 3.0, 3.0]
    assert len(controller.keys) == 1


@pytest.mark.parametrize(
    ("n", "size", "asks"), [(16, 32_768, LOST), (16, None, LOST), (110, 32_768, DRY), (8, 8, DRY), (109, 32_768, LOST)]
)
def test_where_chance_finds_none_little_is_asked(n, size, asks):
    """A table that is a good part of its space, or all of it, is searched as ever."""
    assert patience_of(n, SimpleNamespace(size=lambda: size)) == asks


def test_in_order():
    assert curve_in_order(["c", "a", "b"], VALUES, 2) == [2.0, 2.0]
    assert curve_in_order(["c", "a", "b"], VALUES, 9) == [2.0, 2.0, 3.0]


def test_a_strategy_that_finds_nothing_goes_on_with_what_is_drawn_and_is_told():
    class Lost(Scripted):
        def ask(self, space, dims, history, n, seed):
            self.told = list(history)
            return [Ask({"key": "elsewhere"})]

    controller = Lost()
    spare = [(key, Ask({"key": key})) for key in ("c", "a", "b")]
    found = curve_of(controller, None, (), lambda ask: ask.values["key"], VALUES, 3, 0, spare)
    assert found == [2.0, 2.0, 3.0]
    assert [trial.values["key"] for trial in controller.told if trial.state == "complete"] == ["c", "a"]
    assert len(controller.told) < DRY + 150, "it is asked less often once it found nothing"
    told = curve_of(controller, None, (), lambda ask: ask.values["key"], VALUES, 3, 0, spare, LOST)
    assert (told, len(controller.told)) == (found, 3 * LOST - 1 + 2), "as the last of the asks knows it"
    assert curve_of(controller, None, (), lambda ask: ask.values["key"], VALUES, 9, 0, spare) == found
