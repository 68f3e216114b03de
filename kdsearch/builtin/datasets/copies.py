"""Copies among image files: found by size and ends, then by all that they hold."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdsearch.kit.files import opened

END = 4096  # bytes that are read at each end of a file
HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class Ends:
    """What files begin and end with. `content`: sha256 over all of them; `each`: 16 bytes a file, equal for copies."""

    content: str
    each: tuple[bytes, ...]


def ends(files: Sequence[Path]) -> Ends:
    """Of each file's size, first and last 4 KiB: a change of a file is seen without reading all of it.

    A BMP is read as a whole: it is not compressed, and a change in its middle moves nothing.
    """
    digest, each = hashlib.sha256(), []
    for file in files:
        size = file.stat().st_size
        with opened(file, "an image") as stream:
            held = stream.read(END)
            if held.startswith(b"BM"):
                held += stream.read()
            elif size > END:
                stream.seek(-END, 2)
                held += stream.read()
        held = f"{size}\0".encode() + held
        digest.update(held)
        each.append(hashlib.blake2b(held, digest_size=16).digest())
    return Ends(digest.hexdigest(), tuple(each))


def copies(files: Mapping[str, Sequence[Path]], found: Mapping[str, Ends]) -> dict[Path, bytes]:
    """Each file of these splits that another one equals, byte by byte -> a digest of it. Read are those of equal size and ends."""
    alike = Counter(end for each in found.values() for end in each.each)
    read = {
        file: _whole(file)
        for split, paths in files.items()
        for file, end in zip(paths, found[split].each, strict=True)
        if alike[end] > 1
    }
    counts = Counter(read.values())
    return {file: digest for file, digest in read.items() if counts[digest] > 1}


def _whole(file: Path) -> bytes:
    with opened(file, "an image") as stream:
        return hashlib.sha256(stream.read()).digest()


def groups(ids: Sequence[str], files: Sequence[Path], equal: Mapping[Path, bytes]) -> tuple[str, ...]:
    """The group of each sample of a split, called by the least id in it; () where no two are copies."""
    least: dict[bytes, str] = {}
    for sample, file in zip(ids, files, strict=True):
        if file in equal:
            least[equal[file]] = min(sample, least.get(equal[file], sample))
    made = tuple(least[equal[file]] if file in equal else sample for sample, file in zip(ids, files, strict=True))
    return made if len(set(made)) < len(made) else ()


def across(files: Mapping[str, Sequence[Path]], equal: Mapping[Path, bytes]) -> dict[str, int]:
    """Split that is held out -> how many of its files are copies of training ones, where there are any: the fact `copies`."""
    trained = {equal[file] for name, paths in files.items() if name not in HELD_OUT for file in paths if file in equal}
    counts = {name: sum(equal.get(file) in trained for file in files.get(name, ())) for name in HELD_OUT}
    return {name: n for name, n in counts.items() if n}
