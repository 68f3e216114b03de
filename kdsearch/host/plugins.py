"""Plugins as they are found: entry points of the group `kdsearch.v1`, each imported on its own, what it raises kept as `Broken`."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, entry_points, requires, version
from typing import Any

import pluggy

from kdsearch.errors import INTERRUPTS, told
from kdsearch.hooks import GROUP, Entry, Family, Hooks, Register


@dataclass(frozen=True)
class Plugin:
    """A plugin that registered. `manager` holds this plugin alone, so that what it raises is known to be its own."""

    name: str
    distribution: str
    version: str
    manager: pluggy.PluginManager = field(repr=False, compare=False)
    entries: tuple[Entry, ...] = ()
    about: str = ""
    families: tuple[Family, ...] = ()


@dataclass(frozen=True)
class Broken:
    """A plugin whose import, registration or hook raised, or that was written for another major version; `error` is one line."""

    plugin: str
    distribution: str
    version: str
    error: str


def installed() -> tuple[list[EntryPoint], list[Broken]]:
    """Entry points of this major version, and those of others, which are never imported."""
    every, known = entry_points(), dict[Distribution, tuple[str, str]]()
    foreign = [
        Broken(
            point.name,
            *_origin(point, known),
            f"needs another kdsearch: written for '{group}', this one offers '{GROUP}'",
        )
        for group in sorted(every.groups)
        if group != GROUP and re.fullmatch(r"kdsearch\.v\d+", group)
        for point in every.select(group=group)
    ]
    points = sorted(every.select(group=GROUP), key=lambda point: (point.name != "builtin", point.name, point.value))
    return points, foreign


def load_installed(points: Iterable[EntryPoint]) -> Iterator[Plugin | Broken]:
    """Import and register each entry point; the rest goes on when one raises."""
    known = dict[Distribution, tuple[str, str]]()
    for point in points:
        distribution, version = _origin(point, known)
        found = _guarded(point.load, point.name, distribution, version)
        yield found if isinstance(found, Broken) else register(point.name, found[0], distribution, version)


def register(name: str, plugin: Any, distribution: str, version: str) -> Plugin | Broken:
    """Let a module or object with `kdsearch_register` name its capabilities."""

    def ask() -> tuple[pluggy.PluginManager, Register]:
        manager, asked = pluggy.PluginManager("kdsearch"), Register()
        manager.add_hookspecs(Hooks)
        manager.register(plugin, name)
        manager.check_pending()
        if not manager.get_hookcallers(plugin):
            raise TypeError("no hook found; is kdsearch_register decorated with @hookimpl?")
        manager.hook.kdsearch_register(register=asked)
        return manager, asked

    found = _guarded(ask, name, distribution, version)
    if isinstance(found, Broken):
        return found
    manager, asked = found[0]
    about = (getattr(plugin, "__doc__", None) or "").strip().partition("\n")[0]
    return Plugin(name, distribution, version, manager, tuple(asked.entries), about, tuple(asked.families))


def is_module(name: str) -> bool:
    """Whether there is such a module. Unlike `importlib.util.find_spec` it runs no package on the way there."""
    path: Any = None
    full = ""
    for part in name.split("."):
        full = f"{full}.{part}" if full else part
        if full in sys.modules:
            path = getattr(sys.modules[full], "__path__", ())
            continue
        finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
        spec = next((found for finder in finders if (found := finder.find_spec(full, path)) is not None), None)
        if spec is None:
            return False
        path = spec.submodule_search_locations or ()
    return True


def lacking(distribution: str, extra: str) -> list[str]:
    """Distributions that this extra asks for and that are not installed; versions are not compared."""
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(line) for line in requires(distribution) or ()]
    except PackageNotFoundError:
        return []
    wanted = [each.name for each in asked if each.marker is not None and each.marker.evaluate({"extra": extra})]
    return [name for name in wanted if not _is_installed(name)]


def _is_installed(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


def _origin(point: EntryPoint, known: dict[Distribution, tuple[str, str]]) -> tuple[str, str]:
    """Name and version of its distribution. `known`: those of before, since metadata are parsed anew whenever they are asked."""
    if point.dist is None:
        return "unknown", "?"
    if point.dist not in known:
        metadata: Mapping[str, Any] = point.dist.metadata  # type: ignore[assignment]
        known[point.dist] = str(metadata["Name"]), str(metadata["Version"])
    return known[point.dist]


def _guarded(call: Any, name: str, distribution: str, version: str) -> tuple[Any] | Broken:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a plugin that prints must not spoil --json
            return (call(),)
    except INTERRUPTS:
        raise
    except BaseException as error:  # SystemExit too: a plugin must not end the program
        return Broken(name, distribution, version, told(error))
