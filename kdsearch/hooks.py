"""The whole contract between kdsearch and a plugin package: three hooks and the `Register` they are handed.

A plugin is a module named by an entry point in the group `kdsearch.v1`. Its `kdsearch_register` runs at every start, so it
must import nothing heavy: it names its capabilities as "package.module:Class" and they are imported when they are used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pluggy

GROUP = "kdsearch.v1"  # entry-point group = API major version: known without importing the plugin

hookspec = pluggy.HookspecMarker("kdsearch")
hookimpl = pluggy.HookimplMarker("kdsearch")

KINDS = (
    "task",
    "dataset",
    "data_recipe",
    "teacher",
    "search_space",
    "proxy",
    "distiller",
    "procedure",
    "pruner",
    "sparsifier",
    "quantizer",
    "exporter",
    "metric",
    "controller",
    "executor",
    "stopper",
    "logger",
)


@dataclass(frozen=True)
class Package:
    """Where a data set's samples or a teacher's weights come from, as `kdsearch data` lists them; never imported.

    Args:
        install: the whole command.
        files: those that are always read, each (distribution, path inside it).
        optional: those that only some options read; without them it is there in part.
        folders: where a system package puts its files; one of them will do.
    """

    install: str
    licence: str = ""
    size: str = ""
    files: tuple[tuple[str, str], ...] = ()
    optional: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One registered capability, not yet imported: `target` is "package.module:Class", `extra` the pip extra it needs."""

    kind: str
    name: str
    target: str
    extra: str = ""
    about: str = ""
    package: Package | None = None


@dataclass(frozen=True)
class Family:
    """A capability of `kind` for every installed one of the kind `of`: `prefix.NAME`, made of that class when it is used.

    `target` is "package.module:function", called as function(NAME, class); it returns a class of `kind`.
    """

    kind: str
    prefix: str
    of: str
    target: str
    about: str = ""

    @property
    def name(self) -> str:
        """As listings show it: `kd.<distiller>`."""
        return f"{self.prefix}.<{self.of}>"


@dataclass
class Register:
    """What `kdsearch_register` is handed: one method a kind, each taking (name, target, extra="", about="").

    A data set and a teacher also take the `package` that brings their data or weights.
    """

    entries: list[Entry] = field(default_factory=list)
    families: list[Family] = field(default_factory=list)

    def add(
        self, kind: str, name: str, target: str, extra: str = "", about: str = "", package: Package | None = None
    ) -> None:
        """Raise ValueError for a kind that does not exist, a name that is no identifier, or a target without a colon."""
        if kind not in KINDS:
            raise ValueError(f"unknown kind '{kind}'; expected one of {', '.join(KINDS)}")
        if not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise ValueError(f"capability name '{name}': expected letters, digits, '_', '-' or '.'")
        module, colon, attribute = target.partition(":")
        if not (module and colon and attribute):
            raise ValueError(f"{kind} '{name}': target '{target}' must be 'package.module:Class'")
        if any(entry.kind == kind and entry.name == name for entry in self.entries):
            raise ValueError(f"{kind} '{name}' is registered twice by this plugin")
        self.entries.append(Entry(kind, name, target, extra, about, package))

    def family(self, kind: str, prefix: str, of: str, target: str, about: str = "") -> None:
        """See `Family`. Raise ValueError for kinds that do not exist or are the same, a prefix that is no word, or a bad target."""
        if not {kind, of} <= set(KINDS) or kind == of:
            raise ValueError(f"family '{prefix}' of kinds '{kind}' and '{of}'; expected two of {', '.join(KINDS)}")
        if not prefix.isidentifier():
            raise ValueError(f"family '{prefix}': expected letters, digits or '_'")
        if not re.fullmatch(r"[\w.]+:\w+", target):
            raise ValueError(f"family '{prefix}': target '{target}' must be 'package.module:function'")
        self.families.append(Family(kind, prefix, of, target, about))

    def task(self, name: str, target: str, extra: str = "", about: str = "") -> None:
        self.add("task", name, target, extra, about)

    def dataset(self, name: str, target: str, extra: str = "", about: str = "", package: Package | None = None) -> None:
        self.add("dataset", name, target, extra, about, package)

    def data_recipe(self, name: str, target: str, extra: str = "", about: str = "") -> None:
        self.add("data_recipe", name, target, extra, about)

    def teacher(self, name: str, target: str, extra: str = "", about: str = "", package: Package | None = None) -> None:
        self.add("teacher", name, target, extra, about, package)

    def search_space(self, name: str, target: str, extra: str = "", about: str = "") -> None:
        self.add("search_space", name, target, extra, about)

    def proxy(self, name: str, target: str, extra: str = "", about: str = "") -> None:
        self.add("proxy", name, target, extra, about)

    def distiller(self, name: str, target: str, extra: str = "", about: str = "") -> None:
        self.add("distiller", name, target, extra, about)

    def procedure(self, name: str, target: str, extra: str = "", about: str = "") -> None:
        self.add("procedure", name, target, extra, about)

    def pruner(self, name: str, target: str, extra: str = "", about: str = "") -> None:
        self.add("pruner", name, target, extra, about)

    def sparsifier(self, name: str, target: str, extra: str = "", about: str = "") -> None:
        self.add("sparsifier", name, target, extra, about)

    def quantizer(self, name: str, target: str, extra: str = "", about: str = "") -> None:
        self.add("quantizer", name, target, extra, about)

    def exporter(self, name: str, target: str, extra: str = "", about: str = "") -> None:
        self.add("exporter", name, target, extra, about)

    def metric(self, name: str, target: str, extra: str = "", about: str = "") -> None:
        self.add("metric", name, target, extra, about)

    def controller(self, name: str, target: str, extra: str = "", about: str = "") -> None:
        self.add("controller", name, target, extra, about)

    def executor(self, name: str, target: str, extra: str = "", about: str = "") -> None:
        self.add("executor", name, target, extra, about)

    def stopper(self, name: str, target: str, extra: str = "", about: str = "") -> None:
        self.add("stopper", name, target, extra, about)

    def logger(self, name: str, target: str, extra: str = "", about: str = "") -> None:
        self.add("logger", name, target, extra, about)


class Hooks:
    """The hookspecs."""

    @hookspec
    def kdsearch_register(self, register: Register) -> None:
        """Name your capabilities. Runs at every start: no torch, disk or network."""

    @hookspec
    def kdsearch_event(self, event: Mapping[str, Any]) -> None:
        """Each line of a study's events.jsonl, right after it is written."""

    @hookspec
    def kdsearch_report(self, study: Mapping[str, Any], samples: Any) -> list[tuple[str, str]] | None:
        """Further sections of the report from its final JSON: (title, HTML fragment) each.

        samples: `kdsearch.kinds.Samples`, test samples with what student and teachers answer; a hook may leave it out.
        """
