"""`kdsearch plugins` and `kdsearch plugins show NAME`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdsearch.cli.options import Json, option

if TYPE_CHECKING:
    from kdsearch.host import Found, Host

app = typer.Typer(help="List what is installed.", add_completion=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def plugins(context: typer.Context, as_json: Json = False) -> None:
    """List every capability with the plugin that brings it. None of them is imported."""
    context.obj = as_json
    if context.invoked_subcommand is not None:
        return
    from kdsearch.cli.output import print_json
    from kdsearch.host import Host

    host = Host.load()
    if as_json:
        print_json(listing(host))
    else:
        _print_listing(host)


def listing(host: Host) -> dict[str, Any]:
    """Capabilities, families, composites and broken plugins as JSON values.

    `state` is ok, conflicting, missing (the module that a plugin names is not there) or not installed (its extra is not).
    """
    from kdsearch.study.names import COMPOSITES

    conflicts = host.conflicts()

    def state(found: Found) -> str:
        if (found.kind, found.name) in conflicts:
            return "conflicting"
        if not host.has_module(found):
            return "missing"
        return "not installed" if host.lacks(found) else "ok"

    return {
        "capabilities": [
            {
                "kind": each.kind,
                "name": each.name,
                "plugin": each.plugin.name,
                "distribution": each.plugin.distribution,
                "version": each.plugin.version,
                "state": state(each),
                "extra": each.entry.extra,
                "about": each.entry.about,
            }
            for each in host.entries()
        ],
        "families": [
            {
                "kind": family.kind,
                "name": family.name,
                "plugin": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "about": family.about,
            }
            for family, plugin in host.families()
        ],
        "composites": [
            {"kind": "proxy", "name": name, "terms": {term: asdict(each) for term, each in terms.items()}}
            for name, terms in COMPOSITES.items()
        ],
        "broken": [vars(each) for each in host.broken],
    }


def _print_listing(host: Host) -> None:
    from kdsearch.cli.output import table
    from kdsearch.hooks import KINDS

    found = listing(host)
    composites = [
        {
            **each,
            "plugin": "",
            "distribution": "",
            "version": "",
            "about": f"a mean of the ranks of {', '.join(each['terms'])}",
        }
        for each in found["composites"]
    ]
    every = (*composites, *found["capabilities"], *found["families"])
    rows = [
        (
            each["kind"],
            each["name"],
            each["plugin"],
            f"{each['distribution']} {each['version']}",
            each.get("state", "ok"),
            f"pip install '{each['distribution']}[{each['extra']}]'"
            if each.get("state") == "not installed"
            else each["about"],
        )
        for each in sorted(every, key=lambda each: KINDS.index(each["kind"]))
    ]
    rows += [
        ("", "", each["plugin"], f"{each['distribution']} {each['version']}", "broken", each["error"])
        for each in found["broken"]
    ]
    table(("kind", "name", "plugin", "distribution", "state", "about"), rows)


@app.command("show")
def show(
    context: typer.Context,
    name: str = typer.Argument(help="A plugin, else every capability of that name.", metavar="NAME"),
    recipe: Annotated[
        bool, option("--recipe", help="Instead its paper's whole recipe, as a study's `recipe:`.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a plugin, or a capability with its options."""
    from kdsearch.cli.output import print_json
    from kdsearch.cli.show import describe, print_described, print_recipe
    from kdsearch.host import Host

    as_json = as_json or context.obj  # `plugins --json show NAME`
    if recipe:
        from kdsearch.study.paper import paper_recipe

        whole = {"recipe": paper_recipe(Host.load(), name)}
        print_json(whole) if as_json else print_recipe(whole)
        return
    found = describe(Host.load(), name)
    if as_json:
        print_json(found)
    else:
        print_described(found)
