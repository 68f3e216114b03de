"""30 SIGKILLs and more at random moments of `refine`, on each local storage of trials and numbers of workers: see `kills`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.kills import Trials, killed, undisturbed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    return undisturbed(tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("storage", ["", "sqlite:///trials.db"])
def test_the_trials_are_those_of_an_undisturbed_run(alone: Trials, tmp_path: Path, storage: str, workers: int) -> None:
    kills, seed, steps = 0, 0, []
    while kills < 8:
        found = killed(tmp_path / str(seed), storage, workers, seed, 8 - kills)
        assert found.settled == alone.settled, found.kills
        assert found.kills, "none was met"
        kills, seed = kills + len(found.kills), seed + 1
        # of what ran at once, at most the step under way is done again
        steps.append((found.steps - alone.steps, len(found.kills)))
    assert all(more <= (workers + 1) * n for more, n in steps), steps
