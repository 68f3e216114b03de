"""The study's teachers that are networks, as whatever asks them finds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kdsearch.engine.cache import Live, TeacherCache
from kdsearch.errors import PluginError
from kdsearch.kinds import Model, Teacher
from kdsearch.kit.networks import modelled
from kdsearch.ops.seeding import seed_generators
from kdsearch.store.hashing import derive
from kdsearch.store.weights import check_module, load_into, read
from kdsearch.study.live_student import independent
from kdsearch.training.materials import Materials, placing
from kdsearch.training.normalize import feed
from kdsearch.training.sites import teacher_site
from kdsearch.training.text_teachers import has_network


def open_teachers(materials: Materials, prepared: Any, held_out: bool = False) -> dict[str, Live]:
    """The prepared teachers that are networks, by name, with their caches.

    held_out: the test split's rows too, where the study asks for them; for what measures finished files alone.
    """
    found: dict[str, Live] = {}
    for name in materials.study.teachers:  # the first one is `teacher` where none is named
        facts = prepared.facts["teachers"][name]
        if not has_network(materials, name):
            continue
        live = live_teacher(materials, name, facts.get("normalize"))
        if facts["weights"]:
            file = prepared.path / facts["weights"]
            load_into(live.model.module, read(file), file)
        live.model.module.requires_grad_(False).eval()
        live.cache = TeacherCache(prepared.path / facts["cache"]) if facts["cache"] else None
        if held_out and materials.study.teachers[name].cache == "all":
            live.held_out = TeacherCache(prepared.path / f"{facts['cache']}-test")
        found[name] = live
    return found


def live_teacher(materials: Materials, name: str, found: Mapping[str, Any] | None = None) -> Live:
    """A teacher that is a network, untrained where the study trains it, reading images in its own normalisation.

    `found`: what `choose` found that to be, where neither the study nor the weights say it.
    """
    live = loaded_teacher(materials, name)
    feed(materials, name, live.model, found)
    return live


def loaded_teacher(materials: Materials, name: str) -> Live:
    """The teacher's network as its capability gives it, and what that feeds it of a batch."""
    path = materials.study.path_of_teacher(name)
    handed_over = materials.study.live_object(path)
    if handed_over is not None:
        with placing(materials.study, path):
            model = live_model(handed_over, materials)
        check_module(model.module, f"teacher '{name}'")
        return Live(model, materials.task, None)
    use = materials.study.teachers[name]
    teacher: Teacher[Any] = materials.make("teacher", use, path)
    site = teacher_site(materials, name)
    with torch.random.fork_rng(devices=[]):
        seed_generators(derive(materials.seed, "teacher", name))
        with placing(materials.study, f"{path}.options"):
            with materials.host.naming("teacher", use.use):
                model = teacher.model(materials.io, site)
                if not isinstance(model, Model):
                    problem = f"`model` of teacher '{use.use}' gives a {type(model).__name__}"
                    raise PluginError(problem, expected="a kdsearch.kinds.Model")
            check_module(model.module, f"teacher '{name}'")
    has_view = type(teacher).view is not Teacher.view
    return Live(model, materials.task, None, teacher.view if has_view else None)


def live_model(live: Any, materials: Materials) -> Model:
    """A copy of a live Model, or a Model around a copy of a live nn.Module, whose taps are found.

    Raises:
        DataError: it cannot be copied, does not read the study's samples, or does not answer as the task asks, with what it does.
    """
    own = independent(live)
    return own if isinstance(own, Model) else modelled(own, materials.io, type(live).__name__)
