"""Data recipes of a study: their records, made once and stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdsearch.engine.cache import Live
from kdsearch.engine.recipe_site import RecipeSite
from kdsearch.engine.recipe_source import Offered
from kdsearch.engine.records import kept, make_records, told, write_records
from kdsearch.errors import PluginError
from kdsearch.kinds import DataRecipe, DataSource, Record
from kdsearch.kinds.options import named_teachers
from kdsearch.store.artifacts import Artifact
from kdsearch.store.hashing import derive, digest, module_digest
from kdsearch.study.view import plain_json, without
from kdsearch.training.keys import SOURCE, capabilities, declared
from kdsearch.training.materials import Materials, placing
from kdsearch.training.recipe_data import FILE, NAME, arranged, guarded, opened, stored
from kdsearch.training.text_teachers import embedders, has_network, identity_of, spent, writers
from kdsearch.training.tools import Tools


def make_recipes(
    materials: Materials, teachers: Mapping[str, Live], fed: Mapping[str, Any], tools: Tools
) -> tuple[list[dict[str, Any]], Materials]:
    """Every recipe's records as an artifact of their own. Returns what the report says of each, with the artifact's key, and the
    materials with what the last one gave.

    Args:
        teachers: the study's networks.
        fed: name -> what was chosen as a network's normalisation, None where the study or its weights say it.

    Raises:
        PluginError: a recipe fails, breaks its contract, or keeps nothing, with the reasons.
        InterruptedRun: after a chunk; what was made is kept.
    """
    facts: list[dict[str, Any]] = []
    source, key = Offered(materials.given), materials.data_key()
    for i, use in enumerate(materials.study.config.data.recipes):
        path = f"data.recipes[{i}]"
        recipe: DataRecipe[Any] = materials.make("data_recipe", use, path)
        key = _key(materials, i, recipe, key, teachers, fed)
        with placing(materials.study, path):
            made = tools.store.get(NAME, key) or _made(materials, i, recipe, source, key, teachers, tools)
            facts.append({"use": use.use, "key": key, **made.facts})
            records = kept(stored(made))
            if not records:
                raise PluginError(f"recipe '{use.use}' keeps none of {made.facts['records']} records{_why(made)}")
            source = Offered(materials.given, opened(use.use, recipe, records, source))
    return facts, replace(materials, made=arranged(materials, source)) if facts else materials


def counted(materials: Materials) -> list[dict[str, Any]]:
    """{use, records, chunk} of each recipe, nothing asked; records None where they depend on what the one before makes."""
    found = []
    for i, use in enumerate(materials.study.config.data.recipes):
        path = f"data.recipes[{i}]"
        recipe: DataRecipe[Any] = materials.make("data_recipe", use, path)
        with placing(materials.study, path):
            n = None if i else len(guarded(use.use, lambda r=recipe: list(r.keys(Offered(materials.given)))))  # type: ignore[misc]
        found.append({"use": use.use, "records": n, "chunk": recipe.chunk})
    return found


def _key(
    materials: Materials,
    i: int,
    recipe: DataRecipe[Any],
    source: str,
    teachers: Mapping[str, Live],
    fed: Mapping[str, Any],
) -> str:
    """All that a recipe's records depend on."""
    options = recipe.options.model_dump(mode="json")
    use = materials.study.config.data.recipes[i].use
    asked = {
        name: [_network(materials, name, teachers[name]), fed[name]]
        if name in teachers
        else identity_of(materials, name)
        for name in _named(recipe)
    }
    return digest(
        {
            **declared(materials, SOURCE, but="data.recipes"),
            "recipe": use,
            "number": i,
            "options": options,
            "option_files": materials.files_key(options),
            "code": capabilities(materials, [f"data.recipes[{i}]"]),
            "source": source,
            "teachers": asked,
        }
    )


def _network(materials: Materials, name: str, live: Live) -> dict[str, Any]:
    """What a network's answers to a sample are a function of: its weights, what it is fed, and how that is made."""
    path = materials.study.path_of_teacher(name)
    section = without(plain_json({name: materials.study.teachers[name]}), "teachers")[name]
    return {
        "module": module_digest(live.model.module),
        "inputs": live.model.inputs,
        "outputs": live.model.outputs,
        "section": section,
        "files": materials.files_key(section),
        "code": capabilities(materials, [path]),
    }


def _named(recipe: DataRecipe[Any]) -> list[str]:
    """The teachers that its options name: those it may ask."""
    return [getattr(recipe.options, option) for option in named_teachers(recipe.options)]


def _made(
    materials: Materials,
    i: int,
    recipe: DataRecipe[Any],
    source: DataSource,
    key: str,
    teachers: Mapping[str, Live],
    tools: Tools,
) -> Artifact:
    use, names = materials.study.config.data.recipes[i].use, _named(recipe)
    work = tools.store.work(NAME, key)
    site = RecipeSite(
        seed=derive(materials.seed, "recipe", i),
        base=materials.study.folder,
        memory=work,
        code_of=materials.site.code_of,
        build_of=materials.build_member,
        writers=writers(materials, names, key),
        embedders=embedders(materials, names),
        teachers={name: teachers[name] for name in names if has_network(materials, name)},
        task=materials.task,
        data=source,
        device=materials.torch_device,
    )
    base = tools.progress.done

    def moved(done: int, of: int) -> None:
        tools.progress.at(base + done / max(of, 1), f"recipe {use}: {done:,} of {of:,} records")

    def make() -> list[Record]:
        return make_records(recipe, source, site, work / FILE, key, tools.stop, moved)

    records = guarded(use, make)
    about = {**told(records), "cost": spent(materials, names, key)}
    tools.progress.say(f"recipe {use}: {about['kept']:,} of {about['records']:,} records kept")

    def fill(folder: Path) -> dict[str, Any]:
        write_records(folder / FILE, key, recipe, records)
        return about

    return tools.store.put(NAME, key, fill, {})


def _why(made: Artifact) -> str:
    reasons = sorted(made.facts["rejected"].items(), key=lambda pair: (-pair[1], pair[0]))
    shown = "; ".join(f"{n:,} {why}" for why, n in reasons[:3])
    return f" ({shown})" if shown else ""
