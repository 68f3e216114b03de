"""What the records of data recipes are as data: opened again wherever students train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from kdsearch.engine.recipe_source import Offered, RecordSource, Swapped
from kdsearch.engine.records import kept, read_records
from kdsearch.engine.splits import Arranged
from kdsearch.errors import ArtifactError, DataError, KdsearchError, PluginError, told
from kdsearch.kinds import DataRecipe, DataSource, Record
from kdsearch.store.artifacts import Artifact, Store
from kdsearch.store.files import is_disk_error
from kdsearch.training.materials import Materials, placing
from kdsearch.training.request import CONTROLS, Request

NAME = "records"  # of their artifacts
FILE = "records.jsonl"


def supplied(materials: Materials, prepared: Artifact, store: Store) -> Materials:
    """The materials with what the recipes made, once stage `prepare` is done. Raise ArtifactError where records are gone."""
    source = Offered(materials.given)
    for i, (use, about) in enumerate(zip(materials.study.config.data.recipes, prepared.facts["recipes"], strict=True)):
        path = f"data.recipes[{i}]"
        records = store.get(NAME, about["key"])
        if records is None:
            fix = f"Delete the folder {prepared.path}; `kdsearch run` makes both again."
            raise ArtifactError(f"the records of {path} are gone", file=store.folder(NAME, about["key"]), fix=fix)
        recipe: DataRecipe[Any] = materials.make("data_recipe", use, path)
        with placing(materials.study, path):
            source = Offered(materials.given, opened(use.use, recipe, kept(stored(records)), source))
    made = arranged(materials, source) if prepared.facts["recipes"] else None
    return replace(materials, made=made, prepared=prepared.key)


def control_data(materials: Materials, every_label: bool) -> DataSource:
    """What a control trains on: the data set as it was given, in split `labeled`; a pass has as many steps as the student's."""
    given = materials.given.revealed() if every_label else materials.given
    if materials.made is None:
        return given
    shown = "train" if every_label or "labeled" not in given.splits else "labeled"
    return Swapped(given, {"train": materials.data.split("train"), "labeled": given.split(shown)})


def is_judged(materials: Materials, request: Request) -> bool:
    """Whether validation judges it. A control has no teacher to stand in for labels: of none there, the test split alone does."""
    if request.kind not in CONTROLS:
        return True
    given = materials.given.revealed() if request.kind == "all_labels" else materials.given
    return any(n for name, n in given.counts().get("val", {}).items() if name != "unlabeled")


def stored(artifact: Artifact) -> list[Record]:
    return list(read_records(artifact.path / FILE, artifact.key).values())


def opened(use: str, recipe: DataRecipe[Any], records: list[Record], source: DataSource) -> DataSource:
    found: DataSource = guarded(use, lambda: recipe.open(records, source) or RecordSource(records, source))
    return found


def arranged(materials: Materials, source: DataSource) -> Arranged:
    last = len(materials.study.config.data.recipes) - 1
    use, path = materials.study.config.data.recipes[last].use, f"data.recipes[{last}]"
    with placing(materials.study, path):
        try:
            return materials.given.trained_on(source)
        except DataError as error:
            problem = f"what recipe '{use}' gives cannot be trained on: {error.problem}"
            raise PluginError(problem, expected=error.expected, fix=error.fix) from None


def check_first_keys(materials: Materials) -> None:
    """Raise what the first data recipe raises of the study's data: before a teacher is trained that it would ask."""
    for use in materials.study.config.data.recipes[:1]:
        path = "data.recipes[0]"
        recipe: DataRecipe[Any] = materials.make("data_recipe", use, path)
        with placing(materials.study, path):
            guarded(use.use, partial(recipe.keys, Offered(materials.given)))


def guarded(use: str, call: Callable[[], Any]) -> Any:
    """What the recipe's own code raises, as an error that names it."""
    try:
        return call()
    except KdsearchError:
        raise
    except (Exception, SystemExit) as error:
        if is_disk_error(error):
            raise
        raise PluginError(f"recipe '{use}' failed: {told(error)}") from error
