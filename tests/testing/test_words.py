"""What a conformance class finds, it says in words: also under `python -O`, which drops every `assert`."""

import ast
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import kdsearch.testing
from kdsearch.kinds import Ask, Controller, NoOptions, Stopper, Trial
from kdsearch.testing.contract import failures
from kdsearch.testing.controller import ControllerContract
from kdsearch.testing.stopper import StopperContract

FILES = sorted(Path(kdsearch.testing.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_promise_is_asserted_without_words(file: Path) -> None:
    found = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    assert [each.lineno for each in found if isinstance(each, ast.Assert)] == []


class Careless(Stopper[NoOptions]):
    """Stops what is best, goes on with what is no number."""

    def rungs(self) -> tuple[float, ...]:
        return (0.5, 0.25)

    def go_on(self, rung: float, trial: Trial, others: Sequence[Trial]) -> bool:
        return math.isnan(trial.curve[-1][1][0])


class Repeating(Controller[NoOptions]):
    """One candidate, whatever it is asked."""

    def ask(self, space: Any, dims: Any, history: Sequence[Trial], n: int, seed: int) -> list[Ask]:
        return [Ask({"kind": "a", "rate": 7.0})] * n


def test_a_stopper_is_told_what_it_breaks() -> None:
    class Contract(StopperContract):
        def stopper(self) -> Stopper[Any]:
            return Careless(NoOptions())

    found = failures(Contract)
    assert found["test_rungs_increase_within_a_trial"] == "rungs [0.5, 0.25] do not increase"
    assert found["test_what_is_no_number_never_goes_on"] == "a trial whose losses are (nan,) goes on"
    assert found["test_the_first_and_the_best_of_all_go_on"] == "with 1 objectives, the first trial is stopped"


def test_a_controller_is_told_what_it_breaks() -> None:
    class Contract(ControllerContract):
        def controller(self) -> Controller[Any]:
            return Repeating(NoOptions())

    found = failures(Contract)
    assert found["test_asks_n_distinct_valid_candidates"] == "candidates of one ask are equal, after 0 trials"
    assert found["test_another_seed_or_a_longer_history_asks_for_others"] == "another seed changes nothing"
    assert "expected one candidate without values" in found["test_nothing_to_search_is_asked_once"]
    assert found["test_never_asks_for_what_was_tried"] == "25 asks for 1 candidates: some twice"
    assert all(found.values()), "a failure without words"
