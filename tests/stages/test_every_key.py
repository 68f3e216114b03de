"""Each key of the schema changed on a finished study: a new folder gives the same, and nothing is redone that need not be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdsearch.store.files import read_json
from tests.stages.every_key import CHANGES, HOST, TEXT
from tests.stages.tiny import STAGES, events, made, run_tiny, settled

SHOWN = (
    "objectives",
    "task.options",
    "distill.winners",
    "export.formats",
    "run.workers",
)  # the others are slow, together


@pytest.fixture(scope="session")
def every(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], Path]:
    """A folder with the finished study, with these settings; not to be written to."""
    found: dict[tuple[str, ...], Path] = {}

    def folder(sets: tuple[str, ...]) -> Path:
        if sets not in found:
            at = tmp_path_factory.mktemp("every")
            run_tiny(at, *sets, text=TEXT, host=HOST)
            found[sets] = at
        return found[sets]

    return folder


@pytest.mark.parametrize("key", [key if key in SHOWN else pytest.param(key, marks=pytest.mark.slow) for key in CHANGES])
def test_a_changed_study_gives_what_a_new_folder_gives(
    key: str, every: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a relative `run.storage` goes
    change = CHANGES[key]
    old = Path(shutil.copytree(every(change.before), tmp_path / "old"))
    n = len(events(old))
    found = run_tiny(old, *change.before, *change.sets, text=TEXT, host=HOST)
    assert made(old, n) == list(STAGES[STAGES.index(change.stage) :] if change.stage else ())
    new = tmp_path / "new"
    if key in SHOWN and not change.stage:  # nothing was done
        shutil.copytree(every(change.before), new)
        assert lasting(found) == lasting(read_json(new / "study" / "result.json"))
    else:
        assert lasting(found) == lasting(run_tiny(new, *change.before, *change.sets, text=TEXT, host=HOST))
    assert files_named(old) == files_named(new)


def lasting(result: dict[str, Any]) -> dict[str, Any]:
    """What must be equal: what a folder's text teachers have answered already costs nothing again."""
    kept = settled(result)
    for recipe in kept["data"].get("recipes", []):
        del recipe["cost"]
    return kept


def files_named(folder: Path) -> list[str]:
    return sorted(each.name for each in (folder / "study" / "export").iterdir())
