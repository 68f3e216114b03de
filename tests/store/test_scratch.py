"""Temporary folders: what a killed owner left goes, a living one's stays, and nothing else is touched."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from kdsearch.errors import StorageError
from kdsearch.store import scratch
from kdsearch.store.scratch import OWNER, Scratch, clear_abandoned

HOLD = (
    "import sys\nfrom kdsearch.store.scratch import Scratch\n"
    "made = Scratch.make('jobs')\n(made.path / 'result').touch()\nprint(made.path, flush=True)\nsys.stdin.read()\n"
)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "tmp"
    root.mkdir()
    monkeypatch.setenv("TMPDIR", str(root))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return root


def holder() -> tuple[subprocess.Popen[str], Path]:
    path = os.pathsep.join(each for each in sys.path if each)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_killed_owners_folder_goes_and_a_living_ones_stays(temporary: Path) -> None:
    (living, kept), (killed, left) = holder(), holder()
    try:
        killed.kill()
        killed.communicate()
        assert left.is_dir()
        made = Scratch.make("ranks")
        assert sorted(temporary.iterdir()) == sorted([kept, made.path])
        assert (kept / "result").exists()
        made.close()
        assert list(temporary.iterdir()) == [kept]
    finally:
        living.kill()
        living.communicate()
    clear_abandoned(temporary)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("is_through", [True, False])
def test_a_folder_that_is_cleared_before_it_is_locked_is_made_anew(
    is_through: bool, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process comes between opening and locking: it has cleared the folder by then, or has locked it for that."""
    opened, lost, cleaners = os.open, list[Path](), list[int]()

    def open_(path: Any, flags: int, *mode: int, **given: Any) -> int:
        handle = opened(path, flags, *mode, **given)
        if flags & os.O_CREAT and Path(path).name == OWNER and not lost:
            lost.append(Path(path).parent)
            if is_through:
                clear_abandoned(temporary)
                assert not lost[0].exists()
            else:
                cleaners.append(scratch._locked(opened(path, os.O_RDWR)))
        return handle

    monkeypatch.setattr(scratch.os, "open", open_)
    made = Scratch.make("jobs")
    for each in cleaners:
        os.close(each)
    assert made.path != lost[0]
    clear_abandoned(temporary)
    assert list(temporary.iterdir()) == [made.path]
    made.close()


def test_what_is_not_of_this_kind_is_left_alone(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / OWNER).touch()
    (temporary / "kdsearch-jobs-link").symlink_to(elsewhere)
    (temporary / "kdsearch-mine").mkdir()  # somebody's own folder of that name: nothing of ours is in it
    (temporary / "kdsearch-jobs-owner-is-a-link").mkdir()
    (temporary / "kdsearch-jobs-owner-is-a-link" / OWNER).symlink_to(elsewhere / OWNER)
    (temporary / "kdsearch-jobs-file").write_text("x")
    (temporary / "other").mkdir()
    (temporary / "other" / OWNER).touch()
    before = sorted(temporary.rglob("*"))
    clear_abandoned(temporary)
    assert sorted(temporary.rglob("*")) == before
    assert (elsewhere / OWNER).exists()

    (temporary / "kdsearch-jobs-abandoned").mkdir()
    (temporary / "kdsearch-jobs-abandoned" / OWNER).touch()
    me = os.geteuid()
    monkeypatch.setattr(scratch.os, "geteuid", lambda: me + 1)
    clear_abandoned(temporary)
    assert (temporary / "kdsearch-jobs-abandoned").exists(), "another user's"
    monkeypatch.setattr(scratch.os, "geteuid", lambda: me)
    clear_abandoned(temporary)
    assert sorted(temporary.rglob("*")) == before


def test_no_place_for_temporary_files_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/a']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(StorageError, match=r"no place for temporary files: No usable .*Set TMPDIR"):
        Scratch.make("jobs")
