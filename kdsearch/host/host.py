"""The host: every capability by kind and name, imported when it is used."""

from __future__ import annotations

import contextlib
import copy
import inspect
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from importlib import import_module
from typing import Any

from kdsearch.errors import FOREIGN, INTERRUPTS, KdsearchError, PluginError, UserError, nearest, one_of, told
from kdsearch.hooks import KINDS, Entry, Family
from kdsearch.host.plugins import Broken, Plugin, installed, is_module, lacking, load_installed, register

OWN = __name__.partition(".")[0]  # the distribution of kdsearch itself


@dataclass(frozen=True)
class Found:
    """A registered capability with the plugin that named it. `base`: (kind, name) that a family's member is made of."""

    entry: Entry
    plugin: Plugin
    base: tuple[str, str] | None = None

    @property
    def kind(self) -> str:
        return self.entry.kind

    @property
    def name(self) -> str:
        return self.entry.name


@dataclass(frozen=True)
class Section:
    """A section that a plugin adds to the report; `html` is a fragment."""

    plugin: str
    title: str
    html: str


@dataclass(frozen=True)
class Host:
    """What is installed. `live`: classes handed over from Python by (kind, name); they come before installed ones.

    `failures` gathers what hooks raised after loading: one a plugin and hook.
    """

    plugins: tuple[Plugin, ...] = ()
    broken: tuple[Broken, ...] = ()
    live: Mapping[tuple[str, str], type] = field(default_factory=dict)
    failures: dict[tuple[str, str], Broken] = field(default_factory=dict, compare=False)

    @classmethod
    def load(cls, extra: Iterable[tuple[str, Any]] = (), *, entry_points: bool = True) -> Host:
        """Import every installed plugin's registration, none of its capabilities.

        Args:
            extra: (name, module or object) of further plugins, as if a distribution `live` had brought them.
            entry_points: False = only `extra`.
        """
        points, foreign = installed() if entry_points else ([], [])
        asked = [*load_installed(points), *(register(name, plugin, "live", "0") for name, plugin in extra)]
        plugins = tuple(each for each in asked if isinstance(each, Plugin))
        return cls(plugins, (*(each for each in asked if isinstance(each, Broken)), *foreign))

    def with_classes(self, classes: Mapping[tuple[str, str], type]) -> Host:
        """This host with live capability classes by (kind, name). Raise PluginError for a class of the wrong kind."""
        for (kind, name), cls in classes.items():
            _check_kind(kind, name, cls, "handed over from Python")
        return replace(self, live={**self.live, **classes})

    def entries(self, kind: str | None = None) -> list[Found]:
        """Every registered capability, conflicting ones included, by kind and name."""
        if kind is not None:
            return list(self._by_kind.get(kind, ()))
        return [each for kind in KINDS for each in self._by_kind.get(kind, ())]

    @cached_property
    def _by_kind(self) -> Mapping[str, Sequence[Found]]:
        found = defaultdict(list)
        for plugin in self.plugins:
            for entry in plugin.entries:
                found[entry.kind].append(Found(entry, plugin))
        return {
            kind: sorted(same, key=lambda each: (each.name, each.plugin.distribution)) for kind, same in found.items()
        }

    def names(self, kind: str) -> list[str]:
        """Names of a kind, each once."""
        live = (name for of, name in self.live if of == kind)
        return sorted({*(each.name for each in self.entries(kind)), *live})

    def families(self, kind: str | None = None) -> list[tuple[Family, Plugin]]:
        """Every registered family, by kind and prefix."""
        found = [(each, plugin) for plugin in self.plugins for each in plugin.families if kind in (None, each.kind)]
        return sorted(found, key=lambda pair: (KINDS.index(pair[0].kind), pair[0].prefix, pair[1].distribution))

    def members(self, kind: str) -> list[str]:
        """Names of a kind that families give, each once; `names` has the others."""
        return sorted({f"{each.prefix}.{name}" for each, _ in self.families(kind) for name in self.names(each.of)})

    def member(self, kind: str, name: str) -> Found | None:
        """A family's member by its name, as `find` takes names; None where none has it or a plugin registers that very name.

        Raises:
            PluginError: several families have it, or several plugins register what it is made of (with the full names).
        """
        source, _, bare = name.rpartition(f":{kind}:")
        if (kind, bare) in self.live or any(each.name == bare for each in self.entries(kind)):
            return None
        found = []
        for family, plugin in self.families(kind):
            base = bare.removeprefix(f"{family.prefix}.")
            if base == bare or source not in ("", plugin.name, plugin.distribution) or not self._is_base(family, base):
                continue
            found.append(Found(Entry(kind, bare, family.target, about=family.about), plugin, (family.of, base)))
        if len(found) > 1:
            full = " or ".join(map(repr, _full_names(found)))
            raise PluginError(f"{_words(kind)} '{name}' is offered by {len(found)} plugins", fix=f"Write {full}.")
        return found[0] if found else None

    def _is_base(self, family: Family, name: str) -> bool:
        """Whether there is one capability that a family's member can be made of. Raise PluginError where there are several."""
        if (family.of, name) in self.live:
            return True
        same = _meant([each for each in self.entries(family.of) if each.name == name])
        if len(same) > 1:
            full = " or ".join(f"'{family.prefix}.{each}'" for each in _full_names(same))
            of = _words(family.of)
            raise PluginError(f"{of} '{name}' is registered by {len(same)} plugins", fix=f"Write {full}.")
        return bool(same) or (":" in name and bool(self.find(family.of, name)))

    def conflicts(self) -> dict[tuple[str, str], list[Found]]:
        """(kind, name) -> the capabilities that share it."""
        same = defaultdict(list)
        for each in self.entries():
            same[each.kind, each.name].append(each)
        return {key: found for key, found in same.items() if len(found) > 1}

    def find(self, kind: str, name: str, also: Sequence[str] = ()) -> Found:
        """A capability by its name, or by `distribution:kind:name`, also `plugin:kind:name`; or a family's member.

        A name that kdsearch itself brings is kdsearch's own: what is installed beside it changes no study, and no default.

        `also`: what could be written in its place, for the error.

        Raises:
            PluginError: unknown (with the nearest name), or shared by several plugins (with the full names).
        """
        if member := self.member(kind, name):
            return member
        source, of, bare = _parts(kind, name)
        if of != kind:
            raise PluginError(f"'{name}' names a {_words(of)}", expected=f"a {_words(kind)}")
        same = [each for each in self.entries(kind) if each.name == bare]
        if source:
            chosen = [each for each in same if source in (each.plugin.distribution, each.plugin.name)]
            if not chosen and same:
                raise PluginError(
                    f"{_words(kind)} '{bare}' is not in '{source}'",
                    expected=one_of(each.plugin.distribution for each in same),
                )
            same = chosen
        same = _meant(same)
        if len(same) == 1:
            return same[0]
        if same:
            full = _full_names(same)
            raise PluginError(
                f"{_words(kind)} '{name}' is registered by {len(same)} plugins",
                fix=f"Write {' or '.join(map(repr, full))}.",
            )
        raise self._unknown(kind, name, source, bare, also)

    def _unknown(self, kind: str, name: str, source: str, bare: str, also: Sequence[str]) -> PluginError:
        names, made = [*also, *self.names(kind)], [family.name for family, _ in self.families(kind)]
        elsewhere = [each.kind for each in self.entries() if each.name == bare]
        hint = f"'{bare}' is a {_words(elsewhere[0])}." if elsewhere else self._broken_hint()
        near = nearest(bare, [*names, *self.members(kind)])
        if not hint and not near:
            hint = f"Install the package that brings it, here and wherever the study runs{f': {source}' if source else ''}."
        return PluginError(f"unknown {_words(kind)} '{name}'", nearest=near, expected=one_of([*names, *made]), fix=hint)

    def _broken_hint(self) -> str:
        names = ", ".join(each.plugin for each in self.broken)
        return f"Broken plugins offer nothing: {names} (see `kdsearch plugins`)." if names else ""

    def load_class(self, kind: str, name: str) -> type[Any]:
        """Import a capability's class.

        Raises:
            PluginError: unknown, ambiguous, a missing extra (with the pip command), broken on import, or of another kind.
        """
        if (kind, name) in self.live:
            return self.live[kind, name]
        found = self.find(kind, name)
        module, _, attribute = found.entry.target.partition(":")
        base = None if found.base is None else (found.base[1], self.load_class(*found.base))
        try:
            with contextlib.redirect_stdout(sys.stderr):  # a plugin that prints must not spoil --json
                cls: Any = import_module(module)
            for part in attribute.split("."):
                cls = getattr(cls, part)
            cls = cls if base is None else cls(*base)
        except (*INTERRUPTS, KdsearchError):
            raise
        except BaseException as error:
            problem = f"{self._who(kind, name)} cannot be imported: {told(error)}"
            raise PluginError(problem, fix=self._extra(kind, name, error)) from error
        _check_kind(kind, found.name, cls, f"{found.entry.target} of {found.plugin.distribution}")
        return cls  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def naming(self, kind: str, name: str) -> Iterator[None]:
        """Whatever a capability's own code raises that is no error of ours, as a PluginError that says whose code it is.

        A full disk goes through: it is nobody's code.
        """
        try:
            yield
        except (*INTERRUPTS, KdsearchError):
            raise
        except FOREIGN as error:
            from kdsearch.store.files import is_disk_error

            if is_disk_error(error):
                raise
            who = self._who(kind, name)
            problem = f"{who} fails: {told(error)}"
            if isinstance(error, ModuleNotFoundError):
                problem = f"{who} needs {error.name or 'a package'}, which is not installed"
            raise PluginError(problem, fix=self._extra(kind, name, error)) from error

    def blamed(self, error: BaseException) -> PluginError | None:
        """What was raised while the code of somebody's plugin ran, as a PluginError that names it; None of kdsearch's own code."""
        foreign = [each for each in self.entries() if each.plugin.distribution != OWN]
        of = {each.entry.target.partition(":")[0].partition(".")[0]: each.plugin for each in foreign}
        frame, found = error.__traceback__, None
        while frame is not None:
            module = str(frame.tb_frame.f_globals.get("__name__")).partition(".")[0]
            found = of.get(module, found)
            frame = frame.tb_next
        if found is None:
            return None
        return PluginError(f"plugin '{found.name}' of {found.distribution} {found.version} fails: {told(error)}")

    def _who(self, kind: str, name: str) -> str:
        if (kind, name) in self.live:
            return f"{_words(kind)} '{name}', handed over from Python,"
        try:
            found = self.find(kind, name)
        except PluginError:  # `file.py:Class`
            return f"{_words(kind)} '{name}'"
        return f"{_words(kind)} '{found.name}' of {found.plugin.distribution} {found.plugin.version}"

    def _extra(self, kind: str, name: str, error: BaseException) -> str:
        """What installs the extra that a capability is registered with, where an import failed; else ""."""
        if not isinstance(error, ImportError) or (kind, name) in self.live:
            return ""
        try:
            found = self.find(kind, name)
        except PluginError:
            return ""
        return f'Run: pip install "{found.plugin.distribution}[{found.entry.extra}]"' if found.entry.extra else ""

    def event(self, event: Mapping[str, Any]) -> None:
        """Hand every plugin a copy of an event; what one raises is kept in `failures`."""
        for plugin in self.plugins:
            if plugin.manager.hook.kdsearch_event.get_hookimpls():
                self._ask(plugin, "kdsearch_event", event=copy.deepcopy(event))

    def report_sections(self, result: Mapping[str, Any], samples: Callable[[], Any] = lambda: None) -> list[Section]:
        """Further sections of the report, plugin by plugin, each handed a copy of the result; one that raises adds none.

        samples: gives what hooks read as `samples`; called once, where one does.
        """
        found: list[Section] = []
        known: list[Any] = []
        for plugin in self.plugins:
            if not (hooks := plugin.manager.hook.kdsearch_report.get_hookimpls()):
                continue
            reads = any("samples" in each.argnames for each in hooks)
            if reads and not known:
                try:
                    known.append(samples())
                except UserError as error:  # the data are gone, or need code that is not allowed
                    self._fail(plugin, "kdsearch_report", error)
                    continue
            given = {"study": copy.deepcopy(result), "samples": copy.deepcopy(known[0]) if reads else None}
            for answer in self._ask(plugin, "kdsearch_report", **given):
                try:
                    found += [Section(plugin.name, str(title), str(html)) for title, html in answer]
                except (TypeError, ValueError) as error:
                    self._fail(plugin, "kdsearch_report", error)
        return found

    def told(self) -> list[str]:
        """What hooks raised so far, a sentence a plugin and hook."""
        return [
            f"Plugin '{each.plugin}' of {each.distribution} {each.version} failed in {each.error}; the study went on without it."
            for each in self.failures.values()
        ]

    def has_module(self, found: Found) -> bool:
        """Whether the module that a capability names is there. Nothing is imported for it."""
        return is_module(found.entry.target.partition(":")[0])

    def lacks(self, found: Found) -> list[str]:
        """Distributions that the extra of a capability asks for and that are not installed, whatever their versions."""
        return lacking(found.plugin.distribution, found.entry.extra) if found.entry.extra else []

    def _ask(self, plugin: Plugin, hook: str, **arguments: Any) -> list[Any]:
        call: Callable[..., list[Any]] = getattr(plugin.manager.hook, hook)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                return call(**arguments)
        except INTERRUPTS:
            raise
        except BaseException as error:
            self._fail(plugin, hook, error)
            return []

    def _fail(self, plugin: Plugin, hook: str, error: BaseException) -> None:
        text = f"{hook}: {told(error)}"
        self.failures.setdefault((plugin.name, hook), Broken(plugin.name, plugin.distribution, plugin.version, text))


