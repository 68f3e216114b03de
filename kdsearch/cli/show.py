"""What `kdsearch plugins show NAME` says of a plugin or a capability."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kdsearch.errors import KdsearchError, PluginError, nearest

if TYPE_CHECKING:
    from kdsearch.hooks import Family
    from kdsearch.host import Found, Host, Plugin
    from kdsearch.kinds import Options

_NEEDS = ("access", "needs_teacher", "needs_data", "owns_task_loss", "roles", "ships", "init", "side", "direction")


def describe(host: Host, name: str) -> dict[str, Any]:
    """The plugin of that name and every capability of it, as JSON values; `kind:name` is of one kind.

    A family's member (`kd.sp`) is one; the family itself goes by the name that listings show (`kd.<distiller>`). A composite
    (`auto`) is the proxies whose ranks it is a mean of, with their weights.

    Raises:
        PluginError: neither, with the nearest name.
    """
    plugins = [each for each in host.plugins if each.name == name]
    broken = [each for each in host.broken if each.plugin == name]
    of_plugin: dict[str, Any] = {}
    if plugins or broken:
        of_plugin = {
            "plugins": [
                {
                    "plugin": each.name,
                    "distribution": each.distribution,
                    "version": each.version,
                    "state": "ok",
                    "about": each.about,
                    "capabilities": [
                        {"kind": entry.kind, "name": entry.name, "about": entry.about} for entry in each.entries
                    ],
                }
                for each in plugins
            ]
            + [{**vars(each), "state": "broken"} for each in broken]
        }
    if broken:
        return of_plugin
    from fractions import Fraction

    from kdsearch.search.ranks import EXPONENT
    from kdsearch.study.names import COMPOSITES

    parts = name.split(":")
    found = [each for each in host.entries() if each.name == parts[-1] and _is_meant(each, parts[:-1])]
    kinds = list(dict.fromkeys(family.kind for family, _ in host.families()))
    found += [member for kind in kinds if (member := host.member(kind, name))]
    families = [(family, plugin) for family, plugin in host.families() if family.name == name]
    if name in COMPOSITES and not found:
        exponent = str(Fraction(EXPONENT).limit_denominator(100))
        terms = {term: asdict(weight) for term, weight in COMPOSITES[name].items()}
        return {"composites": [{"kind": "proxy", "name": name, "exponent": exponent, "terms": terms}]}
    if families and not found:
        return {"families": [_family(host, *each) for each in families]}
    if not found and of_plugin:
        return of_plugin
    if not found:
        made = {each for kind in kinds for each in host.members(kind)}
        names = sorted(
            {each.name for each in host.entries()} | {each.name for each in host.plugins} | made | {*COMPOSITES}
        )
        raise PluginError(
            f"no plugin and no capability is called '{name}'",
            nearest=nearest(parts[-1], names),
            fix="`kdsearch plugins` lists them.",
        )
    return {**of_plugin, "capabilities": [_capability(host, each) for each in found]}


def _is_meant(found: Found, before: list[str]) -> bool:
    """Whether `distribution:kind:`, `plugin:kind:`, or `kind:` before the name is this one's."""
    sources = (found.plugin.distribution, found.plugin.name)
    return not before or (
        before[-1] == found.kind and (len(before) == 1 or (len(before) == 2 and before[0] in sources))
    )


def _family(host: Host, family: Family, plugin: Plugin) -> dict[str, Any]:
    return {
        "kind": family.kind,
        "name": family.name,
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "about": family.about,
        "members": [f"{family.prefix}.{name}" for name in host.names(family.of)],
    }


