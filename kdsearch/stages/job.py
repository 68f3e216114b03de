"""What a spawned process runs: it opens the study from its folder and does one request, as this process would."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsearch.host import Host
from kdsearch.stages.materials import Materials, open_materials
from kdsearch.store.artifacts import Store
from kdsearch.study.study import Study

if TYPE_CHECKING:
    from kdsearch.search.scoring import Scorer
    from kdsearch.stages.training import Outcome

STUDY = "study.yaml"


def open_job(dir: str, base: str, allow_code: Sequence[str]) -> Materials:
    """The study that the folder holds; paths in it start from `base`, the folder of the user's file."""
    from kdsearch.study.study import load_study

    host = Host.load()
    return open_materials(load_study(Path(dir) / STUDY, host, allow_code, base=Path(base)), host)


def open_store(study: Study, folder: Path) -> Store:
    """The folder's artifacts; a shared store named by a relative path starts, as all paths of a study, from its file's folder."""
    url = study.config.run.store or os.environ.get("KDSEARCH_STORE")
    if url and "://" not in url:
        url = str((study.folder / url).resolve())
    return Store(folder, url)


def train_job(
    dir: str,
    base: str,
    allow_code: Sequence[str],
    prepared: str,
    request: Mapping[str, Any],
    work: str,
    checkpoint_s: float,
) -> dict[str, Any]:
    """Train one request; SIGTERM makes it checkpoint and end.

    Returns one of `outcome`, `failed` (the training's error) and `ends` (an error that ends the study).
    """
    from kdsearch.errors import ArtifactError, InterruptedRun, KdsearchError
    from kdsearch.stages.attempt import as_json, attempt
    from kdsearch.stages.tools import tell_share
    from kdsearch.stages.training import Request, open_teachers, train

    asked = {"stop": False}
    signal.signal(signal.SIGTERM, lambda *_: asked.__setitem__("stop", True))
    try:
        materials = open_job(dir, base, allow_code)
        artifact = open_store(materials.study, Path(dir)).get("prepare", prepared)
        if artifact is None:
            raise ArtifactError(f"artifact prepare-{prepared} is gone", file=dir, fix="`kdsearch run` makes it again.")
        teachers = open_teachers(materials, artifact)

        def call() -> Outcome:
            asked_for, folder = Request(**request), Path(work)
            stop, report = (lambda: asked["stop"]), tell_share(folder)
            return train(materials, asked_for, folder, teachers, stop, report, checkpoint_s)[0]

        found = attempt(call, Path(work))
    except InterruptedRun:
        raise
    except KdsearchError as error:
        return {"ends": as_json(error)}
    return {"failed": found} if isinstance(found, str) else {"outcome": asdict(found)}


def score_job(
    dir: str, base: str, allow_code: Sequence[str], role: str, specs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Score a chunk of candidates; returns their rows. A process that gets several chunks opens the study once."""
    scorer = _scorer(dir, base, tuple(allow_code), role)
    return [scorer.score(spec).row() for spec in specs]


@lru_cache(maxsize=1)
def _scorer(dir: str, base: str, allow_code: tuple[str, ...], role: str) -> Scorer:
    from kdsearch.stages.search import scorer_of

    return scorer_of(open_job(dir, base, allow_code), role)
