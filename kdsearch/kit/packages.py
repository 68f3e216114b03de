"""Data and weights that come in an installed package, which is never imported: where its files are. Imports nothing heavy."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from kdsearch.errors import DataError
from kdsearch.hooks import Package

__all__ = ["is_complete", "is_installed", "package_file"]


def package_file(name: str, package: Package, wanted: tuple[str, str]) -> Path:
    """Where the installed distribution has the file, `wanted`: (distribution, path inside it).

    Raises:
        DataError: it has not; with `name`, whoever asks, and the line that installs the package.
    """
    found = _located(wanted)
    if found is None:
        raise DataError(
            f"{name}: package '{wanted[0]}' is not installed or lacks {Path(wanted[1]).name}",
            expected=f"its file {wanted[1]}",
            fix=f"Run `{package.install}`.",
        )
    return found


def is_installed(package: Package) -> bool:
    """Whether all files that are always read are here and, where a system package has its own folders, one of these."""
    has_files = all(_located(wanted) is not None for wanted in package.files)
    return has_files and (not package.folders or any(Path(folder).is_dir() for folder in package.folders))


def is_complete(package: Package) -> bool:
    """Whether nothing of it is missing, whatever options read."""
    return is_installed(package) and all(_located(wanted) is not None for wanted in package.optional)


def _located(wanted: tuple[str, str]) -> Path | None:
    try:
        found = Path(str(distribution(wanted[0]).locate_file(wanted[1])))
    except PackageNotFoundError:
        return None
    return found if found.is_file() else None
