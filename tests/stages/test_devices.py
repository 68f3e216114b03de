"""`run.devices`: a training shared by processes, whatever becomes of one of them."""

import json
from functools import partial
from types import SimpleNamespace

import psutil
import pytest

from kdsearch.errors import PluginError, StudyError, TrialError
from kdsearch.host import Host
from kdsearch.training.materials import make
from kdsearch.training.ranks import ranks_of
from tests.stages.tiny import LESS, run_tiny

TWO = ("run.devices=2", "recipe.train.accumulate=2", "teacher.options.accumulate=2", "refine.trials=1", "search.keep=1")


def materials(devices=2):
    run = SimpleNamespace(devices=devices)
    study = SimpleNamespace(config=SimpleNamespace(run=run))
    made = partial(make, Host.load())
    return SimpleNamespace(study=study, device=SimpleNamespace(accelerator="cpu"), make=made)


def work(helper, arguments=None, devices=2):
    """What this process is told in two rounds, as the first of the ranks."""
    with ranks_of(materials(devices), f"tests.stages.rank_helpers:{helper}", arguments or {}) as ranks:
        return ranks.told(0), ranks.told("again")


def children():
    return {each.pid for each in psutil.Process().children(recursive=True)}


def test_one_device_is_alone():
    assert work("never", devices=1) == ([0], ["again"])


def test_ranks_meet_and_part():
    before = children()
    assert work("told_twice", {"world": 3}, devices=3) == ([0, 1, 2], ["again"] * 3)
    assert children() <= before


@pytest.mark.parametrize(
    ("helper", "error", "says"),
    [
        ("dies_early", TrialError, "device 1: its process ended with exit code 3"),
        ("refuses_early", StudyError, "data.use: the study is gone"),
        ("dies_at_work", TrialError, "device 1: its process was killed by SIGKILL"),
        ("fails_at_work", TrialError, "term 'kd' is nan"),
    ],
)
def test_the_cause_is_told(helper, error, says):
    before = children()
    with pytest.raises(error, match=says):
        work(helper)
    assert children() <= before


def test_an_error_here_ends_the_others(tmp_path):
    def breaks():
        with ranks_of(materials(), "tests.stages.rank_helpers:waits_for_ever", {"pid": str(tmp_path / "pid")}) as ranks:
            ranks.told(0)
            raise PluginError("mine")

    with pytest.raises(PluginError, match="mine"):
        breaks()
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def losses_of(folder):
    (teacher,), (winner,) = (
        list((folder / "artifacts").glob(f"{stage}-*/artifact.json")) for stage in ("teacher", "distill")
    )
    runs = json.loads(winner.read_text())["facts"]["runs"]
    histories = [json.loads(teacher.read_text())["facts"]["history"], *(run["history"] for run in runs.values())]
    return [row["loss"] for history in histories for row in history]


def test_a_study_on_two_devices_is_that_of_one(tmp_path):
    """The teacher, the trial and the winner are each trained by two processes; only BatchNorm's averages differ."""
    two, one = (
        run_tiny(tmp_path / name, *LESS, *TWO, *more) for name, more in [("two", ()), ("one", ("run.devices=1",))]
    )
    assert two["provenance"]["devices"] == 2
    losses = [losses_of(tmp_path / name / "study") for name in ("two", "one")]
    assert [len(each) for each in losses] == [4, 4]  # two epochs of the teacher, two of the winner
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert two["student"]["accuracy"] == pytest.approx(one["student"]["accuracy"], abs=0.1)
    assert [each["format"] for each in two["exports"]] == ["onnx-fp32"]


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (("run.devices=2",), "recipe.train.accumulate: 1 micro-batches a step for 2 devices"),
        (
            ("run.devices=2", "recipe.train.accumulate=4"),
            "teacher.options.accumulate: 1 micro-batches a step for 2 devices",
        ),
    ],
)
def test_a_step_that_cannot_be_shared_is_refused(sets, says, tmp_path):
    with pytest.raises(StudyError, match=says):
        run_tiny(tmp_path, *LESS, *sets)
    assert not (tmp_path / "study").exists()
