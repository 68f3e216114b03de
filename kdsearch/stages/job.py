"""What an executor runs of a study: a job opens it from its folder, or finds it open in its process, and does one request."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsearch.errors import ArtifactError, UserError
from kdsearch.host import Host
from kdsearch.stages.materials import Materials, open_materials
from kdsearch.stages.recipe_data import supplied
from kdsearch.store.artifacts import Artifact, Store
from kdsearch.store.hashing import digest, file_digest
from kdsearch.store.inputs import no_folder
from kdsearch.study.study import Study

if TYPE_CHECKING:
    from kdsearch.engine.cache import Live
    from kdsearch.engine.conduct import Report
    from kdsearch.search.scoring import Scorer

STUDY = "study.yaml"


@dataclass
class Opened:
    """A study as the jobs of this process work with it.

    Args:
        teachers: key of a prepared artifact -> the teachers by name, with their caches.
        stop, report: of the study's own process; None in a process of a job's own.
    """

    materials: Materials
    store: Store
    teachers: dict[str, Mapping[str, Live]] = field(default_factory=dict)
    stop: Callable[[], bool] | None = None
    report: Callable[[str], Report] | None = None
    scorers: dict[str, Scorer] = field(default_factory=dict)
    _seen: dict[str, Materials] = field(default_factory=dict)

    def seen(self, stage: str) -> Materials:
        """The study as the stage may see it."""
        if self.materials.stage == stage:
            return self.materials
        if stage not in self._seen:
            self._seen[stage] = _seen_by(stage, self.materials)
        return self._seen[stage]

    def teachers_of(self, prepared: str, materials: Materials) -> Mapping[str, Live]:
        """The teachers of an artifact, whose files are verified once a process. Raise ArtifactError where it is gone."""
        from kdsearch.stages.training import open_teachers

        if prepared not in self.teachers:
            self.teachers[prepared] = open_teachers(materials, prepared_of(self.store, prepared))
        return self.teachers[prepared]


_lent: dict[str, Opened] = {}  # studies that are open in this process
_opened: dict[str, Opened] = {}  # the one that this process opened itself, by what it was opened from


def opened(dir: str, base: str, allow_code: Sequence[str], prepared: str) -> Opened:
    """The study of a folder, opened once for all jobs of a process that work on it."""
    name = digest([dir, base, list(allow_code)])
    if name in _lent:
        return _lent[name]
    name = f"{name}{prepared}{file_digest(Path(dir) / STUDY)}"
    if name not in _opened:
        _opened.clear()
        materials = open_job(dir, base, allow_code, prepared=prepared)
        _opened[name] = Opened(materials, open_store(materials.study, Path(dir)))
    return _opened[name]


@contextmanager
def lent(here: Opened, dir: str, base: str, allow_code: Sequence[str], stage: str, prepared: str) -> Iterator[None]:
    """Jobs of this study that run in this process meanwhile use it as it is open `here`, live objects included."""
    name = digest([dir, base, list(allow_code)])
    _lent[name] = here
    try:
        yield
    finally:
        del _lent[name]


def _seen_by(stage: str, materials: Materials) -> Materials:
    from kdsearch.stages.keys import seen_by

    return seen_by(import_module(f"kdsearch.stages.{stage}"), materials)


def open_job(dir: str, base: str, allow_code: Sequence[str], stage: str = "", prepared: str = "") -> Materials:
    """The study that the folder holds, as the stage may see it; paths in it start from `base`, the folder of the user's file.

    prepared: key of the artifact whose recipes' data students get; "" = the data set as it was given.
    """
    from kdsearch.study.reading import load_study

    host = Host.load()
    materials = open_materials(load_study(Path(dir) / STUDY, host, allow_code, base=Path(base)), host, Path(dir))
    if prepared:
        store = open_store(materials.study, Path(dir))
        materials = supplied(materials, prepared_of(store, prepared), store)
    return _seen_by(stage, materials) if stage else materials


def open_store(study: Study, folder: Path) -> Store:
    """The folder's artifacts; a shared store named by a relative path starts, as all paths of a study, from its file's folder."""
    url = study.config.run.store or os.environ.get("KDSEARCH_STORE")
    if url and "://" not in url:
        place = study.folder / url
        if problem := no_folder(place):
            raise UserError(f"'{url}' {problem}", path="KDSEARCH_STORE", expected="a folder or a URL")
        url = str(place.resolve())
    return Store(folder, url)


def prepared_of(store: Store, key: str) -> Artifact:
    found = store.get("prepare", key)
    if found is None:
        raise ArtifactError(f"artifact prepare-{key} is gone", file=store.root, fix="`kdsearch run` makes it again.")
    return found


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

    Returns `outcome`, or `ends` (an error that ends the study). Raises TrialError where the training fails.
    """
    from kdsearch.stages.request import Request
    from kdsearch.stages.share import tell_share
    from kdsearch.stages.training import train_shared

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

    def call() -> dict[str, Any]:
        study = opened(dir, base, allow_code, prepared)
        materials, asked = study.seen(stage), Request(**request)
        stop = study.stop or _asked_to_stop()
        report = None
        if place is None:
            report = study.report(asked.name) if study.report else tell_share(Path(work))
        teachers = study.teachers_of(prepared, materials)
        return asdict(train_shared(materials, asked, order, teachers, stop, report, place))

    return _answer(call, Path(work))


def teacher_job(
    dir: str,
    base: str,
    allow_code: Sequence[str],
    stage: str,
    prepared: str,
    name: str,
    key: str,
    work: str,
    checkpoint_s: float,
    place: Mapping[str, Any],
) -> dict[str, Any]:
    """Help at a teacher's training. Answers as `train_job`, its outcome empty."""
    from kdsearch.stages.teachers import train_teacher
    from kdsearch.stages.training import teacher_model

    stop = _asked_to_stop()

    def call() -> dict[str, Any]:
        materials = open_job(dir, base, allow_code, stage)
        order: dict[str, Any] = {"dir": dir, "base": base, "allow_code": allow_code, "stage": stage}
        order |= {"prepared": prepared, "name": name, "key": key, "work": work, "checkpoint_s": checkpoint_s}
        train_teacher(materials, name, teacher_model(materials, name), order, stop, None, place)
        return {}

    return _answer(call, Path(work))


def _asked_to_stop() -> Callable[[], bool]:
    """Whether SIGTERM has come."""
    asked = {"stop": False}
    signal.signal(signal.SIGTERM, lambda *_: asked.__setitem__("stop", True))
    return lambda: asked["stop"]


def _answer(call: Callable[[], dict[str, Any]], work: Path) -> dict[str, Any]:
    from kdsearch.errors import InterruptedRun, KdsearchError, TrialError
    from kdsearch.stages.attempt import attempt

    try:
        found = attempt(call, work)
    except InterruptedRun:
        raise
    except KdsearchError as error:
        return {"ends": error.facts()}
    if isinstance(found, str):
        raise TrialError(found)
    return {"outcome": found}


def score_job(
    dir: str,
    base: str,
    allow_code: Sequence[str],
    stage: str,
    prepared: str,
    role: str,
    specs: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Score a chunk of candidates; returns their rows."""
    from kdsearch.stages.search import scorer_of

    study = opened(dir, base, allow_code, prepared)
    if role not in study.scorers:
        study.scorers[role] = scorer_of(study.seen(stage), role)
    return [study.scorers[role].score(spec).row() for spec in specs]
