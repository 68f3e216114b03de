"""One whole study, run once and copied by the tests that go on from it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from kdsearch.engine import phase
from kdsearch.engine.checkpoint import write_checkpoint
from kdsearch.errors import InterruptedRun
from kdsearch.search.candidates import explore
from kdsearch.stages import search
from tests.stages.tiny import is_stage, run_tiny, settled, watching


@dataclass(frozen=True)
class Done:
    """A finished study: the folder that holds `tiny.yaml` and `study`, and its final JSON."""

    folder: Path
    result: dict[str, Any]

    @property
    def settled(self) -> dict[str, Any]:
        return settled(self.result)


@pytest.fixture(scope="session", autouse=True)
def _one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Latencies are measured once for all these tests, also in the processes that they start."""
    before = os.environ.get("KDSEARCH_CACHE")
    os.environ["KDSEARCH_CACHE"] = before or str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["KDSEARCH_CACHE"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Not to be written to: see `copied`. One for all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, told = shared / "finished", shared / "finished.json"
    with FileLock(shared / "finished.lock"):
        if not told.exists():
            told.write_text(json.dumps(run_tiny(folder)))
    return Done(folder, json.loads(told.read_text()))


@pytest.fixture
def copied(finished: Done, tmp_path: Path) -> Path:
    """A copy of the finished study's folder."""
    return Path(shutil.copytree(finished.folder, tmp_path / "copied"))


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stage -> a folder in which Ctrl-C came in that stage: at its first candidate, after a step. Not to be written to."""
    found = {}
    for stage in ("search", "refine"):
        folder, at = tmp_path_factory.mktemp(f"stopped-{stage}"), {"stage": False}

        def begun(event: Mapping[str, Any], stage: str = stage, at: dict[str, bool] = at) -> None:
            at["stage"] = at["stage"] or is_stage(event, stage)

        def explored(*arguments: Any, progress: Callable[..., None], **options: Any) -> Any:
            def found(*candidate: Any) -> None:
                signal.raise_signal(signal.SIGINT)
                progress(*candidate)

            return explore(*arguments, progress=found, **options)

        def written(*arguments: Any, at: dict[str, bool] = at) -> None:
            write_checkpoint(*arguments)
            if at["stage"]:
                at["stage"] = False
                signal.raise_signal(signal.SIGINT)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(phase, "write_checkpoint", written)
            if stage == "search":
                patch.setattr(search, "explore", explored)
            with pytest.raises(InterruptedRun):
                run_tiny(folder, "run.executor={use: inprocess}", host=watching(begun), checkpoint_s=0)
        found[stage] = folder
    return found
