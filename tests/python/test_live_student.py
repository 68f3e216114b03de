"""A module of the program's own as the student."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

import kdsearch
from kdsearch.errors import DataError
from kdsearch.host import Host
from kdsearch.kinds import Model, Tap
from kdsearch.stages import search
from kdsearch.training.keys import part_of
from kdsearch.training.materials import open_materials
from tests.python.tiny_live import teacher, tiny


def opened(student):
    return open_materials(tiny(student=student), Host.load())


def test_it_is_distilled_from_the_weights_that_it_has_and_stays_as_it_was(tmp_path):
    own = teacher(5, width=3)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    built = opened(own).build_student("student", dict(opened(own).spaces["student"].region.fixed), 7)
    for name, tensor in built.module.state_dict().items():
        assert torch.equal(tensor, before[name])
    recipe = {"distillers": [], "train": {"batch_size": 16, "lr": 0.01}}
    study = tiny(student=own, recipe=recipe, distill={"epochs": 5, "controls": ["baseline"]})
    result = kdsearch.run(study, tmp_path, progress=False)
    assert '"network":"Sequential"' in result["student"]["architecture"]
    assert result["student"]["params"] == sum(each.numel() for each in own.parameters())
    assert result["student"]["accuracy"] > 0.5
    session = ort.InferenceSession(tmp_path / result["exports"][0]["path"])
    assert session.run(None, {session.get_inputs()[0].name: np.zeros((2, 1, 8, 8), "f4")})[0].shape == (2, 10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())


def test_other_weights_are_another_student():
    one, same, other = (part_of(search, opened(teacher(seed, width=3))) for seed in (5, 5, 6))
    assert one == same
    assert one != other


def test_a_model_with_taps_of_its_own_keeps_them():
    net = teacher(5, width=3)
    model = Model(net, ("image",), (Tap("stage[0]", "1", "map", (3, 8, 8), 1),), name="mine")
    materials = opened(model)
    built = materials.build_student("student", dict(materials.spaces["student"].region.fixed), 7)
    assert (built.name, built.tap("stage[0]").path) == ("mine", "1")


def test_a_network_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(DataError, match="student Sequential answers 4 a sample"):
        kdsearch.run(tiny(student=nn.Sequential(nn.Flatten(), nn.Linear(64, 4))), tmp_path, progress=False)
