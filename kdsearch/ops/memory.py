"""How much memory is free: what would not fit is refused by name, before the system ends the whole process for it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # of a container (version 2): its limit and what of it is taken


def total_bytes() -> int:
    """Bytes that all processes together may take: of the machine, or of its container where that has fewer."""
    import psutil

    total: int = psutil.virtual_memory().total
    with suppress(OSError, ValueError):
        total = min(total, int((CGROUP / "memory.max").read_text()))
    return total


def free_bytes() -> int:
    """Bytes that this process may still take: of the machine, or of its container where that has fewer."""
    import psutil

    free: int = psutil.virtual_memory().available
    with suppress(OSError, ValueError, KeyError):  # no limit ("max"), or no such group
        limit, taken = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        counts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, limit - taken + int(counts["inactive_file"]))  # cached files make room
    return max(free, 0)
