"""What a study names, looked at before any work: files that are there, weights that load, names that libraries know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kdsearch.engine.setup import Site
from kdsearch.errors import KdsearchError, UserError
from kdsearch.host import Host
from kdsearch.stages import distill, export, refine, search
from kdsearch.stages.ends import check_ends
from kdsearch.stages.feasible import hardly_feasible
from kdsearch.stages.notes import copied, noted
from kdsearch.study.code import load_code
from kdsearch.study.names import uses
from kdsearch.study.study import Study
from kdsearch.study.summary import summary
from kdsearch.training.dry import check_recipe
from kdsearch.training.keys import seen_by
from kdsearch.training.logs import Logs
from kdsearch.training.materials import Materials, make, open_materials, placing
from kdsearch.training.normalize import check_expectable
from kdsearch.training.teachers import stored_answers

KINDS = ("dataset", "teacher")  # what reads files of the user's


def preflight(study: Study, host: Host) -> None:
    """Raise what storage, data set and teachers would raise at once when they are opened, with the line that names them."""
    if study.config.run.storage is not None:
        from kdsearch.search.storage import check_url

        try:
            check_url(study.config.run.storage, study.folder)
        except KdsearchError as error:
            raise study.place(error) from error.__cause__
    host = study.host(host)
    site = Site(
        study.config.seed, study.folder, code_of=lambda target: load_code(target, study.allow_code, study.folder)
    )
    for kind, use, path in uses(study):
        if kind in KINDS and study.live_object(path) is None:
            with placing(study, f"{path}.options"), _naming(use.options, f"{path}.options"):
                made = make(host, kind, use, path)
                with host.naming(kind, use.use):
                    made.preflight(site)


@contextmanager
def _naming(options: Mapping[str, Any], path: str) -> Iterator[None]:
    """What goes wrong with the very text of an option (`'a.csv' does not exist`) is said of that option."""
    try:
        yield
    except UserError as error:
        name = next((name for name, value in options.items() if error.problem.startswith(f"'{value}' ")), "")
        if name and error.file is None:
            error.at(path=f"{path}.{name}")
        raise


def looked_at(study: Study, host: Host) -> Materials:
    """The study, opened, after all that can be known of it without work.

    Raises:
        UserError: what opening the data set and building the teachers raises, classes, shapes, controls that have no labels;
            proxies that score no network of this task, and what one step of the recipe fails of.
    """
    materials = open_materials(study, host)
    for name in study.teachers:
        check_expectable(materials, name)
        stored_answers(materials, name)
    search.check(seen_by(search, materials))
    refine.check(materials)
    with placing(study, "run.executor"):
        materials.make("executor", study.executor, "run.executor")
    Logs.of(materials)
    distill.check(materials)
    export.check(materials)
    check_recipe(materials)
    check_ends(materials)
    return materials


def doubts(materials: Materials) -> list[str]:
    """What makes a study's result doubtful before any work: samples that are judged on are trained on, limits that little keeps."""
    return [*copied(materials.data.facts), *hardly_feasible(materials)]


def notes_of(materials: Materials) -> list[str]:
    """What is good to know of a study before any work."""
    return [*noted(materials.data.facts), *search.few_offered(materials)]


def look(study: Study, host: Host) -> dict[str, Any]:
    """The study's summary, with the controls that these data can have. Raise UserError as `looked_at` does."""
    materials = looked_at(study, host)
    found = summary(study, host, distill.controls_of(materials))
    return {**found, "warnings": doubts(materials), "notes": notes_of(materials)}


def check_storage(study: Study) -> None:
    """Raise StudyError where the trials' storage does not answer: before hours of work need it. Nothing is made there."""
    if study.config.run.storage is None:
        return
    from kdsearch.search.storage import check_storage as check
    from kdsearch.search.storage import place_of

    try:
        place = place_of(study.config.run.storage, study.folder, study.folder)
        check(str(place))
    except KdsearchError as error:
        raise study.place(error) from error.__cause__
