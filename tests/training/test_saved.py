"""A pruned network is there again in a fresh process, from JSON and safetensors alone; what does not fit is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kdsearch_spaces.cifar_resnet.space import CifarResNetSpace
from torch import nn
from torch.nn.utils import weight_norm

import kdsearch
from kdsearch.builtin.channels.pruner import Channels, ChannelsOptions
from kdsearch.errors import ArtifactError, StudyError, UnsafeCodeError
from kdsearch.host import Host
from kdsearch.kinds import IO, Batch, Field, Model
from kdsearch.store.artifacts import SEAL, sealed
from kdsearch.testing.compressor import HandSubject
from kdsearch.training.materials import seeded_build

FIELDS = IO((Field("image", "image", (3, 16, 16)),), (Field("logits", "logits", (4,)),))
CODE = "tests.training.test_saved:network"


def network(width=12, act=nn.ReLU):
    return nn.Sequential(nn.Conv2d(3, width, 3), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))


def normed():
    """What torch's older weight norm computes is kept with its graph, which torch does not copy."""
    first = weight_norm(nn.Conv2d(3, 8, 3))
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 12, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4))


def pruned(model):
    batch = Batch(("a", "b"), {"image": torch.randn(2, 3, 16, 16), "label": torch.tensor([0, 1])})
    plans = []
    for share in (0.8, 0.6):
        pruner = Channels(ChannelsOptions(macs=share, round_to=1))
        plans.append(("channels", pruner.plan(HandSubject(0, Path(), model=model, io=FIELDS, batch=batch))))
        model = pruner.apply(model, plans[-1][1])
    return model, plans


