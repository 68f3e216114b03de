"""The study's teachers that write or embed, as recipes and methods ask them: what they answer is kept in `DIR/texts`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from kdsearch.engine.replies import KeptEmbedder, KeptWriter, cost_of
from kdsearch.host.sources import identity
from kdsearch.kinds import Access, Teacher, Writer
from kdsearch.store.hashing import digest
from kdsearch.training.materials import Materials, placing
from kdsearch.training.sites import teacher_site

FOLDER = "texts"


def has_network(materials: Materials, name: str) -> bool:
    """Whether a teacher is a network: one that only writes or embeds has none to train, cache or export."""
    path = materials.study.path_of_teacher(name)
    if materials.study.live_object(path) is not None:
        return True
    made: Teacher[Any] = materials.make("teacher", materials.study.teachers[name], path)
    return made.access >= Access.LOGITS


def identity_of(materials: Materials, name: str) -> str:
    """What a teacher's replies and embeddings are a function of, beside the request."""
    path, use = materials.study.path_of_teacher(name), materials.study.teachers[name]
    made: Teacher[Any] = materials.make("teacher", use, path)
    with placing(materials.study, f"{path}.options"):
        own = dict(made.identity(materials.site))
    code = identity(materials.host, "teacher", use.use)
    return digest({"use": use.use, "identity": own, "files": materials.files_key(own), "code": code})


def writers(materials: Materials, only: Collection[str] | None = None, asker: str = "") -> dict[str, KeptWriter]:
    """By name, those of `only` that write. None of them is opened before it is asked for what is not kept."""
    return {
        name: KeptWriter(name, partial(_opened, materials, name, made), _file(materials, name), asker)
        for name, made in _made(materials, only).items()
        if type(made).writer is not Teacher.writer
    }


def embedders(materials: Materials, only: Collection[str] | None = None) -> dict[str, KeptEmbedder]:
    """By name, those of `only` that embed."""
    return {
        name: KeptEmbedder(name, _embedding(materials, name, made), _file(materials, name, "vectors"))
        for name, made in _made(materials, only).items()
        if type(made).embed is not Teacher.embed
    }


def spent(materials: Materials, only: Collection[str], asker: str) -> dict[str, dict[str, int]]:
    """Teacher -> what its replies to an asker cost: calls, prompt_tokens, tokens."""
    return {
        name: cost_of(file, asker)
        for name, made in _made(materials, only).items()
        if type(made).writer is not Teacher.writer and (file := _file(materials, name)) is not None
    }


def _made(materials: Materials, only: Collection[str] | None) -> dict[str, Teacher[Any]]:
    study = materials.study
    return {
        name: materials.make("teacher", use, study.path_of_teacher(name))
        for name, use in study.teachers.items()
        if (only is None or name in only) and study.live_object(study.path_of_teacher(name)) is None
    }


def _opened(materials: Materials, name: str, made: Teacher[Any]) -> Writer:
    with placing(materials.study, f"{materials.study.path_of_teacher(name)}.options"):
        return made.writer(teacher_site(materials, name))


def _embedding(materials: Materials, name: str, made: Teacher[Any]) -> Callable[[Sequence[str]], Tensor]:
    """Texts -> their vectors. The site, whose memory's name is a digest of all samples, is made once."""
    site = cache(partial(teacher_site, materials, name))

    def embedded(texts: Sequence[str]) -> Tensor:
        with placing(materials.study, f"{materials.study.path_of_teacher(name)}.options"):
            return made.embed(texts, site())

    return embedded


def _file(materials: Materials, name: str, what: str = "replies") -> Path | None:
    if materials.folder is None:
        return None
    return materials.folder / FOLDER / f"{name}-{what}-{identity_of(materials, name)}.jsonl"