def _meant(same: list[Found]) -> list[Found]:
    """Of the capabilities that share a name kdsearch's own, where one is."""
    own = [each for each in same if each.plugin.distribution == OWN]
    return own if len(own) == 1 else same


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def _parts(kind: str, name: str) -> tuple[str, str, str]:
    parts = name.split(":")
    if len(parts) == 3:
        return parts[0], parts[1], parts[2]
    return "", kind, name


def _full_names(same: list[Found]) -> list[str]:
    """`distribution:kind:name`; by plugin where one distribution brings the name twice."""
    brought = [each.plugin.distribution for each in same]
    sources = [
        each.plugin.name if brought.count(each.plugin.distribution) > 1 else each.plugin.distribution for each in same
    ]
    return [f"{source}:{each.kind}:{each.name}" for source, each in zip(sources, same, strict=True)]


def _check_kind(kind: str, name: str, cls: Any, where: str) -> None:
    base: Any = base_class(kind)
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise PluginError(
            f"{_words(kind)} '{name}' ({where}) is {cls!r}", expected=f"a subclass of kdsearch.kinds.{base.__name__}"
        )
    who = f"{_words(kind)} '{name}' ({where})"
    if lacks := _undefined(cls):
        raise PluginError(f"{who} does not define {', '.join(lacks)}", expected="a complete class")
    for attribute, (right, expected) in _declared(base).items():
        value = inspect.getattr_static(cls, attribute)
        if not isinstance(value, right) or (isinstance(value, bool) and bool not in right):
            raise PluginError(f"`{attribute}` of {who} is {value!r}", expected=expected)


