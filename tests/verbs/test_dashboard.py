"""What `kdsearch dashboard` refuses before it serves anything."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from kdsearch.cli import main
from kdsearch.store.folder import open_folder


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra, as far as what is refused before it is asked for anything."""
    monkeypatch.setitem(sys.modules, "optuna_dashboard", types.SimpleNamespace(wsgi=None))


@pytest.mark.parametrize("study", ["", "run: {storage: 'sqlite:///trials.db'}\n"])
def test_a_folder_without_trials(
    tmp_path: Path, installed: None, capsys: pytest.CaptureFixture[str], study: str
) -> None:
    folder = tmp_path / "study"
    open_folder(folder)
    if study:
        (folder / "study.yaml").write_text(study)
    before = {each.name for each in folder.iterdir()}
    assert main(["dashboard", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert ("no such database" if study else "has no trials yet") in said
    assert "kdsearch status" in said
    assert {each.name for each in folder.iterdir()} == before


def test_a_folder_of_something_else(tmp_path: Path, installed: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", str(tmp_path)]) == 2
    assert "no study's folder" in capsys.readouterr().err


def test_an_extra_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    open_folder(tmp_path / "study")
    assert main(["dashboard", str(tmp_path / "study")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert 'pip install "kdsearch[dashboard]"' in said
