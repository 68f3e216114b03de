"""An exported file with its companions: copied, counted and moved together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from kdsearch.deploy.audit import zipped_bytes
from kdsearch.deploy.files import size_bytes
from kdsearch.kinds import Exporter


def copy_parts(exporter: Exporter[Any], source: Path, target: Path) -> None:
    """What lies at the target goes."""
    for old, new in zip(exporter.parts(source), exporter.parts(target), strict=True):
        shutil.copyfile(old, new)


def bytes_of(exporter: Exporter[Any], file: Path) -> int:
    """Of all parts together."""
    return sum(size_bytes(each) for each in exporter.parts(file))


def zipped_bytes_of(exporter: Exporter[Any], file: Path) -> int:
    """Of all parts, each as a zip archive holds it."""
    return sum(zipped_bytes(each) for each in exporter.parts(file))
