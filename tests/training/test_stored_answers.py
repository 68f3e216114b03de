"""A teacher that looks its answers up by id, where samples are augmented: said, or refused where places would not be the same."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from kdsearch.errors import StudyError
from kdsearch.host import Host
from kdsearch.kinds import IO, Field
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.training.teachers import stored_answers
from tests.stages.tiny import TEXT, write_study

TABLE = re.sub(r"(?s)teacher:\n.*?student:", "teacher: {use: table, options: {path: answers.npz}}\nstudent:", TEXT)
SAID = "Teacher '{}' answers from a store: an augmented sample has the answer of the sample as it is."


def opened(folder, text, augment):
    return open_materials(
        load_study(write_study(folder, text), Host.load(), sets=[f"data.options={{resize: 8, augment: {augment}}}"]),
        Host.load(),
    )


@pytest.mark.parametrize(("text", "augment", "said"), [(TABLE, "crop", SAID), (TABLE, "none", ""), (TEXT, "crop", "")])
def test_a_store_does_not_see_augmentation(text, augment, said, tmp_path):
    materials = opened(tmp_path, text, augment)
    (name,) = materials.study.teachers
    assert stored_answers(materials, name) == said.format(name)


@pytest.mark.parametrize(
    ("answer", "is_refused"),
    [
        (Field("logits", "logits", (3, 8, 8)), True),
        (Field("logits", "logits", (8, 3)), True),
        (Field("depth", "map", (1, 8, 8)), True),
        (Field("states", "sequence", (8, 3)), True),
        (Field("logits", "logits", (3,)), False),
        (Field("embedding", "vector", (2, 3)), False),
    ],
)
def test_answers_that_have_places_are_refused(answer, is_refused, tmp_path):
    materials = opened(tmp_path, TABLE, "crop")
    materials = replace(materials, io=IO(materials.io.inputs, (answer,)))
    (name,) = materials.study.teachers
    if not is_refused:
        assert stored_answers(materials, name) == SAID.format(name)
        return
    with pytest.raises(StudyError, match=f"augmentation moves what its answers are of .'{answer.name}'") as caught:
        stored_answers(materials, name)
    assert caught.value.path == "teacher.use"
    assert caught.value.line
