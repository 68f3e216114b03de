"""The dry step says what a recipe cannot do, where the study says so, before a teacher is trained; it leaves no trace."""

from __future__ import annotations

import random
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdsearch.cli import main
from kdsearch.errors import PluginError, StudyError, TapError, TapShapeError, UserError
from kdsearch.host import Host
from kdsearch.stages.quality import measured
from kdsearch.study import load_study
from kdsearch.training import dry
from kdsearch.training.dry import check_recipe
from kdsearch.training.few_samples import FewSamples
from kdsearch.training.materials import Materials, open_materials
from tests.stages.tiny import LESS, TEXT, run_tiny, write_study
from tests.training import dry_plugin

KD = "- {use: kd, weight: search, options: {temperature: search}}"
LINE = 1 + TEXT[: TEXT.index(KD)].count("\n")


@pytest.fixture(scope="module")
def host() -> Host:
    return Host.load(extra=[("mistaken", dry_plugin)])


def opened(folder: Path, host: Host, distiller: str, *sets: str) -> Materials:
    study = load_study(write_study(folder, TEXT.replace(KD, f"- {distiller}")), host, sets=sets)
    return open_materials(study, host)


@pytest.mark.parametrize(
    ("distiller", "error", "path", "words"),
    [
        (
            "{use: fitnet, options: {student_tap: 'stage[5]'}}",
            TapError,
            ".options.student_tap",
            r"distiller 'fitnet': tap 'stage\[5\]': 'cifar_resnet' has stem .*; did you mean 'stage\[2\]'",
        ),
        (
            "{use: fitnet, options: {teacher_tap: penultimate}}",
            TapShapeError,
            ".options.teacher_tap",
            "distiller 'fitnet': tap 'penultimate' of 'cifar_resnet' is 16. Expected a map",
        ),
        (
            "plain",
            PluginError,
            ".options.tap",
            r"distiller 'plain' reads 'stage\[1\]' of 'cifar_resnet' without asking for it. Expected an option of type StudentTap",
        ),
        (
            "{use: narrow, options: {others: [logits]}}",
            PluginError,
            "",
            r"distiller 'narrow' fails at its first step: RuntimeError: mat1 and mat2 shapes cannot be multiplied",
        ),
        (
            "peer",
            PluginError,
            "",
            "distiller 'peer': no model in the role 'peer'.*. Expected main, student or teacher. Set recipe.procedure.use: mutual.",
        ),
        ("number", PluginError, "", "term 'soft' of distiller 'number' is 0.0, no tensor. Expected a scalar tensor"),
        ("stops", PluginError, "", "distiller 'stops' fails at its first step: GeneratorExit: no more"),
        ("late", PluginError, "", "distiller 'late' fails at its first step: IndexError: queue is full"),
    ],
)
def test_a_fault_has_its_distiller_option_and_line(distiller, error, path, words, host, tmp_path):
    materials = opened(tmp_path, host, distiller)
    with pytest.raises(error, match=words) as caught:
        check_recipe(materials)
    assert caught.value.path == f"recipe.distillers[0]{path}"
    assert (caught.value.file, caught.value.line) == (tmp_path / "tiny.yaml", LINE)


@pytest.mark.parametrize(
    ("sets", "path"),
    [
        (["objectives={accuracy: max, misnamed: max}"], "objectives.misnamed"),
        (["metrics=[accuracy, misnamed]"], "metrics[1]"),
    ],
)
def test_a_metrics_value_has_its_name(sets, path, host, tmp_path):
    says = "metric 'misnamed' .*dry_plugin:Misnamed. gives brier, n. Expected 'misnamed', the name that it is registered by"
    with pytest.raises(PluginError, match=says) as caught:
        check_recipe(opened(tmp_path, host, "kd", *sets))
    assert caught.value.path == path
    check_recipe(opened(tmp_path, host, "kd", "metrics=[picky]"))


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("wordless", "metric 'wordless' .*dry_plugin:Wordless. gives a NoneType. Expected values by name"),
        ("worded", "metric 'worded' .*dry_plugin:Worded. gives 'good' as 'worded'. Expected a number"),
    ],
)
def test_a_metric_gives_numbers(metric, words, host, tmp_path):
    with pytest.raises(PluginError, match=words) as caught:
        check_recipe(opened(tmp_path, host, "kd", f"metrics=[{metric}]"))
    assert caught.value.path == "metrics[0]"


