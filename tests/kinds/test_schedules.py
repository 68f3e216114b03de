"""Learning-rate schedules are torch's, as functions of progress."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as torchs

from kdsearch.engine.optim import scheduled
from kdsearch.errors import StudyError
from kdsearch.kinds import Optim, Schedule
from kdsearch.study import load_study

STEPS = 40


def factors(make):
    """What torch's scheduler makes of a rate of 1, at every step."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of SequentialLR
        schedule, found = make(optimiser), []
        for _ in range(STEPS):
            found.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.step()
    return found


def warmed(optimiser, n=10, start=0.2):
    rise = torchs.LinearLR(optimiser, start_factor=start, total_iters=n)
    fall = torchs.CosineAnnealingLR(optimiser, STEPS - n)
    return torchs.SequentialLR(optimiser, [rise, fall], [n])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Schedule("constant"), lambda o: torchs.ConstantLR(o, 1.0)),
        (Schedule("cosine"), lambda o: torchs.CosineAnnealingLR(o, STEPS)),
        (Schedule("cosine", end=0.2), lambda o: torchs.CosineAnnealingLR(o, STEPS, eta_min=0.2)),
        (Schedule("linear", end=0.3), lambda o: torchs.LinearLR(o, 1.0, 0.3, STEPS)),
        (Schedule("polynomial", power=2.5), lambda o: torchs.PolynomialLR(o, STEPS, 2.5)),
        (Schedule("step", at=(0.25, 0.5), factor=0.3), lambda o: torchs.MultiStepLR(o, [10, 20], 0.3)),
        (
            Schedule("cyclic", cycles=4, low=0.1),
            lambda o: torchs.CyclicLR(o, 0.1, 1.0, step_size_up=5, cycle_momentum=False),
        ),
        (Schedule("cosine", warmup=0.25, start=0.2), warmed),
    ],
    ids=lambda each: each.kind if isinstance(each, Schedule) else "",
)
def test_a_schedule_is_torchs(ours, theirs):
    assert [ours(i / STEPS) for i in range(STEPS)] == pytest.approx(factors(theirs), abs=1e-6)


@given(
    st.sampled_from(["constant", "cosine", "linear", "polynomial", "step", "cyclic"]),
    st.floats(0, 0.9),
    st.floats(0, 1, exclude_max=True),
)
def test_a_factor_is_never_negative_nor_above_the_peak(kind, warmup, progress):
    assert 0 <= Schedule(kind, warmup=warmup)(progress) <= 1 + 1e-12


def test_names_and_functions_will_do():
    assert scheduled(Optim({}, schedule="cosine"), 0.5) == pytest.approx(0.5)
    assert scheduled(Optim({}, schedule=lambda p: 3 * p), 0.5) == 1.5


STUDY = """\
data: digits
student: {{space: cifar_resnet}}
recipe:
  distillers: []
  train:
    schedule: {schedule}
"""


def loaded(folder, schedule):
    file = folder / "study.yaml"
    file.write_text(STUDY.format(schedule=schedule))
    return load_study(file)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            "{kind: step, power: 2.0}",
            r"study.yaml:6: recipe.train.schedule.power: 'step' reads no 'power'. Expected at, factor, start or warmup",
        ),
        ("{kind: cosine, start: 0.1}", "recipe.train.schedule.start: a start without a warm-up"),
        ("{kind: cosin}", "did you mean 'cosine'"),
        ("cosin", "did you mean 'cosine'"),
        ("{kind: step, at: [1.5]}", r"recipe.train.schedule.at\[0\]: got 1.5"),
        ("{warmup: 0.1}", "recipe.train.schedule.kind: is missing"),
    ],
)
def test_what_a_kind_does_not_read_is_refused(schedule, message, tmp_path):
    with pytest.raises(StudyError, match=message):
        loaded(tmp_path, schedule)


def test_a_study_with_a_schedule_reads_itself(tmp_path):
    study = loaded(tmp_path, "{kind: step, at: [0.4], warmup: 0.1}")
    (tmp_path / "again.yaml").write_text(study.resolved_yaml())
    assert load_study(tmp_path / "again.yaml").config.recipe == study.config.recipe
    assert loaded(tmp_path, "linear").config.recipe.train.schedule.kind == "linear"
