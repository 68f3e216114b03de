"""Where kdsearch keeps what studies share on one machine: derived data, downloads, measured latencies."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """`KDSEARCH_CACHE`, or the user's cache folder for kdsearch; it need not be there yet."""
    named = os.environ.get("KDSEARCH_CACHE")
    if named:
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "kdsearch" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "kdsearch"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdsearch"
