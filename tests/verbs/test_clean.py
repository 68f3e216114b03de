"""`clean` removes what kdsearch made in the folder, and nothing else: no link is followed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kdsearch.cli import main
from kdsearch.errors import StorageError
from kdsearch.store.artifacts import FORMAT
from kdsearch.store.files import remove, write_json
from kdsearch.store.folder import EVENTS, MARK, Events
from kdsearch.verbs.clean import clean_of
from tests.hostile.permissions import obeyed
from tests.testing.full_disk import allow, limited


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    for name in ("artifacts/search-0123abcd", "work/refine-0123abcd", "artifacts/.distill-0123abcd.77.part"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("12345")
    return folder


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    folder = tmp_path / "foreign"
    (folder / "search-4567abcd").mkdir(parents=True)
    (folder / "precious").write_text("x")
    (folder / "search-4567abcd" / "precious").write_text("x")
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))


def test_what_is_not_used_goes_and_what_others_put_there_stays(study: Path) -> None:
    (study / "artifacts" / "notes").mkdir()
    (study / "work" / "my notes.txt").write_text("x")
    for name in (".download.part", "slides/.talk.mp4.part"):  # of other programs, which go on with them
        (study / name).parent.mkdir(exist_ok=True)
        (study / name).write_text("x")
    for name in (".result.json.89abcdef-77.part", "export/.tiny.onnx.77.part"):
        (study / name).parent.mkdir(exist_ok=True)
        (study / name).write_text("12345")
    found = {each["path"]: each["bytes"] for each in clean_of(study)["removed"]}
    assert found == {
        "artifacts/search-0123abcd": 5,
        "artifacts/.distill-0123abcd.77.part": 5,
        "work/refine-0123abcd": 5,
        ".result.json.89abcdef-77.part": 5,
        "export/.tiny.onnx.77.part": 5,
    }
    assert (study / ".download.part").exists()
    assert (study / "slides" / ".talk.mp4.part").exists()
    assert files(study / "artifacts") == ["notes"]
    assert files(study / "work") == ["my notes.txt"]


def test_rows_of_a_table_stay_and_so_does_what_workers_write_and_what_was_made_once(study: Path) -> None:
    kept = (
        "work/table-0123abcd/rows.jsonl",
        "work/table-0123abcd/kd-1-0/phase.pt",
        "workers/0123456789ab/.said.json.7.part",
        "work/once-0123abcd/once-89abcdef.json",
    )
    for name in kept:
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_text("12345")
    removed = {each["path"] for each in clean_of(study)["removed"]}
    assert removed == {"artifacts/search-0123abcd", "work/refine-0123abcd", "artifacts/.distill-0123abcd.77.part"}
    assert all((study / name).exists() for name in kept)


@pytest.mark.parametrize(
    ("stage", "kept"),
    [("prepare", ["records-89abcdef", "teacher-89abcdef"]), ("compress", ["recovered-89abcdef"])],
)
def test_what_an_unfinished_stage_has_made_stays_until_it_is_done(stage: str, kept: list[str], study: Path) -> None:
    """One of two teachers is trained when the run is interrupted: no artifact names it yet."""
    for each in ("teacher", "records", "recovered"):
        (study / "artifacts" / f"{each}-89abcdef").mkdir()
    events = Events(study / EVENTS)
    events.write("stage", stage=stage, state="begun", key="0123abcd")
    events.write("stage", stage=stage, state="stopped", key="0123abcd", error="interrupted")
    clean_of(study)
    assert files(study / "artifacts") == kept
    events.write("stage", stage=stage, state="done", key="0123abcd", seconds=1.0)
    clean_of(study)
    assert files(study / "artifacts") == []


@pytest.mark.parametrize("name", ["artifacts", "work"])
def test_a_folder_that_is_a_link_is_left_alone(name: str, study: Path, foreign: Path) -> None:
    before = files(foreign)
    shutil.rmtree(study / name)
    (study / name).symlink_to(foreign)
    clean_of(study)
    assert files(foreign) == before
    assert (study / name).is_symlink()


def test_of_a_link_among_them_the_link_goes(study: Path, foreign: Path) -> None:
    before = files(foreign)
    (study / "artifacts" / "search-89abcdef").symlink_to(foreign)
    assert "artifacts/search-89abcdef" in [each["path"] for each in clean_of(study)["removed"]]
    assert files(foreign) == before
    assert not (study / "artifacts" / "search-89abcdef").is_symlink()


def test_of_a_link_the_link_is_removed(tmp_path: Path, foreign: Path) -> None:
    before = files(foreign)
    (tmp_path / "link").symlink_to(foreign)
    remove(tmp_path / "link")
    assert files(foreign) == before
    assert not (tmp_path / "link").is_symlink()


def test_what_may_not_be_removed_is_not_said_to_be(study: Path) -> None:
    torn = study / "pruned" / ".it.77.part"
    torn.parent.mkdir()
    torn.write_text("12345")
    for place, name in (
        (study / "artifacts" / "search-0123abcd", "search-0123abcd: cannot be removed"),
        (torn.parent, ""),
    ):
        place.chmod(0o555)
        with obeyed(), pytest.raises(StorageError, match=name or r"part: not writable\. Make it writable"):
            clean_of(study)
        place.chmod(0o755)
    assert torn.exists()
    assert {each["path"] for each in clean_of(study)["removed"]} == {"pruned/.it.77.part"}


def test_a_folder_that_may_only_be_read_is_one_message(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(study / MARK, {"format": FORMAT})
    study.chmod(0o555)
    with obeyed():
        assert main(["clean", str(study)]) == 1
    study.chmod(0o755)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"{study / '.lock'}: not writable. Make it writable, or choose another folder."]


def test_room_is_made_on_a_full_disk(study: Path) -> None:
    """Nothing can be written there, not even who holds the folder."""
    (study / ".lock").touch()
    with limited():
        allow(0)
        assert clean_of(study)["bytes"] == 15
    assert files(study) == [".lock", "artifacts", "work"]
