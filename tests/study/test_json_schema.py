"""The schema that editors use says of a study what kdsearch itself says."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from kdsearch.errors import KdsearchError
from kdsearch.study import load_study
from kdsearch.study.json_schema import study_schema
from kdsearch.study.load import read
from kdsearch.study.template import study_text

GOOD = Path(__file__).parent / "good.yaml"
BAD = Path(__file__).parents[1] / "bad_studies"


@pytest.fixture(scope="module")
def validator(host):
    schema = json.loads(json.dumps(study_schema(host)))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def complaints(validator, file: Path) -> list[str]:
    return [error.message for error in validator.iter_errors(read(file).raw)]


def test_a_good_study_passes(validator):
    assert complaints(validator, GOOD) == []


@pytest.mark.parametrize(
    "name",
    [
        "unknown_key",
        "unknown_inner_key",
        "option_beside_use",
        "misspelt_proxy",
        "misspelt_single_proxy",
        "negative_budget",
        "wrong_type",
        "negative_weight",
        "unknown_option",
        "option_of_wrong_type",
        "search_in_data",
        "unknown_dataset",
        "unknown_space",
        "spec_of_no_such_field",
        "spec_value",
        "lr_of_zero",
        "unknown_optimizer",
        "no_labels",
        "no_recipe",
        "half_a_range",
    ],
)
def test_a_broken_study_does_not(name, validator):
    assert complaints(validator, BAD / f"{name}.yaml")


def test_names_and_options_are_those_of_what_is_installed(validator):
    defs = validator.schema["$defs"]
    assert defs["DistillerUse"]["properties"]["use"]["anyOf"][0]["enum"] == ["fitnet", "kd", "notes", "own_a", "own_b"]
    then = {each["if"]["properties"]["use"]["const"]: each["then"] for each in defs["DistillerUse"]["allOf"]}
    temperature = then["kd"]["properties"]["options"]["properties"]["temperature"]
    assert temperature["description"] == "softens both distributions"
    assert {"const": "search"} in temperature["anyOf"]


def test_a_qualified_name_passes(validator):
    raw = {**read(GOOD).raw, "search": {"proxy": ["acme:proxy:nwot"]}}
    assert not list(validator.iter_errors(raw))


NAMES = """\
data: digits
teacher: {use: trained, options: {space: cifar_resnet}}
student: cifar_resnet
recipe: {procedure: distill, distillers: [kd, {use: fitnet, weight: search}]}
search: {strategy: random, proxy: nwot}
refine: {controller: random, stopper: halving}
compress: {quantize: [int8]}
run: {executor: inprocess}
"""


def test_a_name_alone_stands_for_its_section_wherever_one_may_stand(validator, host, tmp_path):
    file, whole = tmp_path / "names.yaml", tmp_path / "whole.yaml"
    file.write_text(NAMES)
    assert complaints(validator, file) == []
    study = load_study(file, host, sets=["recipe.distillers[0].weight=2.0", "student.spec.width=8"])
    assert [each.use for each in study.config.recipe.distillers] == ["kd", "fitnet"]
    assert (study.config.recipe.distillers[0].weight, study.students["student"].spec) == (2.0, {"width": 8})
    whole.write_text(load_study(file, host).resolved_yaml())
    assert load_study(whole, host).config == load_study(file, host).config
    assert complaints(validator, whole) == []


@pytest.mark.parametrize("line", ["data: digit", "recipe: {distillers: [kq]}", "student: nowhere", "teacher: nobody"])
def test_a_wrong_name_alone_is_named(line, validator, host, tmp_path):
    file = tmp_path / "names.yaml"
    key, name = line.partition(":")[0], line.rpartition(":")[2].strip(" []}")
    file.write_text("\n".join([each for each in NAMES.splitlines() if not each.startswith(key)] + [line]) + "\n")
    assert complaints(validator, file)
    with pytest.raises(KdsearchError, match=rf"unknown .*'{name}'") as caught:
        load_study(file, host)
    assert caught.value.line == 8


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("compress: [{prune: channels}, {sparsify: magnitude}]", True),
        ("compress: {steps: [{prune: channels}], quantize: [int8]}", True),
        ("compress: [{prune: chanels}]", False),
        ("compress: [channels]", False),
    ],
)
def test_a_list_alone_is_that_of_steps(text, is_right, validator, host, tmp_path):
    file = tmp_path / "names.yaml"
    file.write_text("\n".join([each for each in NAMES.splitlines() if not each.startswith("compress")] + [text]) + "\n")
    assert bool(complaints(validator, file)) != is_right
    if is_right:
        assert load_study(file, host).config.compress.steps


@pytest.mark.parametrize("name", ["study.yaml", "my study!.yaml", ".yaml", "über"])
def test_the_template_names_itself_and_its_schema(name, tmp_path):
    text = study_text(name, "x.schema.json")
    assert text.startswith("# yaml-language-server: $schema=./x.schema.json\n")
    assert f"kdsearch run {name}" in text
    (tmp_path / "study.yaml").write_text(text)
    assert load_study(tmp_path / "study.yaml").config.data.use == "digits"
