"""What a study's folder says of itself, without opening the study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdsearch.store.artifacts import ABOUT, about_of
from kdsearch.store.files import storing
from kdsearch.store.folder import LOCK, events_of, holder_of, last_run

ORDER = ("prepare", "search", "refine", "distill", "compress", "export", "report")


def status_of(folder: Path) -> dict[str, Any]:
    """Stages with state and seconds, the trials told, the process that holds the folder, the recommended file."""
    last, events = last_run(folder), events_of(folder)
    begun = {each["stage"]: each for each in events if each["event"] == "stage"}
    stages = {}
    for name in ORDER:
        done = name in last and (folder / "artifacts" / f"{name}-{last[name]['key']}").exists()
        state = "done" if done else begun.get(name, {}).get("state", "not begun")
        stages[name] = {"state": state, "seconds": last[name]["seconds"] if name in last else None}
    trials = [each for each in events if each["event"] == "trial"]
    held_by = holder_of(folder) if _is_held(folder) else None
    reported = folder / "artifacts" / f"report-{last['report']['key']}" if "report" in last else None
    is_finished = reported is not None and (reported / ABOUT).exists() and (folder / "result.json").exists()
    result = about_of(reported, "report")["facts"]["result"] if reported is not None and is_finished else None
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

    lock = FileLock(str(folder / LOCK))
    try:
        with storing(folder / LOCK):
            lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