def test_what_a_metric_gives_later_has_its_place_too(host, tmp_path):
    materials = opened(tmp_path, host, "kd", "metrics=[tested]")
    check_recipe(materials)
    materials = replace(materials, reported={"tested": materials.reported["tested"]}, objective="tested")
    values, _ = measured(materials, dict, "val", materials.site)
    assert values == {"tested": 0.5, "n": 3.0}
    with pytest.raises(PluginError, match=r"gives 'good' as 'tested'\. Expected a number") as caught:
        measured(materials, dict, "test", materials.site)
    assert caught.value.path == "metrics[0]"
    assert str(caught.value.file).startswith("--set metrics=")


def test_what_a_pruner_raises_beforehand_is_its_own(host, tmp_path):
    with pytest.raises(PluginError, match=r"pruner 'locked' of .* fails: KeyError: 'no key'") as caught:
        check_recipe(opened(tmp_path, host, "kd", "compress.prune={use: locked}"))
    assert caught.value.path == "compress.prune.use"


def test_a_weight_is_of_a_term_that_the_step_gives(host, tmp_path):
    says = r"distiller 'twofold' has no term 'smal'; did you mean 'small'\?.* Expected flat or small"
    with pytest.raises(StudyError, match=says) as caught:
        check_recipe(opened(tmp_path, host, "{use: twofold, weights: {flat: 1.0, smal: 2.0}}"))
    assert (caught.value.path, caught.value.line) == ("recipe.distillers[0].weights.smal", LINE)
    check_recipe(opened(tmp_path, host, "{use: twofold, weights: {flat: 1.0, small: 2.0}}"))
    either = "{use: twofold, weights: {flat: 1.0, more: 2.0}, options: {more: {choices: [false, true]}}}"
    check_recipe(opened(tmp_path, host, either))


def test_taps_are_of_roles_that_a_phase_makes_too(host, tmp_path):
    check_recipe(opened(tmp_path, host, "{use: self}", "recipe.procedure=keeping"))
    says = r"`taps` of distiller 'misspelt' gives taps of the role 'studnet'; did you mean 'student'\?"
    for procedure, roles in (
        ("keeping", "earlier, main"),
        ("distill", "main"),
    ):  # this one does not ask for the tap, either
        with pytest.raises(PluginError, match=rf"{says} Expected {roles}, student or teacher") as caught:
            check_recipe(opened(tmp_path, host, "{use: misspelt}", f"recipe.procedure={procedure}"))
        assert (caught.value.path, caught.value.line) == ("recipe.distillers[0]", LINE)


@pytest.mark.parametrize("distiller", ["{use: many}", "{use: broken}", "{use: ends}"])
def test_what_few_samples_or_one_step_cannot_judge_passes(distiller, host, tmp_path):
    check_recipe(opened(tmp_path, host, distiller))


def test_a_loss_that_differentiates_inside_is_judged_on_validation(host, tmp_path):
    best = "recipe.procedure={use: distill, options: {keep: best}}"
    check_recipe(opened(tmp_path, host, "{use: steep}", best))


def test_one_point_or_candidate_that_trains_is_enough(host, tmp_path):
    hint = "{student_tap: 'module:stages.0.1.relu2', teacher_tap: {choices: ['stage[9]', 'stage[8]', 'stage[0]']}}"
    check_recipe(opened(tmp_path, host, f"{{use: fitnet, options: {hint}}}"))


def test_a_point_that_options_refuse_is_the_trials_affair(host, tmp_path):
    materials = opened(tmp_path, host, "{use: either, options: {mode: search, flag: search}}")
    check_recipe(materials)
    path = "recipe.distillers[0].options"
    refused = {**materials.recipe.default(), f"{path}.mode": "l2", f"{path}.flag": True}
    with pytest.raises(StudyError, match=r"Expected .*flag needs l1") as caught:
        materials.recipe.at(refused)
    assert caught.value.path == path


def test_an_optional_distiller_that_can_never_take_part_is_a_fault(host, tmp_path):
    hopeless = "{use: fitnet, optional: true, options: {teacher_tap: penultimate}}"
    with pytest.raises(TapShapeError, match="distiller 'fitnet': tap 'penultimate' of 'cifar_resnet' is 16") as caught:
        check_recipe(opened(tmp_path, host, f"kd\n    - {hopeless}"))
    assert caught.value.path == "recipe.distillers[1].options.teacher_tap"
    assert caught.value.line == LINE + 1


