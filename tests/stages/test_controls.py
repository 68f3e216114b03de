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
from kdsearch.kinds import HIDDEN
from kdsearch.study import load_study
from kdsearch.study.summary import left_out
from kdsearch.testing.training import TensorSource
from kdsearch.training.controls import check_controls
from tests.stages.tiny import write_study


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
