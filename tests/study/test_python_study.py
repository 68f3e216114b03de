"""The same study from Python, with live objects."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from kdsearch.builtin.metrics import Accuracy
from kdsearch.errors import PluginError, StudyError
from kdsearch.study import load_study
from kdsearch.study.api import make
from kdsearch.study.check import student_space
from kdsearch.study.recipe import RecipeSpace
from tests import small_plugin

GOOD = Path(__file__).parent / "good.yaml"
SAMPLES = [(torch.zeros(1, 8, 8), 0)] * 4


def test_a_study_of_names_equals_the_files(host):
    raw = load_study(GOOD, host).source.raw
    made = make(host=host, **raw, name="good")
    assert made.config == load_study(GOOD, host).config
    assert made.live == {}


def test_live_objects_stand_where_the_file_names_capabilities(host):
    teacher, space = nn.Linear(2, 2), small_plugin.Space()
    study = make(teacher, SAMPLES, test=SAMPLES[:2], student=space, host=host, data={"labeled": 0.5}, seed=4)
    assert study.config.data.use == study.config.teacher.use == study.config.student.space == "live"
    assert study.live_object("teacher") is teacher
    assert study.live_object("data") == {"train": SAMPLES, "test": SAMPLES[:2]}
    assert student_space(study, host) is space
    assert study.config.data.labeled == 0.5
    assert study.config.seed == 4
    assert [each.use for each in study.config.recipe.distillers] == ["kd"]


def test_classes_stand_where_names_would(host):
    class Mine(small_plugin.KD):
        """My own."""

    class Ours(small_plugin.Space):
        """Our own."""

    class Rate(Accuracy):
        """Of right answers."""

    study = make(
        "outputs",
        SAMPLES,
        student=Ours,
        recipe=[{"use": Mine, "weight": "search", "options": {"temperature": 2.0}}],
        search={"proxy": [small_plugin.Score, "nwot"]},
        objectives={Rate: "max", "params": "min"},
        host=host,
    )
    assert study.config.objectives == {"Rate": "max", "params": "min"}
    assert study.host(host).load_class("metric", "Rate") is Rate
    assert study.config.recipe.distillers[0].use == "Mine"
    recipe = RecipeSpace.from_study(study, study.host(host))
    assert recipe.distillers[0].cls is Mine
    assert study.host(host).load_class("proxy", "Score") is small_plugin.Score
    assert type(student_space(study, study.host(host))) is Ours


def test_several_teachers_and_students(host):
    one, two = nn.Linear(1, 1), nn.Linear(1, 1)
    study = make(
        train=SAMPLES,
        teachers={"a": one, "b": "outputs"},
        students={"cnn": small_plugin.Space(), "vit": "cifar_resnet"},
        recipe={"procedure": {"use": "pair"}, "distillers": [{"use": "kd", "teacher": "a"}]},
        host=host,
    )
    assert study.live_object("teachers.a") is one
    assert study.live_object("teachers.b") is None
    assert study.live_object("students.cnn") is not None
    assert two is not one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"run": {"workers": 2}},
            r"run\.workers: 2 workers, but live objects \(data, teacher\) exist in this process only",
        ),
        ({"data": {"use": "digits"}}, r"data\.use: both live samples and a data set are given"),
        ({"recipe": "kd"}, r"recipe: got 'kd'\. Expected a section or a list of distillers"),
        ({"serach": {}}, r"serach: unknown key 'serach'; did you mean 'search'"),
        ({"constraints": {"params": nn.Linear(1, 1)}}, r"constraints\.params: got Linear"),
        ({"recipe": [{"use": small_plugin.Score}]}, r"recipe\.distillers\[0\]\.use: unknown distiller 'Score'"),
    ],
)
def test_what_is_wrong_is_named_by_its_key_path(arguments, message, host):
    with pytest.raises((StudyError, PluginError), match=message):
        make(nn.Linear(1, 1), SAMPLES, student="cifar_resnet", host=host, **arguments)


def test_a_study_without_data_says_how_to_give_them(host):
    with pytest.raises(StudyError, match=r"train: no data are given\. Expected train=\.\.\., or data=\{'use': NAME"):
        make(nn.Linear(1, 1), student="cifar_resnet", host=host)


def test_data_are_a_name_too(host):
    study = make(data="digits", student="cifar_resnet", host=host)
    assert study.config == make(data={"use": "digits"}, student="cifar_resnet", host=host).config
    with pytest.raises(StudyError, match=r"data\.use: both live samples and a data set"):
        make(train=SAMPLES, data="digits", student="cifar_resnet", host=host)


def test_of_several_teachers_the_recipe_says_who_teaches(host):
    both = {"teachers": {"a": nn.Linear(1, 1), "b": "outputs"}, "student": "cifar_resnet", "host": host}
    with pytest.raises(
        StudyError, match=r"recipe: several teachers, and nobody learns from them\. Expected distillers"
    ):
        make(train=SAMPLES, **both)
    assert make(train=SAMPLES, recipe={}, **both).config.recipe.distillers == []


def test_two_classes_of_one_name_are_refused(host):
    other = type("KD", (small_plugin.KD,), {})
    with pytest.raises(StudyError, match="two classes are called 'KD'"):
        make("outputs", SAMPLES, student="cifar_resnet", recipe=[small_plugin.KD, other], host=host)
