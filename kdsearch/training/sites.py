"""What teachers are handed, and where values that are made once are kept for all of a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdsearch.engine.recipe_source import Offered
from kdsearch.engine.setup import Site
from kdsearch.store.folder import ONCE
from kdsearch.store.hashing import digest
from kdsearch.study.view import plain_json
from kdsearch.training.keys import capabilities
from kdsearch.training.materials import Materials
from kdsearch.version import VERSION


def teacher_site(materials: Materials, name: str) -> Site:
    """Services of a teacher, with the data but for their test split; what it keeps by `once` is kept for the study."""
    use = materials.study.teachers[name]
    options = plain_json({name: use})[name]["options"]
    code = capabilities(materials, [materials.study.path_of_teacher(name)])
    files = materials.files_key(options)
    key = digest([name, use.use, options, files, code, materials.seed, materials.data_key(), VERSION])
    return replace(materials.site, memory=kept_in(materials, key), data=Offered(materials.given))


def kept_in(materials: Materials, key: str) -> Path | None:
    """Where values of `once` are kept for all of the study; None where nothing is."""
    return None if materials.folder is None else materials.folder / "work" / f"{ONCE}-{key}"
