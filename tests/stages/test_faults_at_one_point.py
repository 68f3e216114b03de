"""What a method says against one point of what is searched costs the trials there, and not the study."""

from __future__ import annotations

from typing import Any

import pytest

from kdsearch.errors import TrialError
from kdsearch.host import Host
from kdsearch.kinds import Trial
from kdsearch.stages.trial_facts import winners
from tests.stages import bad_plugin
from tests.stages.tiny import LESS, TEXT, events, run_tiny

KD = "- {use: kd, weight: search, options: {temperature: search}}"
ALL_POINTS = ("refine.controller={use: exhaustive}", "recipe.train.lr=0.002")


@pytest.fixture
def host() -> Host:
    return Host.load(extra=[("bad", bad_plugin)])


def ends(folder: Any) -> dict[str, str]:
    """State -> the words of the last trial that ended so."""
    return {each["state"]: each["error"] for each in events(folder, "trial")}


def test_an_option_that_does_not_fit(host, tmp_path):
    text = TEXT.replace(KD, "- {use: subclasses, weight: search, options: {subclasses: {choices: [5, 40]}}}")
    sets = (*LESS, *ALL_POINTS, "recipe.distillers[0].weight=1.0", "refine.trials=2", "search.keep=1")
    result = run_tiny(tmp_path, *sets, host=host, text=text)
    found = ends(tmp_path)
    said = "40 subclasses. Expected at most 16, the width of the vector that they are cut from."
    assert found["failed"] == f"recipe.distillers[0]: distiller 'subclasses': {said}"
    assert found["complete"] == ""
    assert result["student"]["recipe"]["distillers"][0]["options"]["subclasses"] == 5


def test_options_whose_weightings_cannot_be_scored(host, tmp_path):
    text = TEXT.replace(KD, "- {use: subclasses, weight: search, options: {subclasses: {choices: [5, 40]}}}")
    result = run_tiny(tmp_path, *LESS, "refine.weightings=true", "recipe.train.lr=0.002", host=host, text=text)
    assert result["student"]["recipe"]["distillers"][0]["options"]["subclasses"] == 5


def test_a_tap_that_one_candidate_has(tmp_path):
    """The second block of the first stage, of students of one or two blocks; and a teacher's tap that one choice of it names."""
    hint = "{student_tap: 'module:stages.0.1.relu2', teacher_tap: {choices: ['stage[0]', 'stage[9]']}}"
    text = TEXT.replace(KD, f"- {{use: fitnet, options: {hint}}}")
    depths = "student.spec.depths={choices: [[1, 1, 1], [2, 1, 1]]}"
    widths = "student.spec.widths=[4, 4, 8]"
    sets = (*LESS, *ALL_POINTS, depths, widths, "search.candidates=2", "refine.trials=4")
    result = run_tiny(tmp_path, *sets, text=text)
    trials = events(tmp_path, "trial")
    words = sorted(each["error"] for each in trials if each["state"] == "failed")
    assert len(words) == 3
    assert any("tap 'module:stages.0.1.relu2' matches 0 modules of 'cifar_resnet" in each for each in words)
    assert any("tap 'stage[9]': 'cifar_resnet" in each for each in words), words
    assert [each["state"] for each in trials].count("complete") == 1
    assert result["student"]["recipe"]["distillers"][0]["options"]["teacher_tap"] == "stage[0]"
    assert '"depths":[2,1,1]' in result["student"]["architecture"]


def test_all_that_fail_say_what_the_first_one_failed_of():
    history = [Trial(i, {}, state="failed", error=text) for i, text in enumerate(["zeta", "alpha"])]
    with pytest.raises(TrialError, match="all 2 trials failed; the first: zeta"):
        winners(None, history, 1)
