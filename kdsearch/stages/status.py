"""What a study's folder says of itself, without opening the study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdsearch.store.files import read_json, read_lines

ORDER = ("prepare", "search", "refine", "distill", "compress", "export", "report")


def status_of(folder: Path) -> dict[str, Any]:
    """Stages with state and seconds, the trials told, the process that holds the folder, the recommended file."""
    last = read_json(folder / "last.json") if (folder / "last.json").exists() else {}
    events = read_lines(folder / "events.jsonl")
    begun = {each["stage"]: each for each in events if each["event"] == "stage"}
    stages = {}
    for name in ORDER:
        done = name in last and (folder / "artifacts" / f"{name}-{last[name]['key']}").exists()
        state = "done" if done else begun.get(name, {}).get("state", "not begun")
        stages[name] = {"state": state, "seconds": last.get(name, {}).get("seconds")}
    trials = [each for each in events if each["event"] == "trial"]
    holder = folder / ".holder.json"
    held_by = read_json(holder) if holder.exists() and _is_held(folder) else None
    result = read_json(folder / "result.json") if (folder / "result.json").exists() else None
    error = next((each["error"] for each in reversed(events) if each.get("error")), "")
    lines = [
        f"{name:9} {each['state']}" + (f" ({each['seconds']:.1f} s)" if each["seconds"] else "")
        for name, each in stages.items()
    ]
    if held_by:
        lines.append(f"running: pid {held_by['pid']} on {held_by['host']} since {held_by['since']}")
    if result and result["recommended"]:
        lines.append(f"recommended: {result['recommended']['format']}: {result['recommended']['why']}")
    return {
        "dir": str(folder),
        "stages": stages,
        "trials": len({each["number"] for each in trials}),
        "held_by": held_by,
        "last_error": error,
        "recommended": result["recommended"] if result else None,
        "text": "\n".join(lines),
    }


def _is_held(folder: Path) -> bool:
    from filelock import FileLock, Timeout

    lock = FileLock(str(folder / ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
