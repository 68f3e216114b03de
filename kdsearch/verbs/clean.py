"""What a folder holds beside its last run: artifacts of earlier studies and seeds, their work folders, torn files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdsearch.errors import StorageError
from kdsearch.store.artifacts import ABOUT, about_of
from kdsearch.store.files import remove, storing
from kdsearch.store.folder import ONCE, TABLE, WORKERS, events_of, held, last_run

OWN = re.compile(r"\.?[a-z]+-[0-9A-Za-z]{1,64}(\.\d+\.part)?")  # STAGE-KEY, and the same while it is written
TORN = re.compile(r"\..+\.([0-9a-f]{8}-)?\d+\.part")  # a file or folder while it is written


def clean_of(folder: Path, dry_run: bool = False) -> dict[str, Any]:
    """Remove what the last run does not use; `removed` names each with its bytes.

    What has another name than kdsearch gives is left alone, and nothing is looked for behind a symbolic link. So are the rows of
    `bench table`, which are hours of trainings, what teachers and methods have made once for the study, and what workers write
    who wait for a run.

    Raises:
        BusyError: a process holds the folder.
        ArtifactError: the record of the last run is damaged.
        StorageError: something may not be removed.
    """
    with held(folder, briefly=True):
        unfinished = _unfinished(folder)
        used = _used(folder) | unfinished
        stale = [
            *(each for each in _own(folder / "artifacts") if each.name not in used),
            *(each for each in _own(folder / "work") if each.name not in unfinished and not _is_kept(each)),
        ]
        gone = {*stale, folder / WORKERS}
        written = (each for each in sorted(folder.rglob(".*.part")) if TORN.fullmatch(each.name))
        torn = [each for each in written if gone.isdisjoint((each, *each.parents))]
        removed: list[dict[str, Any]] = [
            {"path": str(each.relative_to(folder)), "bytes": _size(each)} for each in (*stale, *torn)
        ]
        if not dry_run:
            for each in (*stale, *torn):
                with storing(each):
                    remove(each)
                if os.path.lexists(each):  # a folder of somebody else, or on a disk that is read-only
                    raise StorageError("cannot be removed", file=each, fix="Make it writable, with all that is in it.")
    total = sum(each["bytes"] for each in removed)
    lines = [f"{each['bytes']:>14,} bytes  {each['path']}" for each in removed]
    lines.append(f"{total:>14,} bytes  {'would be removed' if dry_run else 'removed'}")
    return {"dir": str(folder), "dry_run": dry_run, "removed": removed, "bytes": total, "text": "\n".join(lines)}


def _used(folder: Path) -> set[str]:
    """Names of the artifacts of the last run, and of what they were made from beside one another."""
    names = {f"{stage}-{each['key']}" for stage, each in last_run(folder).items()}
    for name in [name for name in names if name.startswith("prepare-")]:
        path = folder / "artifacts" / name
        facts = about_of(path, "prepare")["facts"] if (path / ABOUT).exists() else {"teachers": {}, "recipes": []}
        names |= {f"teacher-{each['trained']}" for each in facts["teachers"].values() if each.get("trained")}
        names |= {f"records-{each['key']}" for each in facts["recipes"]}
    for name in [name for name in names if name.startswith("compress-")]:
        path = folder / "artifacts" / name
        if (path / ABOUT).exists():
            names |= {f"recovered-{key}" for key in about_of(path, "compress")["facts"]["recoveries"]}
    for name in [name for name in names if name.startswith(("search-", "refine-"))]:
        path, stage = folder / "artifacts" / name, name.partition("-")[0]
        if (path / ABOUT).exists():  # the key of one that a raised limit redid is made of these
            names |= {f"{stage}-{key}" for key in about_of(path, stage)["facts"]["grown_from"]}
    return names


def _unfinished(folder: Path) -> set[str]:
    """Names of what the last run goes on with: where it was killed or stopped, and what else that stage has made so far."""
    begun: dict[str, str] = {}
    for each in events_of(folder):
        if each["event"] == "stage":
            if each["state"] == "begun":
                begun = {each["stage"]: each["key"]}  # one stage runs at a time; an earlier run's is not gone on with
            elif each["state"] == "done":
                begun.pop(each["stage"], None)
    names = {f"{stage}-{key}" for stage, key in begun.items()}
    inner = {"prepare": ("teacher-", "records-"), "compress": ("recovered-",)}  # what else such a stage works on
    places = [*_own(folder / "work"), *_own(folder / "artifacts")]
    for stage in begun.keys() & inner.keys():
        names |= {each.name for each in places if each.name.startswith(inner[stage])}
    return names


def _is_kept(work: Path) -> bool:
    """Rows of `bench table`, and what teachers and methods have made once for all of the study."""
    return work.name.startswith((f"{TABLE}-", f"{ONCE}-"))


def _own(folder: Path) -> Iterator[Path]:
    """What kdsearch made in a folder, by its name; nothing where the folder is a symbolic link: what is there may be anybody's."""
    if folder.is_dir() and not folder.is_symlink():
        yield from (each for each in sorted(folder.iterdir()) if OWN.fullmatch(each.name))


def _size(path: Path) -> int:
    files = [path] if path.is_symlink() or path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.lstat().st_size for each in files)
