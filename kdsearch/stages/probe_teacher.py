"""The untrained teacher that candidates are scored against: the study's own, where it can be had without its training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from kdsearch.engine.cache import Live
from kdsearch.errors import TapError, told
from kdsearch.kinds import Access, Batch, Model, Proxy
from kdsearch.kinds.proxy import taps_of
from kdsearch.ops.init import fresh_init
from kdsearch.search.scoring import random_teacher
from kdsearch.store.hashing import derive
from kdsearch.training.materials import Materials
from kdsearch.training.opened import live_teacher

Feed = Callable[[Batch], Batch]


def probe_teacher(
    materials: Materials, role: str, seed: int, proxies: Collection[Proxy[Any]]
) -> tuple[Model, str, Feed | None]:
    """The first of the study's teachers that has the taps these proxies read, with fresh weights, "", and what it is fed of a
    batch where that is not the batch.

    Without one, the default teacher of the role's space, and a note of why. A study without teachers needs no note.
    """
    why = ""
    for name in materials.study.teachers:
        live, reason = _untrained(materials, name, proxies)
        if live is not None:
            return live.model, "", None if live.view is None else live.fed
        why = why or reason
    model = random_teacher(materials.plain_spaces[role], materials.io, seed)
    note = f"Scores are against {model.name}, the space's default teacher: {why}" if why else ""
    return model, note, None


def _untrained(materials: Materials, name: str, proxies: Iterable[Proxy[Any]]) -> tuple[Live | None, str]:
    """The teacher with fresh weights, or why it cannot be had."""
    path, use = materials.study.path_of_teacher(name), materials.study.teachers[name]
    is_fresh = False
    if materials.study.live_object(path) is None:
        if materials.host.load_class("teacher", use.use).access < Access.TAPS:
            return None, f"'{use.use}' has no weights that could be drawn anew"
        training = materials.make("teacher", use, path).training
        is_fresh = training is not None and training.is_fresh
    live = live_teacher(materials, name)
    if materials.study.config.search.probe.input == "noise":
        if live.view is not None:
            return None, f"'{use.use}' is fed samples of its own, and the probe is noise"
        students = {each.name for each in materials.io.inputs}
        if others := [name for name in live.model.inputs if name not in students]:
            return None, f"'{use.use}' reads {', '.join(others)}, which no student does, and the probe is noise"
    reason = untrained(live.model, None if is_fresh else derive(materials.seed, "teacher", name), proxies)
    return (None, reason) if reason else (live, "")


def untrained(model: Model, seed: int | None, proxies: Iterable[Proxy[Any]]) -> str:
    """Draw the model's weights anew, in place; "", or why it cannot be the teacher of these proxies. No seed: it is fresh."""
    try:
        for proxy in proxies:
            for tap in taps_of(proxy.taps(), "teacher") if proxy.needs_teacher else ():
                if tap not in model.outputs:
                    model.tap(tap)
    except TapError as error:
        return error.problem
    if seed is not None:
        try:
            fresh_init(model.module, seed % 2**31)
        except Exception as error:  # a part of the user's own
            return f"a part of '{model.name}' cannot be drawn anew: {told(error)}"
    return ""
