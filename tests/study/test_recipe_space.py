"""What a study leaves open in its recipe, and the recipe at one point."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.errors import StudyError
from kdsearch.host import Host
from kdsearch.kinds.space import draw
from kdsearch.search.axis import Axis
from kdsearch.study import load_study
from kdsearch.study.recipe import RecipeSpace
from tests import small_plugin

GOOD = Path(__file__).parent / "good.yaml"
HOST = Host.load(extra=[("small", small_plugin)], entry_points=False)


def space(*sets: str) -> RecipeSpace:
    return RecipeSpace.from_study(load_study(GOOD, HOST, sets=sets), HOST)


def test_every_open_value_is_a_dimension_under_its_path():
    dims = {dim.path: dim for dim in space().dims}
    assert list(dims) == [
        "recipe.distillers[0].weight",
        "recipe.distillers[0].options.temperature",
        "recipe.distillers[1].used",
        "recipe.distillers[1].weight",
        "recipe.distillers[1].options.kernel",
        "recipe.train.lr",
    ]
    weight = dims["recipe.distillers[0].weight"].range
    assert (weight.low, weight.high, weight.log) == (0.05, 20.0, True)
    own = dims["recipe.distillers[1].weight"]
    assert (own.range.low, own.range.high, own.range.integer) == (0.1, 10, False)
    assert own.when == (("recipe.distillers[1].used", (True,)),)
    lr = dims["recipe.train.lr"].range
    assert (lr.low, lr.high, lr.log) == (3e-4, 1e-2, True)
    temperature = dims["recipe.distillers[0].options.temperature"].range
    assert (temperature.low, temperature.high) == (1.0, 8.0)


def test_a_fixed_recipe_has_no_dimension():
    fixed = space("recipe={distillers: [{use: kd, weight: 2, options: {temperature: 3.0}}]}")
    assert fixed.dims == ()
    recipe = fixed.at({})
    assert recipe.weights == {"task": 1.0, "kd": 2.0}
    assert recipe.distillers[0].options.temperature == 3.0
    assert recipe.distillers[0].cls is small_plugin.KD
    assert recipe.train.lr == 2e-3
    assert recipe.procedure_cls is small_plugin.Distill


def test_values_go_where_their_path_says():
    recipe = space("recipe.procedure={use: distill, options: {warmup: search}}", "recipe.task_weight=search").at(
        {
            "recipe.task_weight": 0.5,
            "recipe.distillers[0].weight": 3.0,
            "recipe.distillers[0].options.temperature": 2.5,
            "recipe.distillers[1].used": True,
            "recipe.distillers[1].weight": 0.25,
            "recipe.distillers[1].options.kernel": 3,
            "recipe.train.lr": 0.004,
            "recipe.procedure.options.warmup": 0.125,
        }
    )
    assert recipe.weights == {"task": 0.5, "kd": 3.0, "fitnet": 0.25}
    assert recipe.distillers[0].options.temperature == 2.5
    assert recipe.distillers[1].options.kernel == 3
    assert (recipe.train.lr, recipe.train.batch_size) == (0.004, 128)
    assert recipe.procedure_options.warmup == 0.125


def test_an_optional_distiller_can_be_dropped_and_needs_no_values_then():
    values = {
        "recipe.distillers[0].weight": 1.0,
        "recipe.distillers[0].options.temperature": 2.0,
        "recipe.distillers[1].used": False,
        "recipe.train.lr": 0.001,
    }
    recipe = space().at(values)
    assert [each.name for each in recipe.distillers] == ["kd"]
    assert recipe.weights == {"task": 1.0, "kd": 1.0}
    with pytest.raises(KeyError, match=r"distillers\[1\]\.weight"):
        space().at({**values, "recipe.distillers[1].used": True})


def test_weights_of_single_terms_and_names():
    found = space(
        "recipe.distillers=[{use: kd, name: soft, weights: {kd: search}}, {use: kd, name: hard}]",
        "recipe.train.lr=0.01",
    )
    assert [dim.path for dim in found.dims] == ["recipe.distillers[0].weights.kd"]
    assert found.at({"recipe.distillers[0].weights.kd": 4.0}).weights == {
        "task": 1.0,
        "soft": 1.0,
        "soft.kd": 4.0,
        "hard": 1.0,
    }


def test_without_normalize_the_papers_constants_are_the_unit():
    found = space("recipe={normalize: false, distillers: [{use: kd, weight: 0.5}]}").at({})
    assert found.weights == {"task": 1.0, "kd": 0.5, "kd.kd": 0.5 * 16.0}
    own = space("recipe={normalize: false, distillers: [{use: kd, weights: {kd: 3.0}}]}").at({})
    assert own.weights["kd.kd"] == 3.0


def test_the_baseline_keeps_everything_but_the_teacher():
    found = space()
    recipe = found.at(found.default())
    baseline = recipe.baseline()
    assert baseline.distillers == ()
    assert baseline.weights == {"task": 1.0}
    assert baseline.train == recipe.train


def test_the_plain_point_leaves_out_what_is_optional_but_not_everything():
    found = space()
    assert found.plain()["recipe.distillers[1].used"] is False
    assert [each.name for each in found.at(found.plain()).distillers] == ["kd"]
    assert set(found.plain()) < set(found.default()), "what the one left out would need is not there"
    alone = space("recipe.distillers=[{use: fitnet, optional: true}, {use: kd, optional: true}]")
    assert [each.name for each in alone.at(alone.plain()).distillers] == ["fitnet"]


def test_the_default_point_has_no_value_of_what_does_not_count_there():
    """Of `composed`, `part` counts where logits are compared, and `softmax` where maps are by kl; the default is maps by mse."""
    host = Host.load()
    names = ("on", "multi_scale", "part", "distance", "softmax")
    searched = ", ".join(f"{name}: search" for name in names)
    sets = (
        "student={space: cifar_resnet}",
        "recipe.train={}",
        f"recipe.distillers=[{{use: composed, weight: 1, options: {{{searched}}}}}]",
    )
    found = RecipeSpace.from_study(load_study(GOOD, host, sets=sets), host)
    prefix = "recipe.distillers[0].options"
    assert {dim.path for dim in found.dims} == {f"{prefix}.{name}" for name in names}
    point = {f"{prefix}.on": "maps", f"{prefix}.multi_scale": False, f"{prefix}.distance": "mse"}
    assert found.default() == found.plain() == point


def test_the_default_point_is_within_every_range():
    found = space("recipe.train={lr: {low: 0.02, high: 0.1}, batch_size: {choices: [8, 16]}, optimizer: search}")
    values = found.default()
    assert values["recipe.train.lr"] == 0.02
    assert values["recipe.train.batch_size"] == 8
    assert values["recipe.train.optimizer"] == "adamw"
    assert values["recipe.distillers[1].used"] is True
    found.at(values)


def test_a_default_that_equals_a_choice_is_that_choice():
    """4 and 4.0 are one temperature and two points: the default is one that is asked for, so that no trial is run twice."""
    found = space(
        "recipe.distillers[0].weight={choices: [0.5, 1, 2]}",
        "recipe.distillers[0].options.temperature={choices: [1, 2, 4]}",
        "recipe.distillers[1].weight={choices: [0.5, 1.0]}",
        "recipe.task_weight={choices: [3, 2]}",
    )
    values = found.default()
    of = {dim.path: dim for dim in found.dims}
    expected = {
        "recipe.distillers[0].weight": 1,
        "recipe.distillers[0].options.temperature": 4,
        "recipe.distillers[1].weight": 1.0,
        "recipe.task_weight": 3,
    }
    assert {path: repr(values[path]) for path in expected} == {path: repr(value) for path, value in expected.items()}
    assert [Axis(of[path]).inner(values[path]) for path in expected] == [1, 2, "1.0", "3"], "searchers know them"
    found.at(values)


@given(st.integers(0, 2**32 - 1))
def test_every_drawn_point_is_a_recipe_that_survives_json(seed):
    found = space("recipe.train={lr: search, batch_size: search, weight_decay: search, optimizer: search}")
    rng = torch.Generator().manual_seed(seed)
    values = {dim.path: draw(dim, rng) for dim in found.dims}
    recipe = found.at(values)
    assert recipe.as_json()["weights"] == recipe.weights
    assert set(recipe.weights) == {"task", *(each.name for each in recipe.distillers)}
    assert 3e-4 <= recipe.train.lr <= 1e-2
    assert recipe.train.batch_size in (32, 64, 128, 256)


def test_ranges_are_checked_as_values():
    with pytest.raises(StudyError, match=r"recipe\.train\.batch_size: got 0. Expected greater than 0"):
        space("recipe.train.batch_size={choices: [0, 8]}")
    with pytest.raises(StudyError, match=r"recipe\.distillers\[0\]\.weight: got -1. Expected a number of at least 0"):
        space("recipe.distillers[0].weight={low: -1, high: 1}")