@lru_cache(maxsize=64)
def _declared(base: type[Any]) -> Mapping[str, tuple[tuple[type[Any], ...], str]]:
    """Attributes that a contract gives a default: the types that a class of it may say there, or compute, and these in words.

    A default of None says nothing of types.
    """
    found: dict[str, tuple[tuple[type[Any], ...], str]] = {}
    for cls in base.__mro__:
        own = vars(cls) if cls.__module__.startswith("kdsearch.kinds.") else {}
        for name, value in own.items():
            if name.startswith("_") or callable(value) or value is None or hasattr(value, "__get__"):
                continue
            words = _IN_WORDS.get(type(value), f"a kdsearch.kinds.{type(value).__name__}")
            right = {tuple: (tuple, list), dict: (Mapping,), float: (float, int)}.get(type(value), (type(value),))
            may_be_none = (type(None),) if "None" in str(inspect.get_annotations(cls).get(name)) else ()
            found.setdefault(name, ((*right, *may_be_none, property, cached_property), words))
    return found


_IN_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a tuple of names",
    dict: "a mapping",
}


@lru_cache(maxsize=1024)
def _undefined(cls: type[Any]) -> tuple[str, ...]:
    """What a class leaves abstract."""
    return tuple(each for each in dir(cls) if getattr(inspect.getattr_static(cls, each), "__isabstractmethod__", False))


def base_class(kind: str) -> type[Any]:
    """The contract of a kind."""
    from kdsearch import kinds

    compresses = kind in ("pruner", "sparsifier", "quantizer")
    name = "Compressor" if compresses else kind.title().replace("_", "")
    found = getattr(kinds, name)
    assert isinstance(found, type)
    return found
