"""`kdsearch data`: which data sets are there, and how to get the others."""

from __future__ import annotations

from typing import Any

from kdsearch.cli.options import Json


def data(as_json: Json = False) -> None:
    """List data sets: present, or the exact command that installs them."""
    from kdsearch.cli.output import print_json, table
    from kdsearch.host import Host

    found = [_state(host, each) for host in [Host.load()] for each in host.entries("dataset")]
    if as_json:
        print_json({"data": found})
        return
    rows = [(each["name"], "present" if each["present"] else "missing", each["get"] or each["about"]) for each in found]
    table(("data set", "state", ""), rows)


def _state(host: Any, found: Any) -> dict[str, Any]:
    from kdsearch.errors import KdsearchError

    about = found.entry.about
    try:
        cls = host.load_class("dataset", f"{found.plugin.name}:dataset:{found.name}")
        missing = cls.missing() if hasattr(cls, "missing") else ""
        about = about or (cls.__doc__ or "").strip().partition("\n")[0]
    except KdsearchError as error:
        missing = error.fix or error.problem
    return {"name": found.name, "present": not missing, "get": missing, "about": about}
