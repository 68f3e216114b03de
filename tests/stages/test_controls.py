"""Controls state what they need; a study that cannot have them is refused before any work, or says so in its report."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from kdsearch.cli import main
from kdsearch.engine.splits import arrange
from kdsearch.errors import StudyError
from kdsearch.host import Host
from kdsearch.kinds import HIDDEN, Trial
from kdsearch.stages.refine import epochs_trained
from kdsearch.store.files import read_lines
from kdsearch.study import load_study
from kdsearch.study.summary import left_out
from kdsearch.testing.training import TensorSource
from kdsearch.training.controls import check_controls
from kdsearch.verbs.summary import summary_of
from tests.stages.tiny import LESS, run_tiny, write_study


def unlabeled(n: int = 40):
    columns = {"image": torch.zeros(n, 1, 8, 8), "label": torch.full((n,), HIDDEN)}
    return arrange(TensorSource({"train": columns}), labeled=1.0, validation=0.2, test=0.2)


@pytest.fixture
def study(tmp_path):
    def loaded(*sets: str):
        return load_study(write_study(tmp_path), Host.load(), sets=sets)

    return loaded


@pytest.mark.parametrize(
    ("controls", "words"),
    [
        ("[baseline, all_labels]", "control 'baseline' learns from labels, and the study sees no label"),
        ("[all_labels]", "control 'all_labels' learns from labels, and no training sample has a label"),
    ],
)
def test_no_label_no_control(controls, words, study):
    with pytest.raises(StudyError, match=words) as caught:
        check_controls(study(f"distill.controls={controls}"), unlabeled())
    assert caught.value.exit_code == 2
    assert "controls: []" in str(caught.value)


def test_without_controls_unlabeled_data_will_do(study):
    check_controls(study("distill.controls=[]"), unlabeled())


def test_one_label_is_enough(study):
    columns = {"image": torch.zeros(40, 1, 8, 8), "label": torch.arange(40) % 2}
    check_controls(study(), arrange(TensorSource({"train": columns}), labeled=0.2, validation=0.2, test=0.2))


def test_of_several_students_there_are_none():
    assert "trains cnn, vit" in left_out(SimpleNamespace(students={"cnn": None, "vit": None}))


def test_validate_announces_what_is_trained(tmp_path, capsys):
    """Where every label is seen, the control with every label is the baseline."""
    file = write_study(tmp_path)
    for labeled, controls in (("0.2", ["baseline", "all_labels"]), ("1.0", ["baseline"])):
        assert main(["validate", str(file), "--set", f"data.labeled={labeled}", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["trainings"]
        assert [each["what"] for each in rows if each["what"] in ("baseline", "all_labels")] == controls


def test_trials_count_as_far_as_they_went():
    """Of ten epochs: one through, one stopped after three, one failed after half an epoch, one that failed at once."""
    curves = (((0.3, (1.0,)), (1.0, (0.5,))), ((0.3, (2.0,)),), ((0.01, (2.0,)),), ())
    history = [Trial(i, {}, curve=curve) for i, curve in enumerate(curves)]
    assert epochs_trained(history, 10) == 10 + 3 + 1


@pytest.fixture(scope="module")
def without_a_search(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    sets = ("distill.controls=[no_search]", "distill.winners=2")
    return folder, run_tiny(folder, *LESS, *sets, "search.candidates=8", "search.proxy=nwot")


def test_without_a_search_the_largest_network_has_all_epochs_and_the_plain_recipe(without_a_search):
    folder, result = without_a_search
    store = folder / "study/artifacts"
    (candidates,) = store.glob("search-*/candidates-student.jsonl")
    (trials,) = store.glob("refine-*/trials.json")
    trained = [max(round(2 * share) for share, _ in each["curve"]) for each in json.loads(trials.read_text())]
    control = result["no_search"]
    assert control["params"] == max(row["params"] for row in read_lines(candidates))
    assert control["epochs"] == sum(trained) + 2 * 2
    (facts,) = (json.loads(each.read_text())["facts"] for each in store.glob("distill-*/artifact.json"))
    request = facts["runs"]["no_search"]["request"]
    assert request["values"] == {
        "recipe.distillers[0].weight": 1.0,
        "recipe.distillers[0].options.temperature": 4.0,
        "recipe.train.lr": 0.002,
    }
    assert len(facts["runs"]["no_search"]["history"]) == control["epochs"]
    assert "baseline" not in facts["runs"]


def test_what_it_gives_stands_beside_the_student(without_a_search):
    folder, result = without_a_search
    said = summary_of(result, folder)
    control = result["no_search"]
    assert (
        f"{control['params']:,} params  the largest feasible candidate, plain recipe, {control['epochs']} epochs"
        in said
    )
    page = (folder / "study/report/index.html").read_text(encoding="utf-8")
    assert f"largest feasible candidate, no search, {control['epochs']} epochs" in page
    assert "the largest feasible candidate trained for as many epochs as search and student" in page


def test_its_cost_is_planned(tmp_path, capsys):
    file = write_study(tmp_path)
    asked = "distill={epochs: 5, winners: 2, finalists: 2, controls: [no_search]}"
    assert main(["validate", str(file), "--set", asked, "--json"]) == 0
    rows = [each for each in json.loads(capsys.readouterr().out)["trainings"] if each["stage"] == "distill"]
    assert [(each["what"], each["count"], each["epochs"]) for each in rows] == [
        ("winners", 2, 5),
        ("no_search", 1, 3 * 2 + 2 * 5),
    ]


@pytest.fixture(scope="module")
def without_a_label_in_validation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, run_tiny(folder, *LESS, "distill.controls=[baseline]", "data.labeled=10")


def test_a_control_that_validation_has_no_label_for_is_judged_by_the_test_split(without_a_label_in_validation):
    folder, result = without_a_label_in_validation
    counts = dict(result["data"]["counts"]["val"])
    assert counts.pop("unlabeled") > 0
    assert not any(counts.values())
    assert 0 <= result["baseline"]["quality"]["value"] <= 1
    (facts,) = (
        json.loads(each.read_text())["facts"] for each in (folder / "study/artifacts").glob("distill-*/artifact.json")
    )
    runs = facts["runs"]
    assert [bool(runs[name]["error"]) for name in runs] == [False, False]
    assert [["score" in row for row in runs[name]["history"]] for name in ("winner-0", "baseline")] == [
        [True, True],
        [False, False],
    ]
