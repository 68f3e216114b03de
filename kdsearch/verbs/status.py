"""What a study's folder says of itself, without opening the study."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdsearch.errors import StorageError
from kdsearch.report.quality import quality_of
from kdsearch.report.values import about
from kdsearch.store.artifacts import ABOUT, about_of
from kdsearch.store.files import is_disk_error, storing
from kdsearch.store.folder import LOCK, ending_of, events_of, holder_of, last_run, under_way, workers_of

INTERRUPTED = 130  # by Ctrl-C or SIGTERM
GOES_ON = (1, INTERRUPTED)  # exit codes after which the same command does
LOOK_S = 2.0  # between two looks at a run that is followed
ORDER = ("prepare", "search", "refine", "distill", "compress", "export", "report")


def status_of(folder: Path) -> dict[str, Any]:
    """Stages with state and seconds, the trials and the best of them, what runs and how far it is, the recommended file."""
    last, events = last_run(folder), events_of(folder)
    begun = {each["stage"]: each for each in events if each["event"] == "stage"}
    held_by = holder_of(folder) if _is_held(folder) else None
    stages = {}
    for name in ORDER:
        made = last[name] if name in last and not last[name].get("stale") else None
        if made is not None and not (folder / "artifacts" / f"{name}-{made['key']}" / ABOUT).exists():
            made = None
        state = "done"
        if made is None:
            state = begun.get(name, {}).get("state", "not begun")
            state = "not begun" if state == "done" else state  # it was once, for what the study was then
            state = "stopped" if state == "begun" and held_by is None else state  # it was killed
        stages[name] = {"state": state, "seconds": made["seconds"] if made is not None else None}
    latest = next((each["stage"] for each in reversed(events) if each["event"] == "stage"), "")
    now = latest if latest in stages and stages[latest]["state"] in ("begun", "stopped") else ""
    told = under_way(folder)
    running = told if told is not None and told["stage"] == now else None
    of = f"refine-{last['refine']['key']}" if stages["refine"]["state"] == "done" else ""
    trials = _trials(events if stages["refine"]["state"] != "not begun" else (), of)
    if of:  # all that there were to try; the events know nothing of those that a store had
        facts = about_of(folder / "artifacts" / of, "refine")["facts"]
        trials = {"done": facts["trials"], "total": facts["trials"], "best": facts.get("best", trials["best"])}
    reported = folder / "artifacts" / f"report-{last['report']['key']}" if stages["report"]["state"] == "done" else None
    is_finished = reported is not None and (folder / "result.json").exists()
    result = about_of(reported, "report")["facts"]["result"] if reported is not None and is_finished else None
    ended = ending_of(events)
    ended = ended if held_by is None else None
    lines = [
        f"{name:9} {each['state']}" + (f" ({each['seconds']:.1f} s)" if each["seconds"] else "")
        for name, each in stages.items()
    ]
    if now:
        lines.append(_stage(now, running, held_by is not None, ended is None or ended["exit_code"] in GOES_ON))
    if ended and ended["exit_code"] != INTERRUPTED:
        lines.append(f"the last run ended with exit code {ended['exit_code']}: {ended['error']}")
    if trials["total"]:
        lines.append(_in_words(trials))
    if held_by:
        lines.append(f"running: pid {held_by['pid']} on {held_by['host']} since {held_by['since']}")
    joined = workers_of(folder) if held_by else []
    lines += [
        f"worker: pid {each['pid']} on {each['host']}, {len(each['running'])} of {each['slots']} slots at work"
        for each in joined
    ]
    if result and result["recommended"]:
        chosen = result["recommended"]
        for role, each in chosen.get("roles", {"": chosen}).items():
            lines.append(f"recommended: {role}{' ' if role else ''}{each['format']}: {each['why']}")
    return {
        "dir": str(folder),
        "stages": stages,
        "stage": {"name": now, "number": ORDER.index(now) + 1, "of": len(ORDER)} if now else None,
        "progress": dict(running) if running else None,
        "trials": trials["done"],
        "trials_total": trials["total"],
        "best": trials["best"],
        "held_by": held_by,
        "workers": joined,
        "last_error": _last_error(events),
        "recommended": result["recommended"] if result else None,
        "text": "\n".join(lines),
    }


def followed(folder: Path, every_s: float = LOOK_S) -> Iterator[dict[str, Any]]:
    """The status now and whenever it has changed, until nobody runs the study any more."""
    last: dict[str, Any] | None = None
    while True:
        found = status_of(folder)
        if found != last:
            yield found
        if found["held_by"] is None:
            return
        last = found
        time.sleep(every_s)


def _last_error(events: Sequence[Mapping[str, Any]]) -> str:
    """Of a trial, a stage or a run, since a stage was begun or done, or a run ended well."""
    for each in reversed(events):
        if each.get("error"):
            return str(each["error"])
        if each["event"] == "ended" or (each["event"] == "stage" and each["state"] in ("begun", "done")):
            break
    return ""


def _stage(name: str, at: Mapping[str, Any] | None, runs: bool, goes_on: bool) -> str:
    """`stage 3 of 7: refine, 3 of 8 (about 40 s left)`; goes_on: the same command does, where none runs."""
    text = f"stage {ORDER.index(name) + 1} of {len(ORDER)}: {name}"
    if at is not None:
        done = f"{at['done']:.1f}".removesuffix(".0")
        text += f", {done} of {at['total']}" if at["total"] > 1 else f", {at['done']:.0%}"
        text += f" ({about(at['left_s'])} left)" if runs and at["left_s"] is not None else ""
        text += f" {at['note']}" if runs and at["note"] else ""
    if runs:
        return text
    return f"{text}; stopped: the same `kdsearch run` goes on" if goes_on else f"{text}; stopped"


def _trials(events: Sequence[Mapping[str, Any]], of: str) -> dict[str, Any]:
    """How many have ended, of how many, and the best one that went its whole length and keeps the limits.

    of: an artifact, "" = the last.
    """
    plans = (each for each in reversed(events) if each["event"] == "trials" and of in ("", each["artifact"]))
    plan = next(plans, None)
    mine = {
        each["number"]: each
        for each in events
        if each["event"] == "trial" and (plan is None or each.get("key") == plan["key"])
    }
    whole = [each for each in mine.values() if each["state"] == "complete" and each["losses"]]
    whole = [each for each in whole if each.get("feasible", True)]  # a folder of before does not say
    best = None
    if plan is not None and whole:
        sign = -1 if plan["direction"] == "max" else 1
        loss, number = min((each["losses"][plan["at"]], each["number"]) for each in whole)
        named = {key: plan[key] for key in ("metric", "title", "unit") if key in plan}
        best = {"number": number, **named, "value": sign * loss}
    return {"done": len(mine), "total": plan["total"] if plan is not None else None, "best": best}


def _in_words(trials: Mapping[str, Any]) -> str:
    text = f"trials: {trials['done']} of {trials['total']}"
    best = trials["best"]
    if not best:
        return text
    quality = quality_of({"quality": best})
    return f"{text}; best {quality.name} {quality.text} (trial {best['number']})"


def _is_held(folder: Path) -> bool:
    from filelock import FileLock, Timeout

    lock = FileLock(str(folder / LOCK))
    try:
        with storing(folder / LOCK):
            lock.acquire(timeout=0)
    except Timeout:
        return True
    except StorageError as error:
        cause = error.__cause__ or error
        if not isinstance(cause, PermissionError) and not is_disk_error(cause):
            raise
        return _is_locked(folder)
    lock.release()
    return False


def _is_locked(folder: Path) -> bool:
    """Whether a run holds a folder that may be read alone."""
    if sys.platform == "win32":
        return holder_of(folder) is not None
    import fcntl

    try:
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return holder_of(folder) is not None
    return False
