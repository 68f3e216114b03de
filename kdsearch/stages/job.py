"""What a spawned process runs: it opens the study from its folder and does one request, as this process would."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kdsearch.host import Host
from kdsearch.stages.materials import Materials, open_materials
from kdsearch.store.artifacts import Store

STUDY = "study.yaml"


def open_job(dir: str, base: str, allow_code: Sequence[str]) -> Materials:
    """The study that the folder holds; paths in it start from `base`, the folder of the user's file."""
    from kdsearch.study.study import load_study

    host = Host.load()
    study = load_study(Path(dir) / STUDY, host, allow_code)
    study = replace(study, source=replace(study.source, file=Path(base) / STUDY))
    return open_materials(study, host)


def train_job(
    dir: str,
    base: str,
    allow_code: Sequence[str],
    prepared: str,
    request: Mapping[str, Any],
    work: str,
    checkpoint_s: float,
) -> dict[str, Any]:
    """Train one request; returns its outcome. SIGTERM makes it checkpoint and end."""
    from kdsearch.errors import KdsearchError
    from kdsearch.stages.training import Request, open_teachers, train

    asked = {"stop": False}
    signal.signal(signal.SIGTERM, lambda *_: asked.__setitem__("stop", True))
    materials = open_job(dir, base, allow_code)
    artifact = Store(Path(dir), materials.study.config.run.store).get("prepare", prepared)
    if artifact is None:
        raise KdsearchError(f"artifact prepare-{prepared} is gone", file=dir)
    teachers = open_teachers(materials, artifact)
    outcome, _, _ = train(
        materials, Request(**request), Path(work), teachers, lambda: asked["stop"], checkpoint_s=checkpoint_s
    )
    return asdict(outcome)


def score_job(
    dir: str, base: str, allow_code: Sequence[str], role: str, specs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Score a chunk of candidates; returns their rows."""
    from kdsearch.stages.search import scorer_of

    materials = open_job(dir, base, allow_code)
    scorer = scorer_of(materials, role)
    return [scorer.score(spec).row() for spec in specs]
