"""An empty folder with a good study and its data in it, and a finished study that rows may copy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.hostile.rows import STUDY
from tests.stages.tiny import LESS, run_tiny

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
LABELS = np.arange(60) % 3


@pytest.fixture(scope="session")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("arrays") / "d.npz"
    np.savez(file, image=IMAGES, label=LABELS)
    return file


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays: Path) -> Path:
    """The working folder of a row: `study.yaml` and `d.npz`."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "study.yaml").write_text(STUDY)
    os.link(arrays, folder / "d.npz")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study's folder `study`. Not to be written to."""
    folder = tmp_path_factory.mktemp("whole")
    run_tiny(folder, *LESS)
    return folder


@pytest.fixture
def done(whole: Path, place: Path) -> Path:
    """A copy of the finished study's folder, `study`, and its file `tiny.yaml`, in the working folder."""
    shutil.copytree(whole / "study", place / "study")
    shutil.copy(whole / "study" / "study.yaml", place / "tiny.yaml")
    return place / "study"
