"""What proxies need of a task beside a network: refused by name, with those that would do, before a candidate is scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdsearch.errors import KdsearchError, PluginError, one_of
from kdsearch.host import Host
from kdsearch.kinds import IO, Proxy


def check_needs(proxies: Mapping[str, Proxy[Any]], io: IO, host: Host) -> None:
    """Raise PluginError, its path `proxy NAME`, for a proxy that reads classes of a task that has none."""
    if io.has_classes:
        return
    for name, proxy in proxies.items():
        if proxy.needs_classes:
            raise PluginError(
                f"'{name}' compares classes, and the task answers {one_of(_shown(each) for each in io.outputs)}",
                path=f"proxy {name}",
                expected="a task with one class a sample and a logit for each",
                fix=f"Use {one_of(needing_none(host))} instead.",
            )


def needing_none(host: Host) -> list[str]:
    """The installed proxies that score networks of any task."""
    found = []
    for name in host.names("proxy"):
        try:
            cls = host.load_class("proxy", name)
        except KdsearchError:  # another plugin's, and broken
            continue
        found += [] if cls.needs_classes else [name]
    return found


def _shown(field: Any) -> str:
    return f"{field.name} ({', '.join('?' if size is None else str(size) for size in field.shape)})"