def test_optional_distillers_are_judged_one_by_one(host, tmp_path):
    sound = "{use: sp, optional: true}"
    check_recipe(opened(tmp_path, host, f"kd\n    - {sound}"))
    hopeless = "{use: fitnet, optional: true, options: {teacher_tap: penultimate}}"
    with pytest.raises(TapShapeError) as caught:
        check_recipe(opened(tmp_path, host, f"{sound}\n    - {hopeless}"))
    assert caught.value.path == "recipe.distillers[1].options.teacher_tap"
    either = "{use: fitnet, optional: true, options: {teacher_tap: {choices: [penultimate, 'stage[0]']}}}"
    check_recipe(opened(tmp_path, host, f"kd\n    - {either}"))


@pytest.mark.parametrize("most", [dry.STEPPED, dry.STEPPED_OPTIONAL])
def test_a_fault_of_so_many_networks_is_one_of_the_recipe(most, host, tmp_path, monkeypatch):
    materials = opened(tmp_path, host, "kd", "recipe.train.lr=0.002", "student.spec={widths: {choices: [4, 8, 12]}}")
    faults, tried = most - 1, list[object]()

    def fault_of(materials, teachers, specs, values, n, every_class=False):
        tried.append(specs)
        return dry._Fault(StudyError("no such map"), True, specs, values) if len(tried) <= faults else None

    monkeypatch.setattr(dry, "_fault_of", fault_of)
    assert dry._check_candidates(materials, {}, [{"a": 1}], most) == {"a": 1}
    assert len(tried) == most
    faults = most + 1  # with a whole batch, too
    tried.clear()
    monkeypatch.setattr(dry, "_does_with_a_batch", lambda *_: False)
    with pytest.raises(StudyError, match="no such map"):
        dry._check_candidates(materials, {}, [{"a": 1}], most)
    assert len(tried) == most


def test_an_optional_distiller_is_tried_on_more_networks(host, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        dry, "_check_candidates", lambda materials, teachers, points, most=dry.STEPPED: asked.append(most) or {}
    )
    check_recipe(opened(tmp_path, host, "kd\n    - {use: sp, optional: true}"))
    assert asked == [dry.STEPPED, dry.STEPPED_OPTIONAL]


def test_agreement_needs_classes(host, tmp_path, monkeypatch):
    from kdsearch.builtin.classification import Classification
    from kdsearch.kinds import IO

    usual = Classification.io

    def without(self, fields, facts):
        from dataclasses import replace

        io = usual(self, fields, facts)
        return IO(io.inputs, tuple(replace(each, kind="vector") for each in io.outputs))

    monkeypatch.setattr(Classification, "io", without)
    materials = opened(tmp_path, host, "{use: kd}", "export.min_agreement={onnx-int8: 0.9}")
    with pytest.raises(
        StudyError, match=r"export.min_agreement.onnx-int8: the networks score no classes or labels: they answer logits"
    ):
        check_recipe(materials)


TABLE = """\
data: {use: table, options: {path: a.csv, target: y, KIND}}
student: {space: mlp}
recipe: {distillers: []}
compress: {quantize: [int8]}
export: {formats: [onnx-fp32, onnx-int8], min_agreement: {onnx-int8: 0.95}}
"""


@pytest.mark.parametrize("kind", ["kind: labels, separator: ';'", "kind: class", "kind: number"])
def test_agreement_is_of_labels_one_by_one_too(kind, host, tmp_path):
    values = ["1", "2", "3"] if kind == "kind: number" else ["a;b", "b", "a"]
    rows = [f"{i}.5,{values[i % 3]}" for i in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["x,y", *rows]) + "\n")
    materials = open_materials(load_study(write_study(tmp_path, TABLE.replace("KIND", kind)), host), host)
    if kind == "kind: number":
        with pytest.raises(StudyError, match="the networks score no classes or labels: they answer value"):
            check_recipe(materials)
        return
    check_recipe(materials)


FREE = ("compress.prune=null", "constraints={}")


@pytest.mark.parametrize(
    ("sets", "path"),
    [((), "compress.prune"), (FREE[:1], "constraints.params"), (("constraints={}",), "compress.prune")],
)
def test_growth_without_a_word_of_it_is_refused_where_it_would_be_miscounted(sets, path, host, tmp_path):
    words = rf"{path}: the phases of 'growing' make another network of 'student' and do not say which"
    with pytest.raises(StudyError, match=words):
        check_recipe(opened(tmp_path, host, "{use: kd}", "recipe.procedure=growing", *sets))


