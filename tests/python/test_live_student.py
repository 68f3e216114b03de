"""A module of the program's own as the student."""

import math
import threading

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

import kdsearch
from kdsearch.errors import DataError, StudyError, TapError
from kdsearch.host import Host
from kdsearch.kinds import Model, Tap
from kdsearch.stages import search
from kdsearch.training.keys import part_of
from kdsearch.training.materials import open_materials
from kdsearch.training.opened import live_teacher
from tests.python.tiny_live import made, teacher, tiny


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
    images = np.random.default_rng(0).random((2, 1, 8, 8), "f4")
    (answers,) = session.run(None, {session.get_inputs()[0].name: images})
    assert result["student"]["paths"] == ["student"]
    again = kdsearch.load_model(tmp_path / "student", network=teacher(99, width=3))
    np.testing.assert_allclose(again.module(torch.from_numpy(images)).detach().numpy(), answers, rtol=1e-4, atol=1e-5)
    with pytest.raises(
        StudyError, match=r"network: it is made of 'Sequential', an object of the program that saved it"
    ):
        kdsearch.load_model(tmp_path / "student")
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())


def test_other_weights_are_another_student():
    one, same, other = (part_of(search, opened(teacher(seed, width=3))) for seed in (5, 5, 6))
    assert one == same
    assert one != other


def test_it_is_as_it_was_when_the_study_was_made():
    """What the program teaches it afterwards is of another study: its key would be the old one."""
    for as_given in (lambda net: net, lambda net: Model(net, ("image",), ())):
        own = teacher(5, width=3)
        study = tiny(student=as_given(own))
        with torch.no_grad():
            own[0].weight.add_(1.0)
        materials = open_materials(study, Host.load())
        built = materials.build_student("student", dict(materials.spaces["student"].region.fixed), 7)
        assert torch.equal(built.module[0].weight, teacher(5, width=3)[0].weight)


class Locked(nn.Sequential):
    def __init__(self, *parts):
        super().__init__(*parts)
        self.lock = threading.Lock()


def test_a_network_that_cannot_be_copied_or_has_no_weights_yet_is_named():
    with pytest.raises(DataError, match=r"student: Locked cannot be copied: .*lock.* Keep files, locks"):
        tiny(student=Locked(*teacher(5)))
    study = tiny(teacher=Locked(*teacher(5)))
    with pytest.raises(DataError, match=r"teacher: Locked cannot be copied"):
        live_teacher(open_materials(study, Host.load()), "main")
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    for role in ("student", "teacher"):
        with pytest.raises(StudyError, match=rf"{role}: weight '1.weight' has no shape yet. Run the network once"):
            tiny(**{role: lazy})


def test_a_model_with_taps_of_its_own_keeps_them():
    net = teacher(5, width=3)
    model = Model(net, ("image",), (Tap("stage[0]", "1", "map", (3, 8, 8), 1),), name="mine")
    materials = opened(model)
    built = materials.build_student("student", dict(materials.spaces["student"].region.fixed), 7)
    assert (built.name, built.tap("stage[0]").path) == ("mine", "1")


class Steps(nn.Module):
    """A digit read line by line: no stage, as it holds no map."""

    def __init__(self, width):
        super().__init__()
        self.read, self.head = nn.GRU(8, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, image):
        return self.head(self.read(image[:, 0])[0][:, -1])


class Volumes(nn.Module):
    """A digit as a volume of one slice."""

    def __init__(self):
        super().__init__()
        self.read, self.head = nn.Conv3d(1, 4, 3, padding=1), nn.Linear(4, 10)

    def forward(self, image):
        return self.head(self.read(image[:, :, None]).relu().mean((2, 3, 4)))


def test_one_network_needs_no_score(tmp_path):
    """`relation` reads stages, and there is nothing that it would rank."""
    studied = {"student": Steps(6), "teacher": Steps(8), "search": {}}
    materials = open_materials(tiny(**studied), Host.load())
    search.check(materials)
    facts = made(materials, tmp_path, "search")["search"]["roles"]["student"]
    assert facts["notes"] == []
    (kept,) = facts["kept"]
    assert kept["scores"]["relation"] is None
    assert kept["scores"]["params"] == pytest.approx(math.log(sum(each.numel() for each in Steps(6).parameters())))


def test_a_score_that_ranks_is_asked_for():
    materials = open_materials(tiny(student=Steps(6), search={}), Host.load())
    with pytest.raises(TapError, match="no stage"):
        search.scorer_with(materials, "student", search.scorer_of(materials, "student").proxies).check()


def test_a_network_of_volumes_is_distilled_from_another(tmp_path):
    materials = open_materials(tiny(student=Volumes(), teacher=Volumes(), search={"proxy": "params"}), Host.load())
    trained = made(materials, tmp_path, "distill")["distill"]["runs"]["winner-0"]
    assert trained["error"] == ""
    assert [math.isfinite(epoch["loss"]) for epoch in trained["history"]] == [True]


def test_a_network_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(DataError, match="student Sequential answers 4 a sample"):
        kdsearch.run(tiny(student=nn.Sequential(nn.Flatten(), nn.Linear(64, 4))), tmp_path, progress=False)
