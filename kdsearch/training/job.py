"""What an executor runs of a study: a job opens it from its folder, or finds it open in its process, and does one request."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsearch.errors import ArtifactError, StudyError, UserError
from kdsearch.host import Host
from kdsearch.kinds import work_begins
from kdsearch.store.artifacts import Artifact, Store
from kdsearch.store.folder import STUDY
from kdsearch.store.hashing import digest, file_digest
from kdsearch.store.inputs import no_folder
from kdsearch.store.shared import check_kind, is_url
from kdsearch.study.study import Study
from kdsearch.training.materials import Materials, open_materials
from kdsearch.training.recipe_data import supplied
from kdsearch.training.tools import Address

if TYPE_CHECKING:
    from kdsearch.engine.cache import Live
    from kdsearch.engine.conduct import Report
    from kdsearch.search.scoring import Scorer


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
    scorers: dict[str, Scorer] = field(default_factory=dict)  # by role
    _seen: dict[str, Materials] = field(default_factory=dict)

    def seen(self, address: Address) -> Materials:
        """The study as the address' stage may see it."""
        if self.materials.stage == address.stage:
            return self.materials
        if address.stage not in self._seen:
            self._seen[address.stage] = self.materials.seen_by(address.stage, address.reads)
        return self._seen[address.stage]

    def teachers_of(self, prepared: str, materials: Materials) -> Mapping[str, Live]:
        """The teachers of an artifact, whose files are verified once a process. Raise ArtifactError where it is gone."""
        from kdsearch.training.opened import open_teachers

        if prepared not in self.teachers:
            self.teachers[prepared] = open_teachers(materials, prepared_of(self.store, prepared))
        return self.teachers[prepared]


_lent: dict[str, Opened] = {}  # studies that are open in this process
_opened: dict[str, Opened] = {}  # the one that this process opened itself, by what it was opened from


def opened(address: Address) -> Opened:
    """The study of a folder, opened once for all jobs of a process that work on it."""
    name = _name(address)
    if name in _lent:
        return _lent[name]
    name = f"{name}{address.prepared}{file_digest(address.folder / STUDY)}"
    if name not in _opened:
        _opened.clear()
        materials = open_job(replace(address, stage=""))
        _opened[name] = Opened(materials, open_store(materials.study, address.folder))
    return _opened[name]


@contextmanager
def lent(here: Opened, address: Address) -> Iterator[None]:
    """Jobs of this study that run in this process meanwhile use it as it is open `here`, live objects included."""
    name = _name(address)
    _lent[name] = here
    try:
        yield
    finally:
        del _lent[name]


def _name(address: Address) -> str:
    return digest([address.dir, address.base, list(address.allow_code)])


def open_job(address: Address) -> Materials:
    """The study that the folder holds, as the stage may see it."""
    from kdsearch.study.reading import load_study

    host = Host.load()
    folder = address.folder
    study = load_study(folder / STUDY, host, tuple(address.allow_code), base=Path(address.base))
    materials = open_materials(study, host, folder)
    here = materials.device.accelerator
    if address.accelerator not in ("", here):
        problem, expected = (
            f"the machine of a trial computes on {here}",
            f"{address.accelerator}, as where the study runs",
        )
        raise materials.study.place(StudyError(problem, path="run.device", expected=expected))
    if address.prepared:
        store = open_store(materials.study, folder)
        materials = supplied(materials, prepared_of(store, address.prepared), store)
    return materials.seen_by(address.stage, address.reads) if address.stage else materials


def open_store(study: Study, folder: Path) -> Store:
    """The folder's artifacts; a shared store named by a relative path starts, as all paths of a study, from its file's folder.

    Raise UserError for what cannot be a store.
    """
    url = study.config.run.store or os.environ.get("KDSEARCH_STORE")
    if url and is_url(url):
        try:
            check_kind(url)
        except UserError as error:
            raise error.at(path="KDSEARCH_STORE") from error.__cause__  # the study's own was looked at before
    elif url:
        place = study.folder / url
        if problem := no_folder(place):
            raise UserError(f"'{url}' {problem}", path="KDSEARCH_STORE", expected="a folder or a URL")
        url = str(place.resolve())
    return Store(folder, url)


def prepared_of(store: Store, key: str) -> Artifact:
    found = store.get("prepare", key, leaves=False)  # which is the run's affair
    if found is None:
        raise ArtifactError(f"artifact prepare-{key} is gone", file=store.root, fix="`kdsearch run` makes it again.")
    return found


def train_job(
    address: Mapping[str, Any],
    request: Mapping[str, Any],
    work: str,
    checkpoint_s: float,
    place: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train one request, or help the training's first process at it (`place`); SIGTERM makes it checkpoint and end.

    Returns `outcome`, or `ends` (an error that ends the study). Raises TrialError where the training fails.
    """
    from kdsearch.training.attempt import at_one_point
    from kdsearch.training.request import Request
    from kdsearch.training.share import tell_share
    from kdsearch.training.train import train_shared

    order = {"address": address, "request": request, "work": work, "checkpoint_s": checkpoint_s}

    def call() -> dict[str, Any]:
        at, asked = Address(**address), Request(**request)
        study = opened(at)
        stop = study.stop or _asked_to_stop()
        teachers = study.teachers_of(at.prepared, study.seen(at))
        work_begins()
        report = None
        if place is None:
            report = study.report(asked.name) if study.report else tell_share(Path(work))
        with at_one_point():
            return asdict(train_shared(study.seen(at), asked, order, teachers, stop, report, place))

    return _answer(call, Path(work))


def teacher_job(
    address: Mapping[str, Any], name: str, key: str, work: str, checkpoint_s: float, place: Mapping[str, Any]
) -> dict[str, Any]:
    """Help at a teacher's training. Answers as `train_job`, its outcome empty."""
    from kdsearch.training.opened import live_teacher
    from kdsearch.training.teachers import train_teacher

    stop = _asked_to_stop()
    order = {"address": address, "name": name, "key": key, "work": work, "checkpoint_s": checkpoint_s}

    def call() -> dict[str, Any]:
        # its data are as they were given: recipes have not run while teachers are trained
        materials = open_job(replace(Address(**address), prepared=""))
        train_teacher(materials, name, live_teacher(materials, name), order, stop, None, place)
        return {}

    return _answer(call, Path(work))


def _asked_to_stop() -> Callable[[], bool]:
    """Whether SIGTERM has come."""
    asked = {"stop": False}
    signal.signal(signal.SIGTERM, lambda *_: asked.__setitem__("stop", True))
    return lambda: asked["stop"]


def _answer(call: Callable[[], dict[str, Any]], work: Path) -> dict[str, Any]:
    from kdsearch.errors import KdsearchError, TrialError
    from kdsearch.training.attempt import attempt

    try:
        found = attempt(call, work)
    except KdsearchError as error:
        return {"ends": error.facts()}
    if isinstance(found, str):
        raise TrialError(found)
    return {"outcome": found}
