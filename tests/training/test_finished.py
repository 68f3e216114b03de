"""A finished training is loaded from its weights; fresh models are of the candidate's architecture."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdsearch.builtin.channels.pruner import _described
from kdsearch.engine.cache import Live
from kdsearch.errors import ArtifactError, PluginError
from kdsearch.host import Host
from kdsearch.kinds import Graph, NoOptions, Phase, Procedure, Product, Update
from kdsearch.store.weights import write
from kdsearch.study import load_study
from kdsearch.training.built import FINAL
from kdsearch.training.finished import keep_finished, load_finished
from kdsearch.training.materials import open_materials
from kdsearch.training.request import Request
from kdsearch.training.train import pruned, train
from tests.stages.tiny import LESS, write_study

SPEC = {"depths": [2, 1, 1], "widths": [4, 8, 8]}


class Wide(nn.Module):
    """A net under a head of its own."""

    def __init__(self, net):
        super().__init__()
        self.net, self.head = net, nn.Linear(10, 10)

    def forward(self, x):
        return self.head(self.net(x))


class Adapting(Procedure[NoOptions]):
    """Puts a head on the student; keeps two fresh ones."""

    def adapt(self, role, model, setup):
        model.module = Wide(model.module)
        model.taps = ()
        return model

    def phases(self, setup):
        self.twins = [setup.fresh("student"), setup.fresh("student")]

        def step(s):
            yield Update({"task": s.task()})

        yield Phase(
            "one", step, {"train": setup.feed("train")}, [setup.optim({"s": setup.models["student"].module})], 1
        )


class Growing(Adapting):
    def phases(self, setup):
        yield from super().phases(setup)
        setup.models["student"].module.second = nn.Linear(3, 4)


class Producing(Adapting):
    def product(self, setup):
        self.twins  # noqa: B018 - made in `phases`
        net = setup.models["student"].module
        return Product(
            {"own": Graph(net, setup.io.inputs, setup.io.outputs)}, lambda calls, batch: calls["own"](batch["image"])
        )


def materials_of(tmp_path, procedure=None, *sets):
    host, asked = Host.load(), list(LESS)
    if procedure is not None:
        host = host.with_classes({("procedure", "mine"): procedure})
        asked.append("recipe.procedure={use: mine}")
    return open_materials(load_study(write_study(tmp_path), host, sets=(*asked, *sets)), host)


def request(materials, **changes):
    values = materials.recipe.default()
    return Request(
        **{"name": "one", "kind": "recipe", "specs": {"student": SPEC}, "values": values, "epochs": 1, **changes}
    )


def taught(materials):
    net = materials.build_member("cifar_resnet", {"depths": [1, 1, 1], "widths": [8, 8, 16]})
    return {"main": Live(net, materials.task, None)}


def state(model):
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def same(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_weights_alone_are_read(tmp_path, monkeypatch):
    materials = materials_of(tmp_path / "study")
    outcome, setup, _ = train(materials, request(materials), tmp_path / "work", taught(materials))
    assert outcome.done
    assert set(outcome.scales) == {"task", "kd.kl"}
    expected = state(setup.models["student"])
    keep_finished(tmp_path / "work", tmp_path / "kept")
    assert [file.name for file in (tmp_path / "kept").iterdir()] == [FINAL]
    monkeypatch.setattr("kdsearch.training.train._distiller", None)
    monkeypatch.setattr("kdsearch.training.finished.train", None)
    found = load_finished(materials, request(materials), tmp_path / "kept")
    assert same(state(found.model), expected)
    assert not any(part.training for part in found.model.module.modules())
    assert list(found.product().graphs) == ["model"]


def test_another_request_or_no_end_is_refused(tmp_path):
    materials = materials_of(tmp_path / "study")
    train(materials, request(materials), tmp_path / "work", taught(materials))
    with pytest.raises(ArtifactError, match="another study or recipe"):
        load_finished(materials, request(materials, epochs=2), tmp_path / "work")
    half = request(materials, epochs=2, until=0.5)
    outcome, _, _ = train(materials, half, tmp_path / "half", taught(materials))
    assert not outcome.done
    assert not (tmp_path / "half" / FINAL).exists()
    with pytest.raises(ArtifactError, match="not finished"):
        load_finished(materials, half, tmp_path / "half", taught(materials))


def test_fresh_models_are_of_the_candidates_architecture(tmp_path):
    materials = materials_of(tmp_path / "study", Adapting)
    _, setup, procedure = train(materials, request(materials), tmp_path / "work", taught(materials))
    student = state(setup.models["student"])
    shapes = {name: tensor.shape for name, tensor in student.items()}
    first, second = (state(each) for each in procedure.twins)
    for twin in (first, second):
        assert {name: tensor.shape for name, tensor in twin.items()} == shapes
    assert not same(first, second)
    assert not torch.equal(first["head.weight"], second["head.weight"])
    _, _, again = train(materials, request(materials), tmp_path / "again", taught(materials))
    assert all(same(state(a), state(b)) for a, b in zip(procedure.twins, again.twins, strict=True))
    with pytest.raises(PluginError, match=r"role 'studant' has no architecture.*did you mean 'student'"):
        setup.fresh("studant")


def test_what_adapt_draws_is_the_trainings_own(tmp_path):
    """It drew from the process's global stream: another result in each process."""
    materials = materials_of(tmp_path / "study", Adapting)
    heads = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        _, setup, _ = train(materials, request(materials, epochs=1), tmp_path / str(seed), taught(materials))
        heads.append(setup.models["student"].module.head.weight)
    assert torch.equal(*heads)


def test_an_adapted_and_pruned_student_goes_on_from_its_weights(tmp_path):
    materials = materials_of(tmp_path / "study", Adapting, "compress.prune={use: channels, options: {macs: 0.8}}")
    _, setup, _ = train(materials, request(materials), tmp_path / "work", taught(materials))
    plan = {"edits": {"inputs": _described([materials.io.input("image")]), "steps": []}}
    cut = pruned(materials, setup.models["student"].copy(), [plan])
    write(tmp_path / "cut.safetensors", cut.module.state_dict())
    again = request(
        materials, kind="recover", start={"student": str(tmp_path / "cut.safetensors")}, plans={"student": [plan]}
    )
    _, recovered, _ = train(materials, again, tmp_path / "recover", taught(materials))
    assert isinstance(recovered.models["student"].module, Wide)
    assert same(state(load_finished(materials, again, tmp_path / "recover").model), state(recovered.models["student"]))


@pytest.mark.parametrize("procedure", [Growing, Producing])
def test_what_weights_do_not_say_is_run_through_its_phases(procedure, tmp_path):
    materials = materials_of(tmp_path / "study", procedure)
    _, setup, _ = train(materials, request(materials), tmp_path / "work", taught(materials))
    keep_finished(tmp_path / "work", tmp_path / "kept")
    assert not (tmp_path / "kept" / FINAL).exists()
    found = load_finished(materials, request(materials), tmp_path / "kept", taught(materials))
    net, own = found.model.module, setup.models["student"].module
    assert same(dict(net.net.state_dict()), dict(own.net.state_dict()))
    assert list(found.product().graphs) == (["own"] if procedure is Producing else ["model"])
