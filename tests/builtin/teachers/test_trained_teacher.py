from pathlib import Path
from typing import ClassVar

import pytest
from teacher_doors import FIELDS, SPEC, site

from kdsearch.builtin.teachers.trained import Trained, TrainedOptions
from kdsearch.errors import StudyError
from kdsearch.kinds.options import validate
from kdsearch.testing.teacher import TeacherContract


class TestTrained(TeacherContract):
    teacher = Trained
    options: ClassVar = {"spec": SPEC, "epochs": 3}

    def services(self):
        return site(Path())


def test_its_training_is_the_study_s():
    raw = {"spec": SPEC, "epochs": 3, "labels": "given", "lr": 0.1, "optimizer": "sgd", "batch_size": 7}
    training = Trained(validate(TrainedOptions, raw)).training
    assert (training.epochs, training.labels, training.lr) == (3, "given", 0.1)
    assert (training.optimizer, training.batch_size) == ("sgd", 7)


def test_a_misspelt_spec_is_named():
    with pytest.raises(StudyError, match="did you mean 'depths'"):
        Trained(validate(TrainedOptions, {"spec": {"depth": [1, 1, 1]}})).model(FIELDS, site(Path()))
