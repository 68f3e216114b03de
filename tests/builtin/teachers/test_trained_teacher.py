import pytest
from kdsearch_spaces.cifar_resnet.space import CifarResNetSpace

from kdsearch.builtin.teachers.trained import Trained, TrainedOptions
from kdsearch.errors import StudyError
from kdsearch.kinds import IO, Field
from kdsearch.kinds.options import validate

FIELDS = IO((Field("image", "image", (1, 8, 8)),), (Field("logits", "logits", (10,)),))


class Doors:
    def build(self, space, spec):
        assert space == "cifar_resnet"
        found = CifarResNetSpace()
        return found.build(found.parse(spec), FIELDS)


def test_a_member_of_the_space_with_its_own_training():
    raw = {"spec": {"depths": [1, 2, 1], "widths": [4, 8, 16]}, "epochs": 3, "labels": "given", "lr": 0.1}
    teacher = Trained(validate(TrainedOptions, {**raw, "optimizer": "sgd"}))
    model = teacher.model(FIELDS, Doors())
    assert len(model.blocks) == 4
    training = teacher.training
    assert (training.epochs, training.labels, training.lr, training.optimizer) == (3, "given", 0.1, "sgd")


def test_a_misspelt_spec_is_named():
    with pytest.raises(StudyError, match="did you mean 'depths'"):
        Trained(validate(TrainedOptions, {"spec": {"depth": [1, 1, 1]}})).model(FIELDS, Doors())
