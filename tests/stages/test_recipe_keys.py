"""Records of a data recipe are made anew whenever what its teacher answers, or its data, may be other ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from pydantic import Field

from kdsearch.hooks import Register, hookimpl
from kdsearch.host import Host
from kdsearch.kinds import DataRecipe, DataSource, Options, Record, Services, TeacherNamed
from kdsearch.stages.recipes import make_recipes
from kdsearch.stages.run import run_stages
from kdsearch.store.artifacts import Artifact
from kdsearch.store.hashing import digest
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.training.opened import live_teacher
from kdsearch.training.recipe_data import stored
from kdsearch.verbs.run import at_work
from tests.stages.tiny import LESS, write_study

RECIPE = "data.recipes=[{use: told, options: {teacher: main}}]"


class ToldOptions(Options):
    teacher: Annotated[str, TeacherNamed("logits")] = Field("teacher", description="whom it asks")


class Told(DataRecipe[ToldOptions]):
    """The class that the teacher says of each sample."""

    def keys(self, source: DataSource) -> list[str]:
        return list(source.split("train").ids)

    def make(self, keys: Sequence[str], source: DataSource, services: Services) -> Iterable[Record]:
        samples = source.split("train")
        place = {key: i for i, key in enumerate(samples.ids)}
        batch = samples.load([place[key] for key in keys])
        said = services.predict(self.options.teacher, batch)["logits"].argmax(1).tolist()
        return (Record(key, {"label": each}) for key, each in zip(keys, said, strict=True))


class Plugin:
    @hookimpl
    def kdsearch_register(self, register: Register) -> None:
        register.data_recipe("told", f"{__name__}:Told")


@pytest.fixture(scope="module")
def host() -> Host:
    return Host.load(extra=[("told", Plugin())])


def labels_of(made: Artifact, folder: Path) -> dict[str, int]:
    key = made.facts["recipes"][0]["key"]
    found = next((folder / "artifacts").glob(f"*-{key}"))
    return {each.key: each.fields["label"] for each in stored(Artifact(found.name, key, found, {}))}


def test_a_table_of_the_same_rows_for_other_samples_is_another_teacher(tmp_path, host):
    table, sets = tmp_path / "t.npz", (*LESS, "teacher={use: table, options: {path: t.npz}}", RECIPE)
    plain = open_materials(load_study(write_study(tmp_path), host, sets=LESS), host, tmp_path / "x")
    ids = [each for split in ("train", "val") for each in plain.data.split(split).ids]
    rows = np.random.default_rng(0).normal(size=(len(ids), 10)).astype(np.float32)

    def said(order: list[str]) -> dict[str, int]:
        np.savez(table, ids=np.array(order), logits=rows)
        study = load_study(write_study(tmp_path), host, sets=sets)
        with at_work(study, host, tmp_path / "study", progress=False) as (materials, tools):
            return labels_of(run_stages(materials, tools, "prepare")["prepare"], tmp_path / "study")

    for order in (ids, ids[::-1]):
        found = said(order)
        assert found == {each: int(rows[order.index(each)].argmax()) for each in found}


KEYS: dict[str, tuple[str, ...]] = {
    "what it is fed": ("teacher.normalize=imagenet",),
    "its options": ("teacher.options.lr=0.02",),
    "the data's options": ("data.options.resize=9",),
}


@pytest.fixture
def key_of(tmp_path, host, monkeypatch) -> Callable[..., str]:
    """The key of the recipe's records, of a study with these settings."""
    asked: list[Any] = []

    class StopError(Exception):
        pass

    class Store:
        def get(self, name: str, key: str) -> None:
            asked.append(key)
            raise StopError

    class Tools:
        store = Store()

    def found(*sets: str, chosen: Any = None) -> str:
        study = load_study(write_study(tmp_path), host, sets=(*LESS, RECIPE, *sets))
        materials = open_materials(study, host, tmp_path / "x")
        torch.manual_seed(0)
        with pytest.raises(StopError):
            make_recipes(materials, {"main": live_teacher(materials, "main")}, {"main": chosen}, Tools())  # type: ignore[arg-type]
        return str(asked[-1])

    return found


def test_the_key_of_the_records_is_a_digest_and_repeats(key_of):
    assert key_of() == key_of()
    assert len(key_of()) == len(digest({}))


@pytest.mark.parametrize("sets", KEYS.values(), ids=KEYS)
def test_the_key_holds_what_changes_the_answers(key_of, sets):
    assert key_of(*sets) != key_of()


def test_the_key_holds_the_normalisation_that_was_chosen(key_of):
    assert key_of(chosen={"use": "imagenet"}) != key_of()


def test_the_key_does_not_hold_what_changes_no_answer(key_of):
    assert key_of("data.workers=1", "teacher.cache=off", "refine.trials=3") == key_of()
