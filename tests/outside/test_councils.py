"""Several teachers over several modalities, taps of any of them, and what depends on teachers alone made once for two workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdsearch.engine.cache import TeacherCache
from kdsearch.errors import StudyError
from kdsearch.host import Host
from kdsearch.store.files import read_json
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.verbs.commands import plan
from tests.outside.conftest import HERE, ended
from tests.stages.tiny import settled

STUDY = HERE / "council.yaml"


@pytest.fixture(scope="module")
def council(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """Folder, result and what was made once, by which process."""
    folder = tmp_path_factory.mktemp("council")
    result = ended(STUDY, folder / "study", COUNCIL_LOG=str(folder / "log"))
    return folder / "study", result, (folder / "log").read_text().splitlines()


def facts_of(folder: Path, stage: str) -> dict[str, Any]:
    (file,) = folder.glob(f"artifacts/{stage}-*/artifact.json")
    return dict(read_json(file)["facts"])


def test_what_depends_on_teachers_alone_is_made_once_for_all_trials(council):
    """It was made again by every process that opened the teacher, and in every trial."""
    folder, _, log = council
    assert sorted(line.split()[0] for line in log) == [
        "bank",
        "council-130",
        "council-4",
    ]  # the last one is the dry step's
    assert facts_of(folder, "refine")["trials"] == 2
    assert len(list(folder.glob("work/once-*/once-*.safetensors"))) == 2
    terms = {name for run in facts_of(folder, "distill")["runs"].values() for name in run["history"][-1]["terms"]}
    assert terms == {"task", "kd.kl", *(f"council.{each}" for each in ("words", "means", "near", "agree"))}


def test_each_teacher_is_fed_and_stored_and_measured_as_what_it_is(council):
    folder, result, _ = council
    teachers = facts_of(folder, "prepare")["teachers"]
    assert teachers["reader"]["score"] > 0.9, "of captions, which say the class"
    assert teachers["reader"]["cached"]["cached"] == ["logits", "words"]
    assert teachers["main"]["cached"]["cached"] == ["logits", "penultimate"]
    assert teachers["bank"]["cached"]["cached"] == ["nearness"]
    assert (teachers["hunch"]["cache"], teachers["hunch"]["cached"]) == ("", {}), "what it answers is never stored"
    assert [name for name, each in teachers.items() if each["answers"]] == ["main", "reader"]
    notes = "\n".join(result["notes"])
    for name, answer in (("bank", "nearness"), ("hunch", "hunch")):
        assert f"Teacher '{name}' answers {answer} (10), not logits (10): it is not measured on the task." in notes
    assert result["student"]["accuracy"] > 0.2
    assert result["exports"][0]["parity_max_abs"] < 1e-4


def test_rows_of_the_test_split_are_stored_apart(council, outside):
    """Only for the teacher that says `cache: all`; what trains never opens them."""
    folder, _, _ = council
    (prepared,) = folder.glob("artifacts/prepare-*")
    assert sorted(each.name for each in prepared.glob("cache-*")) == [
        "cache-bank",
        "cache-main",
        "cache-main-test",
        "cache-reader",
    ]
    data = open_materials(load_study(STUDY, Host.load()), Host.load()).data
    test = data.split("test")
    batch = test.load(range(len(test.ids)))
    assert TeacherCache(prepared / "cache-main-test").get(batch, ["logits"])["logits"].shape == (len(test.ids), 10)
    assert TeacherCache(prepared / "cache-main").get(batch, ["logits"]) is None
    assert TeacherCache(prepared / "cache-main-test").get(data.split("val").load([0]), ["logits"]) is None


def test_a_plan_times_the_teacher_that_is_fed_texts(outside):
    """`plan` ended with KeyError: batch has no field 'letters'."""
    found = plan(study=load_study(STUDY, Host.load()), host=Host.load())
    assert found["seconds"]["prepare"] > 0


def test_stored_answers_of_what_wavers_are_refused(outside):
    from kdsearch.stages.prepare import is_cached

    study = load_study(STUDY, Host.load(), sets=("teachers.hunch.cache=on",))
    with pytest.raises(StudyError, match=r"cache 'on', but what it answers is drawn anew each time") as caught:
        is_cached(open_materials(study, Host.load()), "hunch")
    assert caught.value.path == "teachers.hunch.cache"


@pytest.mark.slow
def test_one_worker_ends_as_two_do(council, tmp_path):
    _, result, _ = council
    text = STUDY.read_text().replace("workers: 2, executor: {use: processes}", "workers: 1")
    (tmp_path / "council.yaml").write_text(text)
    alone = ended(tmp_path / "council.yaml", tmp_path / "study")
    assert settled(alone) == settled(result)
