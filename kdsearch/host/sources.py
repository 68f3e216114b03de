"""Where a capability comes from: its distribution's version, and its source where that can change without a new version."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from kdsearch.host.host import OWN, Host
from kdsearch.store.hashing import class_digest, is_installed_file


def identity(host: Host, kind: str, name: str) -> str:
    """What a result that this capability took part in depends on, as text: equal for equal code.

    `distribution version`, with a digest of the source; of a package in site-packages, of what its installer recorded, since one
    that is being written is installed again and again as the same version. kdsearch's own there is its version alone. Of a class
    handed over from Python its own source, or what it is installed with. A family's member is that of its family and its base.

    Raises:
        PluginError: unknown or ambiguous.
    """
    if (live := host.live.get((kind, name))) is not None:
        own = f"live {class_digest(live)}:{class_digest(live.options_class)}"  # type: ignore[attr-defined]
        return " ".join([own, *brought_by(live.__module__)])
    found = host.find(kind, name)
    plugin, module = found.plugin, found.entry.target.partition(":")[0]
    source = source_digest(module, whole=plugin.distribution != OWN)
    if not source and plugin.distribution != OWN:
        source = recorded_digest(plugin.distribution)
    parts = [plugin.distribution, plugin.version, source, identity(host, *found.base) if found.base else ""]
    return " ".join(part for part in parts if part)


@cache
def brought_by(module: str) -> tuple[str, ...]:
    """`distribution version digest` of what is installed with a module; none where it lies elsewhere, or is kdsearch's own."""
    top, file = module.partition(".")[0], _file(module)
    if file is None or not is_installed_file(str(file)):
        return ()
    found = sorted({*metadata.packages_distributions().get(top, ())} - {OWN})
    return tuple(" ".join([each, metadata.version(each), recorded_digest(each)]).strip() for each in found)


@cache
def source_digest(module: str, whole: bool) -> str:
    """SHA-256 of Python files, "" where the module lies in site-packages; read once a process, as modules are.

    whole: those of its outermost package that has an `__init__.py` (a namespace is several distributions'), or beside it where it
    is in none; else the module's own file. kdsearch's own capabilities count by their file: an edit elsewhere in a checkout would
    redo every study of whoever works on it.
    """
    file = _file(module)
    if file is None or is_installed_file(str(file)):
        return ""
    files = {file.name: file}
    if whole:
        top = next(each for each in _files_to(module) if each is not None)
        found = _package_files(top.parent) if top.name == "__init__.py" else sorted(top.parent.glob("*.py"))
        files = {each.relative_to(top.parent).as_posix(): each for each in found}
    digest = hashlib.sha256()
    for name, each in sorted(files.items()):
        digest.update(f"{name}\0".encode() + each.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@cache
def recorded_digest(distribution: str) -> str:
    """SHA-256 of the digests of an installed distribution's Python files, "" where its installer left none."""
    try:
        record = metadata.distribution(distribution).read_text("RECORD") or ""
    except metadata.PackageNotFoundError:
        return ""
    lines = sorted(line for line in record.splitlines() if ".py,sha256=" in line)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] if lines else ""


def _package_files(folder: Path) -> list[Path]:
    found = (each for each in folder.rglob("*.py") if each.is_file())
    return [each for each in found if not any(part.startswith(".") for part in each.relative_to(folder).parts)]


def _files_to(module: str) -> Iterator[Path | None]:
    """The files of the packages that a module is in, the outermost first, and its own."""
    parts = module.split(".")
    return (_file(".".join(parts[:n])) for n in range(1, len(parts) + 1))


def _file(module: str) -> Path | None:
    """A module's file, without importing it where its parents are imported; None where there is none, as of a namespace."""
    loaded = sys.modules.get(module)
    if (file := getattr(loaded, "__file__", None)) is not None:
        return Path(file)
    try:
        spec = find_spec(module)
    except (ImportError, ValueError, AttributeError):  # broken: whoever loads it says so
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin)
