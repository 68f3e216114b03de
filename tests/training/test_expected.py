"""What a study expects of its teacher, by any metric that is measured of it: in that metric's unit and direction."""

from __future__ import annotations

from typing import Any

import pytest

from kdsearch.errors import StudyError
from kdsearch.stages import export
from kdsearch.stages.quality import Quality
from kdsearch.stages.run import run_stages
from kdsearch.store.artifacts import Store
from kdsearch.store.folder import Events, open_folder
from kdsearch.training.normalize import check_expectable, check_expected
from kdsearch.training.tools import Progress, Tools
from tests.stages.test_keys import materials

ACCURACY = Quality("accuracy", 0.8, "max", "share", (0.75, 0.84), 270)
LOSS = Quality("nll", 0.5, "min", "nats", (0.4, 0.6), 270)


def check(*sets: str, **qualities: Quality) -> None:
    found = {name: each.as_json() for name, each in qualities.items()}
    check_expected(materials(*sets), "main", found, None)


@pytest.mark.parametrize("value", [0.5, 0.8, 0.84])
def test_what_its_interval_reaches_is_enough(value: float) -> None:
    check(f"teacher.expected={{accuracy: {value}}}", accuracy=ACCURACY)


@pytest.mark.parametrize("value", [0.9, 0.5, 0.4])
def test_lower_is_better_where_the_metric_says_so(value: float) -> None:
    check(f"teacher.expected={{nll: {value}}}", accuracy=ACCURACY, nll=LOSS)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            "{accuracy: 0.85}",
            r"teacher 'main' has accuracy 0.8 on 270 validation samples \(0.75 to 0.84\). Expected 0.85.",
        ),
        (
            "{nll: 0.39}",
            r"teacher 'main' has nll 0.5 nats on 270 validation samples \(0.4 to 0.6\). Expected 0.39 or less.",
        ),
        ("{accuracy: 0.1, nll: 0.3}", "has nll 0.5"),
    ],
)
def test_one_that_is_clearly_worse_is_refused(sets: str, message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        check(f"teacher.expected={sets}", accuracy=ACCURACY, nll=LOSS)
    assert caught.value.path.startswith("teacher.expected.")
    assert caught.value.exit_code == 2


def test_without_an_interval_the_value_decides() -> None:
    plain = Quality("accuracy", 0.8, "max", "share")
    check("teacher.expected={accuracy: 0.8}", accuracy=plain)
    with pytest.raises(StudyError, match=r"has accuracy 0.8 on the validation split\. Expected 0\.81"):
        check("teacher.expected={accuracy: 0.81}", accuracy=plain)


def test_a_teacher_that_does_not_answer_the_task_has_no_value() -> None:
    with pytest.raises(StudyError, match="the teacher's accuracy is not measured: it does not answer the task"):
        check("teacher.expected={accuracy: 0.8}")


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (("teacher.expected={acuracy: 0.5}",), "did you mean 'accuracy'"),
        (("teacher.expected={f1: 0.5}", "objectives={nll: min}"), "Expected accuracy or nll."),
    ],
)
def test_a_metric_that_is_not_measured_is_said_before_any_work(sets: tuple[str, ...], expected: str) -> None:
    with pytest.raises(StudyError, match="is not measured of teachers") as caught:
        check_expectable(materials(*sets), "main")
    assert expected in str(caught.value)
    check_expectable(materials("teacher.expected={accuracy: 0.5, nll: 1}", "objectives={nll: min}"), "main")


@pytest.mark.parametrize(("value", "fix"), [(85, "write 0.85"), (1.5, "write 0.015"), (850, "a share of 0 to 1.")])
def test_per_cent_of_a_share_is_said_before_any_work(value: float, fix: str) -> None:
    with pytest.raises(StudyError, match=f"got {value}. It is a share of 0 to 1") as caught:
        check_expectable(materials(f"teacher.expected={{accuracy: {value}}}"), "main")
    assert fix in str(caught.value)
    assert caught.value.path == "teacher.expected.accuracy"
    check_expectable(materials("teacher.expected={nll: 2.5}", "objectives={nll: min}"), "main")
    check_expectable(materials("teacher.expected={accuracy: 1}"), "main")


def test_a_drop_in_points_would_let_every_file_pass() -> None:
    export.check(materials("export.max_drop={onnx-int8: 1.0}"))
    export.check(materials("export.max_drop={onnx-int8: 2.5}", "objectives={nll: min}"))
    export.check(materials("export.max_drop={onnx-int8: 2%}"))
    with pytest.raises(StudyError, match=r"max_drop.onnx-int8: got 2 of accuracy. It is a share of 0 to 1: write 0.02"):
        export.check(materials("export.max_drop={onnx-int8: 2}"))


def test_both_are_measured(prepared_by_nll: dict[str, Any]) -> None:
    """The objective, and accuracy since each sample has a class."""
    accuracy, loss = (prepared_by_nll[name] for name in ("accuracy", "nll"))
    assert 0 < accuracy["interval"][0] <= accuracy["value"] <= accuracy["interval"][1] <= 1
    assert loss["interval"][0] < loss["value"] < loss["interval"][1]
    assert (loss["direction"], loss["unit"]) == ("min", "nats")


@pytest.fixture
def prepared_by_nll(tmp_path: Any) -> dict[str, Any]:
    found = materials("objectives={nll: min}", "teacher.options.epochs=1")
    open_folder(tmp_path)
    tools = Tools(Store(tmp_path), Events(tmp_path / "events.jsonl", lambda event: None), tmp_path, Progress(False))
    made = run_stages(found, tools, "prepare")["prepare"]
    facts: dict[str, Any] = made.facts["teachers"]["main"]["validation"]
    return facts