def member():
    space = Host.load().load_class("search_space", "cifar_resnet")()
    spec = space.sample(torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    return space.build(spec, FIELDS), spec.model_dump(mode="json")


def test_a_member_of_a_space_is_there_in_a_fresh_process(tmp_path):
    model, spec = member()
    small, history = pruned(model)
    kdsearch.save_model(small, tmp_path / "small", space="cifar_resnet", spec=spec, io=FIELDS, history=history)
    assert sorted(each.name for each in (tmp_path / "small").iterdir()) == ["model.json", "weights.safetensors"]
    x = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    program = (
        "import sys, torch, kdsearch\n"
        "def none(*_, **__): raise SystemExit('unpickled')\n"
        "import pickle; pickle.load = pickle.loads = torch.load = none\n"
        f"model = kdsearch.load_model({str(tmp_path / 'small')!r})\n"
        "x = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)\n"
        "print(model.module(x).double().sum().item(), model.cost().macs, [list(each.shape) for each in model.taps])\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    own = small.module.eval()(x).double().sum().item()
    assert told == f"{own} {small.cost().macs} {[list(each.shape) for each in small.taps]}\n"


def test_code_is_run_where_it_is_allowed_only(tmp_path):
    model = Model(network(), ("image",))
    small, history = pruned(model)
    with pytest.raises(UnsafeCodeError):
        kdsearch.save_model(small, tmp_path, code=CODE, arguments={"width": 12}, history=history)
    assert list(tmp_path.iterdir()) == []
    kdsearch.save_model(small, tmp_path, code=CODE, arguments={"width": 12}, history=history, allow_code=[CODE])
    with pytest.raises(UnsafeCodeError, match="--allow-code"):
        kdsearch.load_model(tmp_path)
    again = kdsearch.load_model(tmp_path, allow_code=[CODE])
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(again.module(x), small.module.eval()(x))
    assert (again.inputs, again.outputs) == (small.inputs, small.outputs)


def test_numbers_in_their_own_units_are_read_and_answered_as_before(tmp_path):
    read = Field("features", "vector", (4,), mean=(10.0, 20.0, 30.0, 40.0), std=(1.0, 2.0, 3.0, 4.0))
    io = IO((read,), (Field("value", "value", (1,), mean=(100.0,), std=(7.0,)),))
    space = Host.load().load_class("search_space", "mlp")()
    model = seeded_build(space, space.sample(torch.Generator().manual_seed(0)), io, 0)
    kdsearch.save_model(model, tmp_path, space="mlp", io=io)
    x = torch.tensor([[10.0, 21.0, 33.0, 40.0]])
    answer = kdsearch.load_model(tmp_path).module(x)
    assert torch.equal(answer, model.module.eval()(x))
    assert 80 < float(answer.detach()) < 120


def test_a_network_of_equal_weights_that_answers_otherwise_is_refused(tmp_path):
    model, spec = member()
    model.module.register_forward_hook(lambda module, args, out: 2 * out)
    with pytest.raises(StudyError, match="make another network: logits"):
        kdsearch.save_model(model, tmp_path / "a", space="cifar_resnet", spec=spec, io=FIELDS)
    assert not (tmp_path / "a").exists()


class Wide(CifarResNetSpace):
    """A search space that is registered nowhere."""


def test_a_network_of_what_has_no_name_is_built_of_that_again(tmp_path):
    """Of a search space, and cut, of a module, whose own weights do not count."""
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    member_of, spec = member()
    own = network()
    small, history = pruned(Model(own, ("image",), name="mine"))
    for name, model, given, again, more in (
        ("space", member_of, Wide, Wide(), {"spec": spec}),
        ("module", small, own, network(), {"spec": {}, "history": history}),
    ):
        kdsearch.save_model(model, tmp_path / name, network=given, io=FIELDS, **more)
        for each in (given, again):
            found = kdsearch.load_model(tmp_path / name, network=each)
            assert torch.equal(found.module(x), model.module.eval()(x))
        with pytest.raises(StudyError, match="an object of the program that saved it"):
            kdsearch.load_model(tmp_path / name)
    with pytest.raises(ArtifactError):
        kdsearch.load_model(tmp_path / "module", network=network(6))


def test_what_makes_another_network_is_refused_before_it_is_written(tmp_path):
    small, history = pruned(Model(network(), ("image",)))
    with pytest.raises(StudyError, match=r"make another network: 0\.bias, 0\.weight"):
        kdsearch.save_model(small, tmp_path / "a", code=CODE, history=history[:1], allow_code=[CODE])
    with pytest.raises(StudyError, match=r"model: got Sequential\. Expected a kdsearch\.kinds\.Model"):
        kdsearch.save_model(network(), tmp_path / "a", code=CODE, allow_code=[CODE])
    with pytest.raises(StudyError, match="nobody knows how to build"):
        kdsearch.save_model(small, tmp_path / "a", space="cifar_resnet")
    assert not (tmp_path / "a").exists()


def test_damage_is_named(tmp_path):
    small, history = pruned(Model(network(), ("image",)))
    kdsearch.save_model(small, tmp_path, code=CODE, history=history, allow_code=[CODE])
    weights, about = tmp_path / "weights.safetensors", tmp_path / "model.json"
    good = weights.read_bytes()
    weights.write_bytes(good[:-4] + b"\0\0\0\1")
    with pytest.raises(ArtifactError, match=r"weights\.safetensors: has changed"):
        kdsearch.load_model(tmp_path, allow_code=[CODE])
    weights.write_bytes(good)
    found = json.loads(about.read_text())
    found["history"][0]["plan"]["edits"]["steps"][0]["remove"][0]["index"] = [0]
    about.write_text(json.dumps(found))
    with pytest.raises(ArtifactError, match=r"model\.json: has changed"):
        kdsearch.load_model(tmp_path, allow_code=[CODE])
    about.write_text(json.dumps(sealed({**{k: v for k, v in found.items() if k != SEAL}, "format": 2})))
    with pytest.raises(ArtifactError, match=r"model\.json: format 2"):
        kdsearch.load_model(tmp_path, allow_code=[CODE])
    weights.unlink()
    with pytest.raises(ArtifactError, match=r"weights\.safetensors: is not there"):
        kdsearch.load_model(tmp_path, allow_code=[CODE])


def test_a_plan_of_another_network_does_not_fit(tmp_path):
    small, history = pruned(Model(network(), ("image",)))
    wider = [(name, replace(plan)) for name, plan in history]
    with pytest.raises(ArtifactError, match="a plan of 'channels' does not fit"):
        kdsearch.save_model(small, tmp_path, code=CODE, arguments={"width": 2}, history=wider, allow_code=[CODE])


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_network_whose_weights_are_computed(tmp_path):
    torch.manual_seed(0)
    model = Model(normed(), ("image",))
    model.module(torch.randn(2, 3, 16, 16)).sum().backward()
    small, history = pruned(model)
    code = "tests.training.test_saved:normed"
    kdsearch.save_model(small, tmp_path / "small", code=code, io=FIELDS, history=history, allow_code=[code])
    again = kdsearch.load_model(tmp_path / "small", allow_code=[code])
    x = torch.randn(2, 3, 16, 16)
    assert again.module[2].out_channels < 12
    torch.testing.assert_close(again.module(x), small.module(x))


class Rounding(nn.Module):
    """The sign of sums of many numbers: rounding decides some."""

    def forward(self, x):
        return x + (x.mean((2, 3), keepdim=True) * 1e7).sign()


class Drawing(nn.Module):
    def forward(self, x):
        return x + torch.randn(x.shape, dtype=x.dtype)


class Unknowing(nn.Module):
    def forward(self, x):
        return x / 0 * 0


class Broken(nn.Module):
    def forward(self, x):
        return self.gone(x)


ACT, DTYPE = nn.ReLU, torch.float32


def of_act():
    return network(act=ACT).to(DTYPE)


OF_ACT = f"{__name__}:of_act"


def saved_with(act, folder, monkeypatch, dtype=torch.float32):
    """A network of this activation, saved by its code."""
    monkeypatch.setattr(f"{__name__}.ACT", act)
    monkeypatch.setattr(f"{__name__}.DTYPE", dtype)
    torch.manual_seed(0)
    model = Model(network(act=act).to(dtype), ("image",))
    io = replace(FIELDS, inputs=(replace(FIELDS.inputs[0], dtype=str(dtype).removeprefix("torch.")),))
    kdsearch.save_model(model, folder, code=OF_ACT, io=io, allow_code=[OF_ACT])
    return model


def test_code_that_has_changed_since_is_told_by_its_answers(tmp_path, monkeypatch):
    saved_with(nn.ReLU, tmp_path, monkeypatch)
    for act, says in ((nn.Tanh, "answers 'logits' otherwise than it did"), (Broken, "fails: AttributeError: 'Broken'")):
        monkeypatch.setattr(f"{__name__}.ACT", act)
        with pytest.raises(ArtifactError) as caught:
            kdsearch.load_model(tmp_path, allow_code=[OF_ACT])
        begins = f"{tmp_path / 'model.json'}: the code of '{OF_ACT}' has changed since it was saved: with its weights it {says}"
        assert str(caught.value).startswith(begins)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(f"{__name__}.ACT", nn.ReLU)
    kdsearch.load_model(tmp_path, allow_code=[OF_ACT])


def test_a_space_and_a_module_that_have_changed_since_are_told_too(tmp_path):
    model, spec = member()

    class Changed(Wide):
        def build(self, spec, io):
            found = super().build(spec, io)
            found.module.register_forward_pre_hook(lambda module, args: (args[0].tanh(),))
            return found

    kdsearch.save_model(model, tmp_path / "space", network=Wide, io=FIELDS, spec=spec)
    own = network()
    kdsearch.save_model(Model(own, ("image",)), tmp_path / "module", network=own, io=FIELDS, spec={})
    for name, given in (("space", Changed), ("module", network(act=nn.Tanh))):
        with pytest.raises(
            ArtifactError, match=r"the code of '\w+' has changed since it was saved: .*'logits' otherwise"
        ):
            kdsearch.load_model(tmp_path / name, network=given)


@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")  # of mkldnn.flags
@pytest.mark.parametrize("act", [nn.ReLU, Rounding, Drawing, Unknowing])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_rounding_and_draws_change_is_the_same_network(act, dtype, tmp_path, monkeypatch):
    """Read by other code of torch, which sums in another order."""
    model = saved_with(act, tmp_path, monkeypatch, dtype)
    torch.manual_seed(7)
    with torch.backends.mkldnn.flags(enabled=False):
        again = kdsearch.load_model(tmp_path, allow_code=[OF_ACT])
    assert all(torch.equal(x, model.module.state_dict()[name]) for name, x in again.module.state_dict().items())


def test_a_folder_of_before_has_no_answers(tmp_path, monkeypatch):
    saved_with(nn.ReLU, tmp_path, monkeypatch)
    file = tmp_path / "model.json"
    found = json.loads(file.read_text())
    kept = found["answers"]["outputs"]["logits"]
    assert len(kept["numbers"]) == 8
    assert 0 < kept["within"] < 0.01 * (max(kept["numbers"]) - min(kept["numbers"]))
    file.write_text(json.dumps(sealed({key: value for key, value in found.items() if key not in (SEAL, "answers")})))
    monkeypatch.setattr(f"{__name__}.ACT", nn.Tanh)
    kdsearch.load_model(tmp_path, allow_code=[OF_ACT])


def test_equal_networks_are_equal_bytes_and_the_callers_draws_go_on(tmp_path, monkeypatch):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for name in ("one", "two"):
        saved_with(Drawing, tmp_path / name, monkeypatch)
    torch.set_rng_state(before)
    kdsearch.load_model(tmp_path / "one", allow_code=[OF_ACT])
    for file in ("model.json", "weights.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
