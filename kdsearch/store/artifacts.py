"""Artifacts: the results of stages, in folders named after the content hash of what they were made from."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from kdsearch.errors import ArtifactError
from kdsearch.store.files import MADE_AGAIN, read_json, remove, storing, write_json
from kdsearch.store.hashing import digest, file_digest
from kdsearch.store.shared import reached
from kdsearch.version import VERSION

FORMAT = 1  # of artifacts and of the study's folder
SEAL = "digest"  # in it, of all the rest
ABOUT = "artifact.json"  # written last: a folder without it is no artifact


@dataclass(frozen=True)
class Artifact:
    """A finished stage: its folder, and `facts`, the JSON that other stages and the report read."""

    stage: str
    key: str
    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)


class Store:
    """Artifacts below `root`; with `url` (any fsspec URL) they are also looked up and left there, for other studies.

    A folder appears under its final name only when it is complete, so a kill leaves an artifact or nothing.
    """

    def __init__(self, root: Path, url: str | None = None) -> None:
        self.root, self.url = root, url

    def key(self, stage: str, part: Any, inputs: Mapping[str, Artifact]) -> str:
        """The content hash of a stage: its part of the study, its inputs' keys, the version of the code."""
        made_from = {name: artifact.key for name, artifact in inputs.items()}
        return digest({"stage": stage, "part": part, "inputs": made_from, "format": FORMAT, "version": VERSION})

    def folder(self, stage: str, key: str) -> Path:
        return self.root / "artifacts" / f"{stage}-{key}"

    def work(self, stage: str, key: str) -> Path:
        """Where a stage keeps checkpoints while it runs; removed when its artifact exists."""
        path = self.root / "work" / f"{stage}-{key}"
        with storing(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def get(self, stage: str, key: str, leaves: bool = True) -> Artifact | None:
        """The artifact, or None where it was not made yet. One that is here alone is left at `url`, too, unless not `leaves`.

        Raises:
            ArtifactError: a file is damaged or newer.
            StorageError, UnreachableError: it cannot be left, or looked for.
        """
        path = self.folder(stage, key)
        about = path / ABOUT
        is_here = about.exists()
        if not is_here and not (self.url and fetch(self.url, path, stage)):
            return None
        found = Artifact(stage, key, path, verified(path, stage))
        if is_here and self.url and leaves:  # the store could not be written when it was made, or was not named yet
            leave(path, self.url)
        return found

    def put(
        self, stage: str, key: str, make: Callable[[Path], Mapping[str, Any]], provenance: Mapping[str, Any]
    ) -> Artifact:
        """`make(folder)` fills a temporary folder and returns the facts; then it gets its final name at once."""
        path = self.folder(stage, key)
        for left in path.parent.glob(f".{path.name}.*.part"):  # of a run that was killed
            remove(left)
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        with storing(path):
            beside.mkdir(parents=True)
        try:
            facts = make(beside)
            files = {
                str(file.relative_to(beside)): {"bytes": file.stat().st_size, "sha256": file_digest(file)}
                for file in sorted(beside.rglob("*"))
                if file.is_file()
            }
            about = {
                "format": FORMAT,
                "stage": stage,
                "key": key,
                "facts": facts,
                "files": files,
                "provenance": provenance,
            }
            write_json(beside / ABOUT, sealed(about))
            remove(path)
            with storing(path):
                beside.rename(path)
        finally:
            remove(beside)
        if self.url:
            leave(path, self.url)
        remove(self.root / "work" / f"{stage}-{key}")
        read_back = read_json(path / ABOUT)["facts"]  # what a later run will see: JSON values, keys in its order
        return Artifact(stage, key, path, read_back)


def check_format(about: Any, file: Path, fix: str = "") -> None:
    """Raise ArtifactError, naming both versions, for a format that this release does not read."""
    found = about.get("format") if isinstance(about, dict) else None
    if found == FORMAT:
        return
    if isinstance(found, int) and found > FORMAT:
        problem = f"format {found} is newer than this kdsearch ({VERSION}) reads"
        newer = "Install a newer kdsearch, or use another folder."
        raise ArtifactError(problem, file=file, expected=f"format {FORMAT}", fix=newer)
    problem = f"format {found!r}" if isinstance(about, dict) and "format" in about else "states no format"
    raise ArtifactError(problem, file=file, expected=f"format {FORMAT}", fix=fix)


def sealed(about: Mapping[str, Any]) -> dict[str, Any]:
    """What an artifact says of itself, with the digest of all of it, so that no fact can be changed by hand."""
    plain = json.loads(json.dumps(about, allow_nan=False))  # keys as they will be read
    return {**plain, SEAL: digest(plain, 64)}


def unsealed(found: Any, file: Path, fix: str = MADE_AGAIN, line: int | None = None) -> dict[str, Any]:
    """What was sealed. Raise ArtifactError where it is not as it was written."""
    plain = {key: value for key, value in found.items() if key != SEAL} if isinstance(found, dict) else {}
    if not plain or digest(plain, 64) != found.get(SEAL):
        changed = "has changed since it was written"
        raise ArtifactError(changed, file=file, line=line, expected="what its digest is of", fix=fix)
    return plain


def about_of(path: Path, stage: str, name: str = "") -> dict[str, Any]:
    """What an artifact says of itself: `facts`, `files` and the rest. Its files are not looked at.

    Args:
        name: of the folder to delete where it is not as it was written; "" = the artifact's own.

    Raises:
        ArtifactError: damaged, changed, or of a newer format.
    """
    fix, file = f"Delete the folder {name or path}; `kdsearch run` redoes stage '{stage}'.", path / ABOUT
    found = read_json(file, fix=fix)
    check_format(found, file, fix)
    if not isinstance(found.get("files"), dict) or not isinstance(found.get("facts"), dict):
        raise ArtifactError("has no table of files and facts", file=file, fix=fix)
    unsealed(found, file, fix)
    return dict(found)


def verified(path: Path, stage: str, name: str = "") -> Mapping[str, Any]:
    """The facts of an artifact whose files are all as they were written. Arguments and errors as of `about_of`."""
    about = about_of(path, stage, name)
    for each, expected in about["files"].items():
        _check_file(path / each, expected, f"Delete the folder {name or path}; `kdsearch run` redoes stage '{stage}'.")
    facts: Mapping[str, Any] = about["facts"]
    return facts


def _check_file(file: Path, expected: Mapping[str, Any], fix: str) -> None:
    if not file.is_file():
        raise ArtifactError("missing", file=file, expected=f"{expected['bytes']:,} bytes", fix=fix)
    size = file.stat().st_size
    if size != expected["bytes"]:
        raise ArtifactError(f"{size:,} of {expected['bytes']:,} bytes", file=file, fix=fix)
    if file_digest(file) != expected["sha256"]:
        raise ArtifactError(
            "its bytes have changed", file=file, expected=f"SHA-256 {expected['sha256'][:12]}...", fix=fix
        )


def fetch(url: str, path: Path, stage: str) -> bool:
    """Copy an artifact from a shared store; True where it was there.

    Raises:
        ArtifactError: the store's copy is damaged.
        StorageError, UnreachableError: it cannot be copied, or the store does not answer.
    """
    with reached(url) as (files, root):
        source = f"{root.rstrip('/')}/{path.name}"
        if not files.exists(f"{source}/{ABOUT}"):
            return False
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with storing(path):
                remove(beside)
                remove(path)
                path.parent.mkdir(parents=True, exist_ok=True)
                files.get(f"{source}/", f"{beside}/", recursive=True)
                verified(beside, stage, files.unstrip_protocol(source))
                beside.rename(path)
        finally:
            remove(beside)
    return True


def leave(path: Path, url: str) -> None:
    """Copy an artifact to a shared store that lacks it: a reader finds it whole or not at all.

    It is sent under a name of its own, as others may leave the same at once, whose bytes differ where their processors round
    otherwise. Then it gets its name: in a folder at once, elsewhere file by file, `artifact.json` last.

    Raise StorageError or UnreachableError where it cannot be.
    """
    with reached(url) as (files, root):
        target = f"{root.rstrip('/')}/{path.name}"
        part = f"{root.rstrip('/')}/.{path.name}.{uuid4().hex[:8]}-{os.getpid()}.part"
        with storing(Path(target)):
            if files.exists(f"{target}/{ABOUT}"):
                return
            sent = [each.relative_to(path).as_posix() for each in sorted(path.rglob("*")) if each.is_file()]
            try:
                for each in sent:
                    _made_way(files, f"{part}/{each}")
                    files.put_file(str(path / each), f"{part}/{each}")
                if not files.exists(f"{target}/{ABOUT}"):
                    _named(files, part, target, sorted(sent, key=lambda each: each == ABOUT))
            finally:
                if files.exists(part):
                    files.rm(part, recursive=True)


def _named(files: Any, part: str, target: str, sent: Sequence[str]) -> None:
    """Give what was sent its name; the first one stays."""
    from fsspec.implementations.local import LocalFileSystem

    if not isinstance(files, LocalFileSystem):
        for each in sent:
            _made_way(files, f"{target}/{each}")
            files.mv(f"{part}/{each}", f"{target}/{each}")
        return
    try:
        os.rename(part, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not files.exists(f"{target}/{ABOUT}"):  # an upload that was cut
            files.rm(target, recursive=True)
            os.rename(part, target)


def _made_way(files: Any, place: str) -> None:
    files.makedirs(place.rpartition("/")[0], exist_ok=True)
