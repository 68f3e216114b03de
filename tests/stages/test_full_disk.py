"""A full disk in any stage: exit 1, the path and what to do, nothing half-written; with room the run goes on."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdsearch.errors import StorageError
from kdsearch.store.artifacts import Store, leave
from kdsearch.store.files import append_line, copy_file, write_bytes, write_json
from kdsearch.training.attempt import attempt
from tests.stages.test_kill import ROOT, ended, start
from tests.stages.tiny import STAGES, is_stage, run_tiny, settled, watching
from tests.testing.full_disk import allow, limited

PATHS = {"PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}


@pytest.fixture
def limit() -> Iterator[None]:
    with limited():
        yield


def test_full_in_every_stage(finished, tmp_path, limit):
    """One study: full when a stage has begun, room again, full in the next stage, ..."""
    study = tmp_path / "study"
    for stage in STAGES:

        def fill(event, stage=stage):
            if is_stage(event, stage):
                fill.made = made_in(study)
                allow(500)

        with pytest.raises(StorageError, match=r"size limit|disk is full") as caught:
            run_tiny(tmp_path, host=watching(fill), checkpoint_s=0)
        allow(resource.RLIM_INFINITY)
        assert caught.value.exit_code == 1
        assert str(study) in str(caught.value)
        assert "Make room and run" in str(caught.value)
        assert made_in(study) == fill.made, stage
        assert not list(study.rglob("*.part"))
    assert settled(run_tiny(tmp_path)) == finished.settled


@pytest.mark.parametrize(
    ("number", "problem"), [(errno.EIO, "input/output error"), (errno.ESTALE, "stale file handle")]
)
def test_a_disk_that_fails_ends_the_run_and_not_a_trial(number, problem, tmp_path, monkeypatch):
    """As a server of files does that goes away for a while: what a trial then came to would stay."""

    def failing(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError, match=rf"checkpoint: .*{problem}.*run the same command again: it goes on"):
        attempt(lambda: write_bytes(tmp_path / "checkpoint", b"x"), tmp_path)
    assert not list(tmp_path.iterdir())


def made_in(study: Path) -> set[str]:
    return {each.name for each in (study / "artifacts").glob("*")}


def test_full_while_publishing(finished, copied, limit):
    study = copied / "study"
    for each in (study / "export").iterdir():
        each.unlink()
    host = watching(lambda event: None)
    allow((study / "events.jsonl").stat().st_size + 4000)
    with pytest.raises(StorageError, match=r"export.*it goes on"):
        run_tiny(copied, host=host)
    allow(resource.RLIM_INFINITY)
    assert not list(study.rglob("*.part"))
    assert settled(run_tiny(copied)) == finished.settled
    assert len(list((study / "export").glob("*.onnx"))) == 3


@pytest.mark.parametrize("write", [write_bytes, append_line, copy_file])
def test_every_way_of_writing_says_so(write, tmp_path, limit):
    file = tmp_path / "file"
    file.write_bytes(b"old\n")
    (tmp_path / "source").write_bytes(b"x" * 2000)
    value = {write_bytes: b"x" * 2000, append_line: ["x" * 2000], copy_file: None}[write]
    allow(1000)
    with pytest.raises(StorageError, match=r"file: .*Make room"):
        copy_file(tmp_path / "source", file) if write is copy_file else write(file, value)
    assert file.read_bytes().startswith(b"old\n")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "source"]


def test_full_shared_store(tmp_path, limit):
    store = Store(tmp_path / "one", None)
    artifact = store.put("search", "k", lambda out: write_json(out / "a.json", "x" * 3000) or {}, {})
    allow(1000)
    with pytest.raises(StorageError, match="shared"):
        leave(artifact.path, str(tmp_path / "shared"))
    assert Store(tmp_path / "two", str(tmp_path / "shared")).get("search", "k") is None
    allow(resource.RLIM_INFINITY)
    assert Store(tmp_path / "one", str(tmp_path / "shared")).get("search", "k") == artifact
    assert Store(tmp_path / "two", str(tmp_path / "shared")).get("search", "k") is not None, "the next run leaves it"


CACHE = """
import sys
from pathlib import Path
import torch
from kdsearch.engine.cache import Live, write_cache
from kdsearch.errors import StorageError
from kdsearch.kinds import Field, IO, Model
from kdsearch.host import Host
from kdsearch.engine.splits import arrange
from kdsearch.builtin.datasets.digits import Digits
from kdsearch.builtin.classification import Classification
source = Digits(Digits.options_class()).open(None)
data = arrange(source, labeled=1.0, validation=0.2, test=0.2, train_samples=None, seed=0)
model = Model(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(400)), ("image",))
task, place = Classification(Classification.options_class()), torch.device("cpu")
try:
    write_cache(Path(sys.argv[1]), Live(model, task, None), data, ["train"], [], place, 1 << 30)
except StorageError as error:
    sys.exit(str(error))
"""


def test_full_tmpfs_under_a_mapped_file_is_said(tmp_path):
    """A page that the disk has no room for is a SIGBUS when it is written; the room is asked for before."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        words = [sys.executable, "-c", CACHE, str(disk / "cache")]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **PATHS})
        assert done.returncode == 1, (done.returncode, done.stderr)
        assert "no space left on the disk. Make room and run the same command again" in done.stderr
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_tmpfs_that_grows(finished, tmp_path):
    """Out of space for real, again and again, until there is enough."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(n_kilobytes: int, *more: str) -> bool:
        options = ",".join([*more, f"size={n_kilobytes}k"])
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True, check=False
        )
        return done.returncode == 0

    if not mount(64):
        pytest.skip("mounting a file system needs root")
    try:
        errors = []
        for n_kilobytes in (64, 128, 192, 288, 400, 600, 4000):
            assert mount(n_kilobytes, "remount")
            process = start(disk / "it")
            _, err = process.communicate()
            if process.returncode == 0:
                break
            assert process.returncode == 1, err
            assert "no space left" in err, err
            assert "Traceback" not in err
            errors.append(err)
        assert len(errors) >= 4, errors
        assert settled(ended(start(disk / "it"))) == finished.settled
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True, cwd=ROOT)
    assert Path(disk).exists()
