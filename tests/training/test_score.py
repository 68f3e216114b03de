"""A training's score is that of the weights that it leaves."""

import pytest

from kdsearch.training.train import left_by


def row(phase: str, score: float | None, validation: float | None = None) -> dict[str, float | str]:
    given = {"score": score, "validation": validation}
    return {"phase": phase, **{name: value for name, value in given.items() if value is not None}}


LAST = [row("a", 0.9), row("b", 0.5), row("b", 0.6), row("c", None)]
BEST = [row("a", 0.9, 0.1), row("b", 0.5, 0.8), row("b", 0.7, 0.4), row("b", 0.8, 0.5), row("b", 0.6, 0.4)]


@pytest.mark.parametrize(
    ("history", "keeps_best", "expected"),
    [
        ([], True, None),
        ([row("a", None, 0.1)], True, None),
        (LAST, True, 0.6),
        (BEST, True, 0.7),  # of equal losses the first one's weights are kept
        (BEST, False, 0.6),
    ],
)
def test_it_is_of_the_last_epoch_or_of_the_one_that_is_kept(history, keeps_best, expected):
    assert left_by(history, keeps_best).get("score") == expected
