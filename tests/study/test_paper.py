"""A paper's whole recipe as its plugin ships it: a `recipe:` that a study may have as it is printed."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from kdsearch.cli import main
from kdsearch.errors import PluginError, StudyError
from kdsearch.host import Host
from kdsearch.kinds import Distiller, NoOptions, Options, Schedule
from kdsearch.study import load_study
from kdsearch.study.paper import paper_recipe
from kdsearch.study.recipe import RecipeSpace
from tests.stages import helper_plugin

HOST = Host.load()
STUDY = """\
data: digits
teacher: {use: trained, options: {space: cifar_resnet}}
student: {space: cifar_resnet}
"""


@pytest.mark.parametrize("name", HOST.names("distiller"))
def test_what_is_printed_is_what_a_study_may_have(name, tmp_path, capsys):
    assert main(["plugins", "show", f"distiller:{name}", "--recipe"]) == 0
    file = tmp_path / "study.yaml"
    file.write_text(STUDY + capsys.readouterr().out)
    recipe = load_study(file, HOST).config.recipe
    assert (recipe.normalize, [each.use for each in recipe.distillers]) == (False, [name])


@pytest.mark.parametrize("name", HOST.names("procedure"))
def test_so_is_that_of_a_procedure(name, tmp_path, capsys):
    assert main(["plugins", "show", f"procedure:{name}", "--recipe"]) == 0
    file = tmp_path / "study.yaml"
    file.write_text(STUDY + capsys.readouterr().out)
    recipe = load_study(file, HOST).config.recipe
    assert (recipe.normalize, recipe.procedure.use) == (False, name)


def test_cwd_falls_by_the_power_of_its_paper():
    found = paper_recipe(HOST, "cwd")
    train = found["train"]
    assert (train["optimizer"], train["lr"], train["batch_size"], train["weight_decay"]) == ("sgd", 0.01, 8, 5e-4)
    schedule = Schedule(**train["schedule"])
    assert [schedule(p) for p in (0.0, 0.25, 0.9)] == pytest.approx([1.0, 0.75**0.9, 0.1**0.9])
    assert found["distillers"] == [
        {"use": "cwd", "options": {"teacher_tap": "logits", "student_tap": "logits", "temperature": 4.0}}
    ]


def test_the_benchmarks_recipe_of_kd():
    found = paper_recipe(HOST, "kd")
    assert found["task_weight"] == 0.1
    assert found["distillers"] == [{"use": "kd", "options": {"temperature": 4.0}}]
    assert found["train"]["schedule"] == {"kind": "step", "at": [0.625, 0.75, 0.875], "factor": 0.1}


def test_a_procedures_recipe():
    host = Host.load(extra=[("helper", helper_plugin)])
    found = paper_recipe(host, "helped")
    assert found["procedure"] == {"use": "helped", "options": {"both": False}}
    assert (found["task_weight"], found["train"]["schedule"]["warmup"]) == (0.5, 0.1)


class Wrong(Distiller[NoOptions]):
    """Ships a recipe that no study could have."""

    paper_recipe: ClassVar[dict[str, Any]] = {"train": {"schedule": {"kind": "steps"}}}

    def terms(self, step: Any) -> Any:
        return {}


def test_a_recipe_that_is_none_is_said_with_its_key():
    host = HOST.with_classes({("distiller", "wrong"): Wrong})
    with pytest.raises(
        PluginError, match=r"recipe of distiller 'wrong' is none: train.schedule.kind: got 'steps'; did you mean 'step'"
    ):
        paper_recipe(host, "wrong")
    with pytest.raises(PluginError, match="'nwot' is no distiller and no procedure"):
        paper_recipe(host, "nwot")


class ScaledOptions(Options):
    levels: int = 2
    gamma: float = 3.0


class Scaled(Distiller[ScaledOptions]):
    """Terms and constants by option."""

    needs_teacher = False

    def constants(self):
        return {f"level{i}": self.options.gamma**i for i in range(self.options.levels)}

    def terms(self, step: Any) -> Any:
        return {}


def recipe_at(folder, options, more=""):
    host = HOST.with_classes({("distiller", "scaled"): Scaled})
    file = folder / "study.yaml"
    file.write_text(STUDY + f"recipe: {{normalize: false, distillers: [{{use: scaled, options: {options}{more}}}]}}\n")
    return RecipeSpace.from_study(load_study(file, host), host)


def test_constants_are_those_of_the_options(tmp_path):
    space = recipe_at(tmp_path, "{levels: 3, gamma: {choices: [2.0, 5.0]}}", ", weight: 0.5")
    path = "recipe.distillers[0].options.gamma"
    weights = space.at({path: 5.0}).weights
    assert {name: weights[f"scaled.{name}"] for name in ("level0", "level1", "level2")} == {
        "level0": 0.5,
        "level1": 2.5,
        "level2": 12.5,
    }


def test_terms_are_those_of_the_options(tmp_path):
    assert (
        recipe_at(tmp_path, "{levels: {choices: [1, 3]}}", ", weights: {level2: 2.0}").distillers[0].terms[-1]
        == "level2"
    )
    with pytest.raises(StudyError, match="distiller 'scaled' has no term 'level2'; did you mean 'level1'"):
        recipe_at(tmp_path, "{levels: 2}", ", weights: {level2: 2.0}")
