"""What a spawned process runs: it opens the study from its folder and does one request, as this process would."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsearch.host import Host
from kdsearch.stages.materials import Materials, open_materials
from kdsearch.store.artifacts import Store
from kdsearch.study.study import Study

if TYPE_CHECKING:
    from kdsearch.search.scoring import Scorer

STUDY = "study.yaml"


def open_job(dir: str, base: str, allow_code: Sequence[str], stage: str = "") -> Materials:
    """The study that the folder holds, as the stage may see it; paths in it start from `base`, the folder of the user's file."""
    from kdsearch.stages.keys import seen_by
    from kdsearch.study.study import load_study

    host = Host.load()
    materials = open_materials(load_study(Path(dir) / STUDY, host, allow_code, base=Path(base)), host)
    return seen_by(import_module(f"kdsearch.stages.{stage}"), materials) if stage else materials


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
    stage: str,
    prepared: str,
    request: Mapping[str, Any],
    work: str,
    checkpoint_s: float,
    place: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train one request, or help the training's first process at it (`place`); SIGTERM makes it checkpoint and end.

    Returns one of `outcome`, `failed` (the training's error) and `ends` (an error that ends the study).
    """
    from kdsearch.errors import ArtifactError
    from kdsearch.stages.tools import tell_share
    from kdsearch.stages.training import Request, open_teachers, train_shared

    order = {
        "dir": dir,
        "base": base,
        "allow_code": allow_code,
        "stage": stage,
        "prepared": prepared,
        "request": request,
        "work": work,
        "checkpoint_s": checkpoint_s,
    }
    stop = _asked_to_stop()

    def call() -> dict[str, Any]:
        materials = open_job(dir, base, allow_code, stage)
        artifact = open_store(materials.study, Path(dir)).get("prepare", prepared)
        if artifact is None:
            raise ArtifactError(f"artifact prepare-{prepared} is gone", file=dir, fix="`kdsearch run` makes it again.")
        teachers = open_teachers(materials, artifact)
        report = tell_share(Path(work)) if place is None else None
        return asdict(train_shared(materials, Request(**request), order, teachers, stop, report, place))

    return _answer(call, Path(work))


def teacher_job(
    dir: str,
    base: str,
    allow_code: Sequence[str],
    stage: str,
    name: str,
    key: str,
    work: str,
    checkpoint_s: float,
    place: Mapping[str, Any],
) -> dict[str, Any]:
    """Help at a teacher's training. Returns `outcome` (nothing), `failed` or `ends`, as `train_job`."""
    from kdsearch.stages.teachers import train_teacher
    from kdsearch.stages.training import teacher_model

    stop = _asked_to_stop()

    def call() -> dict[str, Any]:
        materials = open_job(dir, base, allow_code, stage)
        order: dict[str, Any] = {"dir": dir, "base": base, "allow_code": allow_code, "stage": stage}
        order |= {"name": name, "key": key, "work": work, "checkpoint_s": checkpoint_s}
        train_teacher(materials, name, teacher_model(materials, name), order, stop, None, place)
        return {}

    return _answer(call, Path(work))


def _asked_to_stop() -> Callable[[], bool]:
    """Whether SIGTERM has come."""
    asked = {"stop": False}
    signal.signal(signal.SIGTERM, lambda *_: asked.__setitem__("stop", True))
    return lambda: asked["stop"]


def _answer(call: Callable[[], dict[str, Any]], work: Path) -> dict[str, Any]:
    from kdsearch.errors import InterruptedRun, KdsearchError
    from kdsearch.stages.attempt import as_json, attempt

    try:
        found = attempt(call, work)
    except InterruptedRun:
        raise
    except KdsearchError as error:
        return {"ends": as_json(error)}
    return {"failed": found} if isinstance(found, str) else {"outcome": found}


def score_job(
    dir: str, base: str, allow_code: Sequence[str], stage: str, role: str, specs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Score a chunk of candidates; returns their rows. A process that gets several chunks opens the study once."""
    scorer = _scorer(dir, base, tuple(allow_code), stage, role)
    return [scorer.score(spec).row() for spec in specs]


@lru_cache(maxsize=1)
def _scorer(dir: str, base: str, allow_code: tuple[str, ...], stage: str, role: str) -> Scorer:
    from kdsearch.stages.search import scorer_of

    return scorer_of(open_job(dir, base, allow_code, stage), role)
