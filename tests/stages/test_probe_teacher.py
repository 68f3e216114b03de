"""The teacher that scores look at: the study's own architecture, knowing nothing; the space's default where that cannot be had."""

import torch
from torch import nn

from kdsearch.host import Host
from kdsearch.kinds import Teacher
from kdsearch.stages.search import scorer_of
from kdsearch.study import load_study
from kdsearch.training.materials import open_materials
from kdsearch.training.opened import live_teacher
from tests.builtin.teachers.teacher_doors import linear_onnx
from tests.python.tiny_live import teacher, tiny
from tests.stages.tiny import write_study

AUTO = "search.proxy=auto"


def scorer(materials):
    return scorer_of(materials, "student")


def from_yaml(tmp_path, use):
    file = write_study(tmp_path)
    return open_materials(load_study(file, Host.load(), sets=(AUTO, f"teacher={use}")), Host.load())


def live(**changes):
    return open_materials(tiny(search={"proxy": "auto", "candidates": 4, "keep": 2}, **changes), Host.load())


def built_by(materials):
    (name,) = materials.study.teachers
    return live_teacher(materials, name).model


def weights(model):
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def test_a_live_network_is_drawn_anew_and_the_users_stays():
    mine = teacher(seed=5)
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    found = scorer(live(teacher=mine))._teacher
    assert [type(part) for part in found.module] == [type(part) for part in mine]
    assert not found.module[0].weight.equal(mine[0].weight)
    assert all(tensor.equal(before[name]) for name, tensor in mine.state_dict().items())
    assert scorer(live(teacher=mine)).notes == {}


def test_what_it_knows_changes_no_score():
    """Two teachers of one architecture with other weights; then another architecture."""
    spec = {"depths": [1, 1, 1], "widths": [4, 6, 6]}
    one, other = (scorer(live(teacher=teacher(seed))).score(spec).scores for seed in (0, 1))
    wider = scorer(live(teacher=teacher(0, width=12))).score(spec).scores
    assert one == other
    assert one["relation"] != wider["relation"]
    assert one["synflow"] == wider["synflow"]


def test_the_global_stream_stays():
    materials = live()
    before = torch.get_rng_state()
    scorer(materials)
    assert torch.get_rng_state().equal(before)


def test_a_teacher_that_the_study_trains_is_as_it_was_built(tmp_path):
    materials = from_yaml(
        tmp_path, "{use: trained, options: {space: cifar_resnet, spec: {widths: [8, 8, 16]}, epochs: 1}}"
    )
    built, found = weights(built_by(materials)), weights(scorer(materials)._teacher)
    assert all(tensor.equal(built[name]) for name, tensor in found.items())


def test_weights_of_timm_from_scratch_stay_and_those_of_a_file_go(tmp_path):
    scratch = from_yaml(tmp_path, "{use: timm, options: {name: test_resnet, epochs: 1}}")
    built = built_by(scratch)
    assert all(tensor.equal(weights(built)[name]) for name, tensor in weights(scorer(scratch)._teacher).items())
    torch.save({name.removeprefix("net."): tensor for name, tensor in weights(built).items()}, tmp_path / "net.pth")
    loaded = from_yaml(tmp_path, "{use: timm, options: {name: test_resnet, weights: net.pth, epochs: 1}}")
    found = weights(scorer(loaded)._teacher)
    kernels = [name for name, part in built.module.named_modules() if isinstance(part, nn.Conv2d)]
    assert kernels
    assert not any(found[f"{name}.weight"].equal(weights(built)[f"{name}.weight"]) for name in kernels)


def test_without_stages_the_default_stands_in_and_the_page_says_why(tmp_path):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = scorer(live(teacher=flat))
    assert found._teacher.name != "Sequential"
    assert "the space's default teacher: tap 'stage[-1]': 'Sequential' has" in found.notes["teacher"]


class Stubborn(nn.Conv2d):
    def reset_parameters(self, made=True):
        if not made:
            raise RuntimeError("never again")
        super().reset_parameters()


def test_a_part_that_refuses_is_named():
    mine = teacher()
    mine[0] = Stubborn(1, 6, 3, padding=1)
    mine[0].reset_parameters = lambda: Stubborn.reset_parameters(mine[0], False)
    assert (
        "a part of 'Sequential' cannot be drawn anew: RuntimeError: never again (in reset_parameters, test_probe_teacher.py:"
        in scorer(live(teacher=mine)).notes["teacher"]
    )


def test_logits_are_enough_where_no_stage_is_read():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    materials = open_materials(tiny(teacher=flat, search={"proxy": "kd.kd", "candidates": 4, "keep": 2}), Host.load())
    found = scorer(materials)
    assert isinstance(found._teacher.module[1], nn.Linear)
    assert found.notes == {}


def test_a_file_without_weights_to_draw_is_said(tmp_path):
    linear_onnx(tmp_path / "net.onnx", k=10, channels=1, side=8)
    found = scorer(from_yaml(tmp_path, "{use: onnx, options: {path: net.onnx}}"))
    assert "'onnx' has no weights that could be drawn anew" in found.notes["teacher"]


def test_access_says_which_have_weights():
    classes = {name: Host.load().load_class("teacher", name) for name in Host.load().names("teacher")}
    assert all(issubclass(cls, Teacher) for cls in classes.values())
    assert {name for name, cls in classes.items() if cls.access < 4} == {
        "onnx",
        "exported",
        "table",
        "scripted",
        "tiny",
    }
