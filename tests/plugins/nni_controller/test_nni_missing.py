"""The controller where NNI is not installed, and its search space as JSON, which needs no NNI."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
from kdsearch_plugins.nni_controller.axes import Axes, Axis
from kdsearch_plugins.nni_controller.library import quiet

from kdsearch.cli import main
from kdsearch.kinds import Dim, Range, Trial
from tests.stages.tiny import write_study


@pytest.mark.parametrize("verb", ["validate", "run"])
def test_a_study_that_needs_it_says_how_to_get_it_before_any_work(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "nni", None)  # as if it were not installed
    text = write_study(tmp_path).read_text(encoding="utf-8")
    file = write_study(tmp_path, text.replace("refine: {", "refine: {controller: nni, "))
    assert main([verb, str(file), *(("--dir", str(tmp_path / "study")) if verb == "run" else ())]) == 2
    line = next(i for i, each in enumerate(file.read_text("utf-8").splitlines(), 1) if "controller: nni" in each)
    said = capsys.readouterr().err
    assert f"tiny.yaml:{line}: refine.controller: NNI cannot be imported" in said
    assert 'pip install "kdsearch[nni]"' in said


def test_warnings_of_its_own_modules_alone_are_not_shown() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet():
            for module in ("nni", "nni.common.hpo_utils", "nnumpy", "nnix"):
                warnings.warn_explicit(module, UserWarning, "a.py", 1, module=module)
    assert [str(each.message) for each in seen] == ["nnumpy", "nnix"]


def test_its_options_are_shown_without_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "nni", None)
    assert main(["plugins", "show", "nni"]) == 0
    said = capsys.readouterr().out
    for each in ("TPE", "Evolution", "GridSearch", "weights"):
        assert each in said


@pytest.mark.parametrize(
    ("ranged", "json", "values"),
    [
        (Range(choices=("a", ("b", 2), None)), ("choice", [0, 1, 2]), {0: "a", 1: ("b", 2), 2: None}),
        (Range(choices=(True, 1)), ("choice", [0, 1]), {0: True, 1: 1}),
        (Range(choices=(16, 4, 64)), ("quniform", [-0.499, 2.499, 1]), {0: 4, 1: 16, 2: 64}),
        (Range(low=2, high=9, integer=True), ("quniform", [1.501, 9.499, 1]), {2: 2, 9: 9}),
        (Range(low=1, high=9, integer=True, log=True), ("qloguniform", [0.501, 9.499, 1]), {1: 1, 5: 5}),
        (Range(low=0.1, high=0.3), ("uniform", [0.1, 0.3]), {0.1: 0.1, 0.25: 0.25}),
        (Range(low=0.1, high=10.0, log=True), ("loguniform", [0.1, 10.0]), {0.1: 0.1, 7.0: 7.0}),
        (Range(low=3.0, high=3.0), ("choice", [0]), {0: 3.0}),
    ],
)
def test_an_axis_leads_there_and_back(ranged: Range, json: tuple, values: dict) -> None:
    axis = Axis(Dim("a", ranged), is_home=False, ordered=True)
    assert axis.json["_type"] == json[0]
    assert axis.json["_value"] == pytest.approx(json[1])
    for inner, value in values.items():
        assert axis.inner(value) == inner
        assert axis.outer(inner) == value
        assert type(axis.outer(float(inner))) is type(value)
    assert axis.inner("elsewhere") is None
    assert axis.inner(-1e9) is None


def test_a_number_that_was_rounded_an_end_away_is_put_back() -> None:
    assert Axis(Dim("a", Range(low=0.1, high=0.3)), False, True).outer(0.30000000000000004) == 0.3
    assert Axis(Dim("a", Range(low=1, high=3, integer=True)), False, True).outer(3.499) == 3


CONDITIONED = (
    Dim("loss", Range(choices=("kd", "dkd", "none"))),
    Dim("t", Range(low=1.0, high=8.0), when=(("loss", ("kd", "dkd")),)),
    Dim("warm", Range(choices=(False, True)), when=(("loss", ("dkd",)),)),
    Dim("epochs", Range(low=1, high=3, integer=True), when=(("warm", (True,)),)),
)
T = {"t": {"_type": "uniform", "_value": [1.0, 8.0]}}
DKD = {**T, "warm": {"_type": "choice", "_value": [0, 1]}, "epochs": {"_type": "quniform", "_value": [0.501, 3.499, 1]}}


def test_conditions_are_nested_choices_one_level_deep() -> None:
    axes = Axes(None, CONDITIONED, ordered=True)
    nested = [{"_name": "0", **T}, {"_name": "1", **DKD}, {"_name": "2"}]
    assert axes.json == {"loss": {"_type": "choice", "_value": nested}}


@pytest.mark.parametrize(
    ("values", "parameters"),
    [
        ({"loss": "none"}, {"_name": "2"}),
        ({"loss": "kd", "t": 4.0}, {"_name": "0", "t": 4.0}),
        ({"loss": "dkd", "t": 2.0, "warm": False}, {"_name": "1", "t": 2.0, "warm": 0, "epochs": 1}),
        ({"loss": "dkd", "t": 2.0, "warm": True, "epochs": 3}, {"_name": "1", "t": 2.0, "warm": 1, "epochs": 3}),
    ],
)
def test_candidates_lead_there_and_back(values: dict, parameters: dict) -> None:
    axes = Axes(None, CONDITIONED, ordered=True)
    assert axes.parameters(Trial(0, values)) == {"loss": parameters}
    ask = axes.asked({"loss": parameters})
    assert ask is not None
    assert dict(ask.values) == values


def test_what_is_not_searched_now_has_no_parameters() -> None:
    axes = Axes(None, CONDITIONED, ordered=True)
    for values in ({"loss": "sp"}, {"loss": "kd"}, {"loss": "kd", "t": 9.0}, {}):
        assert axes.parameters(Trial(0, values)) is None
