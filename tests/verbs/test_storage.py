"""A storage for the trials that cannot be opened is said before any work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import kdsearch
from kdsearch.errors import StudyError
from kdsearch.host import Host
from kdsearch.study import load_study
from kdsearch.verbs.preflight import preflight
from kdsearch.verbs.run import run_study
from tests.python.tiny_live import tiny
from tests.stages.tiny import write_study


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("grpc://nowhere", "Expected grpc://HOST:PORT"),
        ("foo", "'foo' cannot be opened"),
        ("foo://bar", "cannot be opened (NoSuchModuleError"),
    ],
)
def test_what_is_no_url_is_known_to_validate(tmp_path: Path, url: str, said: str) -> None:
    host = Host.load()
    file = write_study(tmp_path)
    with pytest.raises(StudyError, match=r"run\.storage") as caught:
        preflight(load_study(file, host, sets=(f"run.storage={url}",)), host)
    assert said in str(caught.value)
    preflight(load_study(file, host, sets=(f"run.storage=sqlite:///{tmp_path}/t.db",)), host)
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        (
            "postgresql+psycopg2://me:secret@here/db",
            'Write postgresql+psycopg://..., and run: pip install "kdsearch[postgresql]"',
        ),
        ("postgresql+psycopg://me:secret@here/db", 'Run: pip install "kdsearch[postgresql]"'),
    ],
)
def test_a_driver_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, fix: str) -> None:
    for each in ("psycopg", "psycopg2"):
        monkeypatch.setitem(sys.modules, each, None)
    host = Host.load()
    with pytest.raises(StudyError, match="which is not installed") as caught:
        preflight(load_study(write_study(tmp_path), host, sets=(f"run.storage={url}",)), host)
    assert str(caught.value).endswith(fix)
    assert f"'{url.replace('secret', '***')}' needs psycopg" in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite:////no/such/folder/t.db", "grpc://nowhere", "foo"])
def test_before_the_folder_exists(tmp_path: Path, url: str) -> None:
    host = Host.load()
    study = load_study(write_study(tmp_path), host, sets=(f"run.storage={url}",))
    with pytest.raises(StudyError, match=r"run\.storage") as caught:
        run_study(study, host, tmp_path / "study", progress=False)
    assert str(caught.value).startswith(f"--set run.storage={url}: run.storage: ")
    assert not (tmp_path / "study").exists()


def test_before_a_session_opens(tmp_path: Path) -> None:
    with (
        pytest.raises(StudyError, match="'foo' cannot be opened"),
        kdsearch.Session(tiny(run={"storage": "foo"}), tmp_path / "study"),
    ):
        pass
    assert not (tmp_path / "study").exists()