def _capability(host: Host, found: Found) -> dict[str, Any]:
    plugin = found.plugin
    whole = {
        "kind": found.kind,
        "name": found.name,
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "target": found.entry.target,
        "extra": found.entry.extra,
    }
    try:
        of_that_name = [each for each in host.plugins if each.name == plugin.name]
        source = plugin.name if len(of_that_name) == 1 else plugin.distribution
        cls = host.load_class(found.kind, f"{source}:{found.kind}:{found.name}")
    except KdsearchError as error:
        return {**whole, "state": "broken", "error": str(error)}
    from kdsearch.kinds.distiller import access_needed
    from kdsearch.study.describe import options_of

    needs = {name: _word(getattr(cls, name)) for name in _NEEDS if hasattr(cls, name)}
    if found.kind == "distiller":
        needs["access"] = access_needed(cls, _usual(cls.options_class)).name
    return {
        **whole,
        "state": "ok",
        "about": inspect.cleandoc(cls.__doc__ or found.entry.about),  # its own, not its base's
        "source": inspect.getdoc(inspect.getmodule(cls)) or "",
        "needs": needs,
        "options": options_of(cls),
    }


def _usual(options: type[Options]) -> Options:
    """With every default, "" where there is none."""
    required: dict[str, Any] = {name: "" for name, info in options.model_fields.items() if info.is_required()}
    return options.model_construct(**required)


def _word(value: Any) -> Any:
    if isinstance(value, bool | str):
        return value
    return [*value] if isinstance(value, tuple) else getattr(value, "name", str(value))


def print_recipe(found: dict[str, Any]) -> None:
    """As a study file has it."""
    import sys

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 120
    yaml.dump(found, sys.stdout)


def _weight(base: float, own: float) -> str:
    return f"weight {base:g}" + (f" to {base + own:g}, the fewer have equal ones the more" if own else "")


def print_described(found: dict[str, Any]) -> None:
    for each in found.get("plugins", []):
        print(f"{each['plugin']}: plugin of {each['distribution']} {each['version']} ({each['state']})")
        print(f"  {each['error'] if each['state'] == 'broken' else each['about']}")
        for entry in each.get("capabilities", []):
            print(f"  {entry['kind']} {entry['name']}" + (f": {entry['about']}" if entry["about"] else ""))
    if found.get("plugins") and found.get("capabilities"):
        print()
    for each in found.get("composites", []):
        terms = ", ".join(f"{term} ({_weight(**weight)})" for term, weight in each["terms"].items())
        print(f"{each['kind']} {each['name']}: power mean, exponent {each['exponent']}, of the ranks of {terms}")
        print("  ranks in a fixed random sample of the search space, so that no score depends on its company")
    for each in found.get("families", []):
        print(f"{each['kind']} {each['name']}: {each['plugin']} of {each['distribution']} {each['version']}")
        print(f"  {each['about']}\n  {', '.join(each['members'])}")
    for i, each in enumerate(found.get("capabilities", [])):
        if i:
            print()
        print(f"{each['kind']} {each['name']}: {each['plugin']} of {each['distribution']} {each['version']}")
        if each["state"] == "broken":
            print(f"  {each['error']}")
            continue
        _print_capability(each)


def _print_capability(each: dict[str, Any]) -> None:
    from kdsearch.cli.output import table
    from kdsearch.study.names import SEARCHED

    for text in (each["source"], each["about"]):  # the module's says what paper it is, the class's what it does
        for line in text.splitlines():
            print(f"  {line}" if line else "")
        print()
    for name, value in each["needs"].items():
        text = ("yes" if value else "no") if isinstance(value, bool) else value
        print(f"  {name}: {', '.join(text) if isinstance(text, list) else text}")
    if not each["options"]:
        print("  no options")
        return
    rows = [
        (
            option["name"],
            option["type"],
            "required" if option["required"] else str(option["default"]),
            option["range"],
            option["search"],
            option["description"],
        )
        for option in each["options"]
    ]
    usual = "search" if each["kind"] in (*SEARCHED, "search_space") else "usual"  # of others a study gives fixed values
    table(("  option", "type", "default", "range", usual, "what"), [(f"  {row[0]}", *row[1:]) for row in rows])
