"""Costs are of what ships, all of it and nothing else: a helper of the training may be as large as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from kdsearch.errors import RefusedError
from kdsearch.host import Host
from kdsearch.kinds import Trial
from kdsearch.stages.run import run_stages
from kdsearch.stages.trial_facts import row_of
from kdsearch.store.files import read_json, read_lines
from kdsearch.study import load_study
from kdsearch.verbs.run import at_work
from tests.stages import helper_plugin
from tests.stages.tiny import LESS, TEXT, events, run_tiny, write_study

SMALL, LARGE = "[4, 4, 8]", "[16, 16, 32]"
HELPED = (
    TEXT.replace(
        "student:\n  space: cifar_resnet\n  spec: {depths: {choices: [1, 2]}, widths: {choices: [4, 8]}}\n", ""
    )
    .replace(
        "recipe:\n",
        f"students:\n  student: {{space: cifar_resnet, spec: {{depths: [1, 1, 1], widths: {SMALL}}}}}\n"
        f"  helper: {{space: cifar_resnet, spec: {{depths: {{choices: [1, 2]}}, widths: {LARGE}}}}}\n"
        "recipe:\n  procedure: {use: helped}\n",
    )
    .replace("  distillers:\n    - {use: kd, weight: search, options: {temperature: search}}\n", "")
    .replace("params: 20000, macs: 2000000", "params: 6000, onnx_bytes: 60000")
)
FEW = (*LESS, "refine.trials=1", "recipe.train.lr=0.002", "objectives={accuracy: max, params: min}")


@pytest.fixture(scope="module")
def host() -> Host:
    return Host.load(extra=[("helper", helper_plugin)])


@pytest.fixture(scope="module")
def helped(tmp_path_factory: pytest.TempPathFactory, host: Host) -> tuple[Path, Mapping[str, Any]]:
    folder = tmp_path_factory.mktemp("helped")
    return folder, run_tiny(folder, *FEW, host=host, text=HELPED)


def weights_of(file: Path) -> int:
    return sum(numpy_helper.to_array(each).size for each in onnx.load(file).graph.initializer)


def test_what_ships_is_what_is_counted(helped):
    folder, result = helped
    (row,) = result["exports"]
    params = result["student"]["params"]
    assert len(row["paths"]) == 1
    assert weights_of(folder / "study" / row["paths"][0]) <= params < 6000  # batch norms are folded into convolutions
    (file,) = (folder / "study" / "artifacts").glob("refine-*/trials.json")
    (trial,) = read_json(file)
    assert (trial["params"], trial["objectives"]["params"], trial["feasible"]) == (params, params, True)


def test_the_helper_is_chosen_by_score_alone(helped):
    folder, _ = helped
    rows = read_lines(folder / "study" / "candidates-helper.jsonl")
    assert min(row["params"] for row in rows) > 6000
    assert sum(row["kept"] for row in rows) == 2
    assert [each["costs"].keys() for each in kept(folder, "helper")] == [{"params", "macs"}] * 2
    assert [each["costs"].keys() for each in kept(folder, "student")] == [{"params", "macs", "onnx_bytes"}]


def kept(folder: Path, role: str) -> Iterator[Any]:
    (file,) = (folder / "study" / "artifacts").glob("search-*/artifact.json")
    return read_json(file)["facts"]["roles"][role]["kept"]


def test_what_ships_together_keeps_the_limits_before_it_is_trained(host, tmp_path):
    """Each network has less than 4,000 weights, few pairs have. Nor is a pair of more called feasible that a rung stopped."""
    wide = "{depths: [1, 1, 1], widths: {choices: [4, 8, 12]}}"
    text = HELPED.replace(f"{{depths: [1, 1, 1], widths: {SMALL}}}", wide)
    text = text.replace(f"{{depths: {{choices: [1, 2]}}, widths: {LARGE}}}", wide)
    text = text.replace("params: 6000, onnx_bytes: 60000", "params: 4000")
    text = text.replace("objectives: {accuracy: max}", "objectives: {accuracy: max, params: min}")
    sets = ("recipe.procedure={use: helped, options: {both: true}}", "recipe.train.lr=0.002", "refine.epochs=1")
    file = write_study(tmp_path, text)
    study = load_study(file, host, sets=(*LESS, *sets, "search.candidates=27", "search.keep=27", "refine.first=[]"))
    with at_work(study, host, tmp_path / "study", progress=False) as (materials, tools):
        made = run_stages(materials, tools, "refine")
        whole = read_json(made["refine"].path / "trials.json")
        rows = {role: {each["key"]: each for each in of["kept"]} for role, of in made["search"].facts["roles"].items()}
        largest = {role: max(of, key=lambda key: of[key]["costs"]["params"]) for role, of in rows.items()}
        values = {f"students.{role}.architecture": key for role, key in largest.items()}
        row = row_of(materials, Trial(0, values, None, "pruned"), rows)
    assert row["params"] == sum(rows[role][key]["costs"]["params"] for role, key in largest.items()) > 4000
    assert row["feasible"] is False
    assert [each["state"] for each in whole] == ["complete", "complete"]
    assert all(each["params"] <= 4000 and each["feasible"] for each in whole)


def test_an_option_says_what_ships(host, tmp_path):
    with pytest.raises(RefusedError, match="no candidate of 'cifar_resnet' keeps params <= 6,000"):
        run_tiny(tmp_path, *FEW, "recipe.procedure={use: helped, options: {both: true}}", host=host, text=HELPED)
    assert not events(tmp_path, "trial")
