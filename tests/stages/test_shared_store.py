"""A store that studies share: what one has made, another reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from kdsearch.cli import main
from kdsearch.errors import ArtifactError, UnreachableError
from kdsearch.store.artifacts import Store, leave
from kdsearch.store.files import write_json
from kdsearch.training.job import prepared_of
from kdsearch.verbs.status import status_of
from tests.stages.tiny import STAGES, files_of, made, run_tiny, settled, write_study

TRIED = ("trials", "trials_total", "best")


@pytest.mark.parametrize("spelt", ["path", "url", "relative", "environment", "elsewhere"])
def test_second_study_makes_nothing(spelt, finished, tmp_path, monkeypatch):
    """elsewhere: a store that is no folder, by another protocol of fsspec's."""
    place = f"memory://{tmp_path.name}" if spelt == "elsewhere" else str(tmp_path / "shared")
    for each in (finished.folder / "study" / "artifacts").iterdir():
        leave(each, place)
    name = {"url": f"file://{place}", "relative": "../shared", "environment": "null"}.get(spelt, place)
    if spelt == "environment":
        monkeypatch.setenv("KDSEARCH_STORE", place)
    monkeypatch.chdir("/")
    assert settled(run_tiny(tmp_path / "second", f"run.store={name}")) == finished.settled
    assert made(tmp_path / "second") == []
    found, there = (status_of(each / "study") for each in (tmp_path / "second", finished.folder))
    assert {name: found[name] for name in TRIED} == {name: there[name] for name in TRIED}
    assert found["trials"]
    assert found["best"]


def test_what_a_study_makes_is_left_there(finished, copied, tmp_path):
    place = tmp_path / "shared"
    for each in (copied / "study" / "artifacts").glob("report-*"):
        shutil.rmtree(each)
    run_tiny(copied, f"run.store={place}")
    assert {each.name.partition("-")[0] for each in place.iterdir()} == {*STAGES}, "also those of before it was named"
    for each in place.iterdir():
        assert files_of(each) == files_of(copied / "study" / "artifacts" / each.name)


def put(store: Store, text: str = "text"):
    def make(out: Path) -> dict[str, str]:
        write_json(out / "a.json", text)
        return {"text": text}

    return store.put("search", "k", make, {})


def test_upload_that_was_cut_is_not_read(tmp_path):
    artifact = put(Store(tmp_path / "one"))
    place = tmp_path / "shared"
    (place / artifact.path.name).mkdir(parents=True)
    shutil.copyfile(artifact.path / "a.json", place / artifact.path.name / "a.json")
    (place / artifact.path.name / ".artifact.json.7.part").write_text("{")
    other = Store(tmp_path / "two", str(place))
    assert other.get("search", "k") is None
    put(other)
    assert Store(tmp_path / "three", str(place)).get("search", "k") is not None


@pytest.mark.parametrize("protocol", ["folder", "memory"])
def test_of_two_that_leave_the_same_at_once_one_stays_whole(protocol, tmp_path, monkeypatch):
    """Of unlike processors, so that their bytes differ; the second is done while the first is at it."""
    place = str(tmp_path / "shared") if protocol == "folder" else f"memory://{tmp_path.name}-both"
    artifacts = [put(Store(tmp_path / name), name * 9) for name in ("first", "second")]
    files = LocalFileSystem if protocol == "folder" else MemoryFileSystem
    sent, send = [], files.put_file

    def slow(self, source, target, **options):
        send(self, source, target, **options)
        sent.append(target)
        if len(sent) == 1:
            leave(artifacts[1].path, place)

    monkeypatch.setattr(files, "put_file", slow)
    leave(artifacts[0].path, place)
    assert len(sent) == 4
    assert Store(tmp_path / "reader", place).get("search", "k").facts == {"text": "second" * 9}
    if protocol == "folder":
        assert [each.name for each in (tmp_path / "shared").iterdir()] == ["search-k"]


def test_an_upload_under_way_is_none_to_a_reader(tmp_path, monkeypatch):
    """The other one was done since this one had looked, and is read while this one sends."""
    place = str(tmp_path / "shared")
    artifacts = [put(Store(tmp_path / name)) for name in ("first", "second")]
    real, seen = LocalFileSystem.put_file, []

    def half(self, source, target, **options):
        if not seen:
            with monkeypatch.context() as patch:
                patch.setattr(LocalFileSystem, "put_file", real)
                leave(artifacts[1].path, place)
        Path(target).write_bytes(Path(source).read_bytes()[:3])
        seen.append(Store(tmp_path / f"reader-{len(seen)}", place).get("search", "k"))
        real(self, source, target, **options)

    monkeypatch.setattr(LocalFileSystem, "put_file", half)
    leave(artifacts[0].path, place)
    assert [each.facts for each in seen] == [{"text": "text"}] * 2


def test_damaged_copy_in_the_store_is_named_there(tmp_path):
    place = tmp_path / "shared"
    put(Store(tmp_path / "one", str(place)))
    (place / "search-k" / "a.json").write_text('"tex')
    with pytest.raises(ArtifactError, match=rf"Delete the folder \S*{place}/search-k;"):
        Store(tmp_path / "two", str(place)).get("search", "k")
    assert not list((tmp_path / "two" / "artifacts").iterdir())


def test_a_job_leaves_nothing_there(tmp_path):
    """Many look for what is prepared: that it is in the store is the run's affair."""
    made = Store(tmp_path / "one").put("prepare", "k", lambda folder: {"b": 2}, {})
    shared = Store(tmp_path / "one", str(tmp_path / "shared"))
    assert prepared_of(shared, "k") == made
    assert not (tmp_path / "shared").exists()
    assert shared.get("prepare", "k") == made
    assert (tmp_path / "shared" / "prepare-k").is_dir()


def test_what_is_damaged_here_is_not_left_there(tmp_path):
    (put(Store(tmp_path / "one")).path / "a.json").write_text('"tex')
    with pytest.raises(ArtifactError, match=r"a\.json"):
        Store(tmp_path / "one", str(tmp_path / "shared")).get("search", "k")
    assert not (tmp_path / "shared").exists()


def test_first_upload_stays(tmp_path):
    place = tmp_path / "shared"
    put(Store(tmp_path / "one", str(place)), "first")
    put(Store(tmp_path / "two"), "second")
    leave(tmp_path / "two" / "artifacts" / "search-k", str(place))
    assert (place / "search-k" / "a.json").read_text() == '"first"\n'


@pytest.mark.parametrize("lost", ["makedirs", "put_file", "mv"])
def test_a_store_that_does_not_answer_is_named(lost, tmp_path, monkeypatch):
    """What is made stays in the folder, and goes there once it answers."""

    def silent(self: object, *arguments: object, **options: object) -> None:
        raise TimeoutError("no answer")

    store = Store(tmp_path / "one", f"memory://{tmp_path.name}-{lost}")
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, lost, silent)
        with pytest.raises(
            UnreachableError, match=rf"the shared store '{store.url}' cannot be used: TimeoutError: no an"
        ):
            put(store)
    assert store.get("search", "k") is not None
    assert Store(tmp_path / "two", store.url).get("search", "k") is not None


def test_a_store_that_nobody_answers_for(tmp_path, capsys):
    file = write_study(tmp_path)
    assert main(["validate", str(file), "--set", "run.store=ftp://me:geheim@127.0.0.1:1/x"]) == 1
    assert (
        "run.store: the shared store 'ftp://me:***@127.0.0.1:1/x' cannot be used: Connection" in capsys.readouterr().err
    )
