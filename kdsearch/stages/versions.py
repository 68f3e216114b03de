"""Versions of the libraries that results depend on: recorded with each artifact, in no key, so that an update redoes nothing."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from kdsearch.errors import ArtifactError
from kdsearch.host.host import OWN
from kdsearch.store.artifacts import ABOUT, Artifact, about_of
from kdsearch.version import VERSION

TIMED = ("search", "compress", "export")  # stages whose key may hold the machine
LIBRARIES = ("torch", "numpy", "onnx", "onnxruntime", "timm", "optuna")


def versions() -> dict[str, str]:
    """Of Python and of those libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def older(made: Mapping[str, Artifact]) -> str:
    """A sentence on stages whose artifact other versions made; "" where there are none."""
    now, stages, others = versions(), list[str](), dict[str, str]()
    for name, artifact in made.items():
        had = about_of(artifact.path, artifact.stage)["provenance"]
        differing = {each: had[each] for each in now if had.get(each, now[each]) != now[each]}
        stages += [name] if differing else []
        others |= differing
    if not others:
        return ""
    shown = ", ".join(f"{each} {version} (now {now[each]})" for each, version in sorted(others.items()))
    return f"Made by other versions, and kept: {', '.join(stages)}; {shown}. A new folder (--dir) makes them anew."


def what_changed(path: Path, stage: str, used: Collection[str] = ()) -> str:
    """Why an earlier run's artifact is not this run's, in words: it is of another kdsearch, whose version is in every key, of
    another version of a plugin, or of another machine, where its latencies are in this one's; else the study's part is another
    one, or the code of a plugin.

    used: what the stage's capabilities are, as `host.sources.identity` says it.
    """
    from kdsearch.deploy.latency import machine

    made: Mapping[str, Any] = {}
    if (path / ABOUT).exists():
        with suppress(ArtifactError):
            made = about_of(path, stage)["provenance"]
    if (had := made.get("kdsearch", VERSION)) != VERSION:
        return f"kdsearch is {VERSION} now, and was {had}"
    foreign = dict(each.split()[:2] for each in used if each.split()[0] not in (OWN, "live"))
    for key, version in made.get("plugins", {}).items():
        name = key.rpartition(":")[0]
        if foreign.get(name, version) != version:
            return f"{name} is {foreign[name]} now, and was {version}"
    if stage in TIMED and made.get("machine", machine()) != machine():
        return "the machine is another one"
    code = f", or the code of {' or of '.join(sorted(foreign))}," if foreign else ""
    return f"the study{code} has changed"