@pytest.mark.parametrize("sets", [("recipe.procedure=growing", *FREE), ("recipe.procedure=grown",)])
def test_growth_that_is_said_or_counts_for_nothing_passes(sets, host, tmp_path):
    check_recipe(opened(tmp_path, host, "{use: kd}", *sets))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "{says: 12}",
            r"another network of 'student' than its `grown` says: 'classifier.1.weight' is \(10, 10\), not \(12, 10\)",
        ),
        (
            "{recovers: false}",
            r"after pruning 'grown' changes the network of 'student' again: 'classifier.\w+.* is not there",
        ),
    ],
)
def test_a_procedure_is_held_to_what_it_says_of_its_growth(options, words, host, tmp_path):
    with pytest.raises(PluginError, match=words) as caught:
        check_recipe(opened(tmp_path, host, "{use: kd}", f"recipe.procedure={{use: grown, options: {options}}}"))
    assert caught.value.path == "recipe.procedure.use"


def test_it_leaves_no_trace(host, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    materials = opened(tmp_path, host, "{use: fitnet, options: {kernel: search}}")
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    check_recipe(materials)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    assert {each.name for each in tmp_path.iterdir()} == {"scratch", "tiny.yaml"}
    assert not list((tmp_path / "scratch").iterdir())


def test_parts_of_few_samples_belong_together(host, tmp_path):
    materials = opened(tmp_path, host, "{use: kd}")
    few = FewSamples(materials.data, 8)
    labeled, unlabeled, train = (few.split(name) for name in ("labeled", "unlabeled", "train"))
    assert {*labeled.ids} | {*unlabeled.ids} == {*train.ids}
    assert (len(labeled.ids), len(unlabeled.ids), len(few.split("val").ids)) == (4, 4, 8)
    whole = materials.data.split("unlabeled")
    assert torch.equal(unlabeled.load([1])["image"], whole.load([list(whole.ids).index(unlabeled.ids[1])])["image"])
    assert "test" not in few.splits


@pytest.mark.parametrize("executor", ["inprocess", "processes"])
def test_a_run_trains_no_teacher_for_it(executor, tmp_path):
    text = TEXT.replace(KD, "- {use: fitnet, options: {student_tap: 'stage[5]'}}")
    with pytest.raises(
        TapError, match=rf"tiny.yaml:{LINE}: recipe.distillers\[0\].options.student_tap: distiller 'fitnet'"
    ):
        run_tiny(tmp_path, *LESS, f"run.executor={{use: {executor}}}", text=text)
    assert not (tmp_path / "study").exists()


def test_validate_takes_the_step(tmp_path, capsys):
    file = write_study(tmp_path, TEXT.replace(KD, "- {use: fitnet, options: {student_tap: 'stage[5]'}}"))
    assert main(["validate", str(file)]) == 2
    assert re.search(rf"tiny.yaml:{LINE}: recipe.distillers\[0\].options.student_tap: ", capsys.readouterr().err)
    assert main(["validate", str(file), "--plan"]) == 2


def test_a_step_of_compression_that_names_no_layer_is_told_with_its_own_place(host, tmp_path):
    steps = (
        "compress.prune=null",
        "compress.steps=[{prune: {use: channels}}, {prune: {use: channels, options: {exclude: [stm]}}}]",
    )
    with pytest.raises(UserError, match=r"'stm' matches no layer of this network") as caught:
        check_recipe(opened(tmp_path, host, "{use: kd}", *steps))
    assert caught.value.path == "compress.steps[1].prune.options.exclude[0]"
    assert str(caught.value.file).startswith("--set compress.steps=")


def test_what_a_step_of_compression_says_of_no_option_is_of_the_step(host, tmp_path):
    """An MLP without shortcuts has no blocks, which the pruner says of the network alone."""
    plain = "{depth: 1, widths: [8], residual: false}"
    sets = ("student={space: mlp, spec: " + plain + "}", "compress.prune=hierarchical_prune")
    with pytest.raises(UserError, match=r"'Mlp' has no residual block") as caught:
        check_recipe(opened(tmp_path, host, "{use: kd}", *sets))
    assert caught.value.path == "compress.prune.use"
    assert str(caught.value.file).startswith("--set compress.prune=")
