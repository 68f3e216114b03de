"""The folder, its lock or its shared store taken away under a run: one message, exit 1."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdsearch.errors import StorageError
from tests.stages.tiny import LESS, is_stage, run_tiny, watching

TAKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (shutil.rmtree, "study"),
    "moved": (lambda study: study.rename(study.with_name("elsewhere")), "study"),
    "replaced by a file": (lambda study: (study.rename(study.with_name("elsewhere")), study.write_text("x")), "study"),
    "replaced by another": (lambda study: (study.rename(study.with_name("elsewhere")), study.mkdir()), "study"),
    "its lock removed": (lambda study: (study / ".lock").unlink(), "study/.lock"),
    "its lock replaced": (
        lambda study: ((study / ".lock").rename(study / "old"), (study / ".lock").touch()),
        "study/.lock",
    ),
}


@pytest.fixture(scope="module")
def less(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("less")
    run_tiny(folder, *LESS)
    return folder


@pytest.fixture
def folder(less: Path, tmp_path: Path) -> Path:
    """A finished study's folder, in which its report is to be made again."""
    made = Path(shutil.copytree(less, tmp_path / "it"))
    forget(made, "report")
    return made


def forget(folder: Path, *stages: str) -> None:
    for each in (folder / "study" / "artifacts").iterdir():
        if each.name.startswith(stages):
            shutil.rmtree(each)


@pytest.mark.parametrize("stage", ["prepare", "refine", "report"])
@pytest.mark.parametrize("how", TAKEN)
def test_the_folder_is_taken_away(how: str, stage: str, folder: Path) -> None:
    take, name = TAKEN[how]
    if stage != "report":
        forget(folder, stage, "report")
    host = watching(lambda event: take(folder / "study") if is_stage(event, stage) else None)
    with pytest.raises(StorageError, match="was removed, moved or replaced while a run worked in its folder") as caught:
        run_tiny(folder, *LESS, host=host)
    assert caught.value.exit_code == 1
    assert caught.value.file == folder / name
    assert "Run the same command again" in str(caught.value)


def test_its_lock_gone_the_same_command_goes_on(folder: Path) -> None:
    host = watching(lambda event: (folder / "study" / ".lock").unlink() if is_stage(event, "report") else None)
    with pytest.raises(StorageError):
        run_tiny(folder, *LESS, host=host)
    assert run_tiny(folder, *LESS)["exports"]


def test_a_shared_store_that_is_removed_is_made_again(folder: Path) -> None:
    store = folder / "store"
    store.mkdir()
    host = watching(lambda event: shutil.rmtree(store) if is_stage(event, "report") else None)
    run_tiny(folder, *LESS, f"run.store={store}", host=host)
    assert [each.name.partition("-")[0] for each in store.iterdir()] == ["report"]


def test_a_shared_store_that_becomes_a_file_is_one_message(folder: Path) -> None:
    store = folder / "store"
    store.mkdir()
    host = watching(lambda event: (shutil.rmtree(store), store.write_text("x")) if is_stage(event, "report") else None)
    with pytest.raises(StorageError, match="no folder, or below a file"):
        run_tiny(folder, *LESS, f"run.store={store}", host=host)
