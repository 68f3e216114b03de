"""A teacher that teaches nothing is the first thing that a finished study says."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from kdsearch.stages.notes import warnings_of
from kdsearch.store.artifacts import Artifact
from kdsearch.verbs.summary import summary_of
from tests.stages.tiny import LESS, run_tiny


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    slow = "teacher.options={space: cifar_resnet, spec: {depths: [1, 1, 1], widths: [4, 4, 4]}, epochs: 1, lr: 1.0e-6}"
    sets = [each for each in LESS if not each.startswith("distill.controls")]
    folder = tmp_path_factory.mktemp("lost")
    return run_tiny(
        folder, *sets, slow, "distill.controls=[baseline]", "distill.epochs=6", "data.labeled=1.0", "constraints={}"
    ), folder


def test_terminal_json_and_page_begin_with_it(result):
    found, folder = result
    chance, worse = found["warnings"]
    assert "hardly better than chance" in chance
    assert "is worse than the student that was trained on the labels alone" in worse
    assert summary_of(found, folder).splitlines()[:2] == [f"WARNING  {chance}", f"WARNING  {worse}"]
    page = (folder / "study" / "report" / "index.html").read_text(encoding="utf-8")
    assert 'role="alert"' in page[: page.index('class="verdict"')]


def test_a_student_as_large_as_its_teacher_is_told_where_nothing_keeps_it_small(result):
    found, folder = result
    large, small = found["student"]["params"], found["teacher"]["params"]
    assert large >= small
    note = f"Teacher 'main' has {small:,} parameters, the student {large:,}: nothing in `constraints` keeps it small."
    assert note in found["notes"]
    assert f"note        {note}" in summary_of(found, folder).splitlines()


@pytest.mark.parametrize(
    ("facts", "expected"), [({}, []), ({"copies": {"test": 1200}}, ["1,200 samples of 'test' are copies"])]
)
def test_copies_of_training_samples_are_a_warning(facts, expected):
    made = {"export": {"qualities": {"runs": {}}}, "prepare": {"data": {"facts": facts}}}
    inputs = {stage: Artifact(stage, "key", Path(), each) for stage, each in made.items()}
    found = warnings_of(SimpleNamespace(study=SimpleNamespace(teachers=())), inputs)
    assert [each.partition(" of training")[0] for each in found] == expected
