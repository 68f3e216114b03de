"""What a training's folder says of it to other processes: how far it is, and how long it took so far."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from kdsearch.engine.conduct import Report
from kdsearch.store.files import write_bytes

SHARE = "share"  # file in a training's folder
SECONDS = "seconds"  # of all pieces that ended
PIECE = "piece_seconds"  # of the one that runs, as it told last


def tell_share(folder: Path, every_s: float = 5.0) -> Report:
    """What a training in a process of its own leaves in its folder, from now on: how much of its length is done, and how long
    this piece of it has taken.
    """
    began, told = time.monotonic(), {"at": float("-inf")}

    def moved(_: str, at: int, of: int, loss: float) -> None:
        if time.monotonic() - told["at"] >= every_s:
            told["at"] = time.monotonic()
            with suppress(OSError):  # a full disk is the checkpoint's to report
                folder.mkdir(parents=True, exist_ok=True)
                (folder / SHARE).write_text(f"{at / of:.4f}")
                (folder / PIECE).write_text(f"{told['at'] - began:.3f}")

    return Report(step=moved)


def share_of(folder: Path) -> float:
    """The last share told; 0 where there is none, or where it is being written."""
    return _number(folder / SHARE)


def begins(folder: Path) -> None:
    """It has taken no time yet, whatever an earlier try did."""
    for name in (SECONDS, PIECE):
        (folder / name).unlink(missing_ok=True)


def goes_on(folder: Path) -> None:
    """A piece that a stop or a kill cut off has ended where it told last."""
    if (cut_off := _number(folder / PIECE)) > 0:
        took(folder, cut_off)


def took(folder: Path, seconds: float) -> None:
    """A piece of the training that ended, however it did, took so long."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / SECONDS, f"{seconds_of(folder) + seconds:.3f}".encode())
    (folder / PIECE).unlink(missing_ok=True)


def seconds_of(folder: Path) -> float:
    """Of all pieces that ended; 0 where that is not known."""
    return _number(folder / SECONDS)


def _number(file: Path) -> float:
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return 0.0
