"""SIGKILLs at random moments while trials are written to PostgreSQL: see `tests.stages.kills`."""

from __future__ import annotations

from pathlib import Path

from tests.extras.postgresql.conftest import Server
from tests.stages.kills import killed, undisturbed


def test_the_trials_are_those_of_an_undisturbed_run(database: Server, tmp_path: Path) -> None:
    alone = undisturbed(tmp_path / "alone")
    found = killed(tmp_path / "killed", database.url, 2, 4, 6)
    assert len(found.kills) > 1
    assert found.settled == alone.settled, found.kills
    assert found.steps - alone.steps <= 3 * len(found.kills), found.kills
