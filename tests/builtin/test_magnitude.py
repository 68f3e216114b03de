"""Zeros by magnitude: how many, which, and when."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kdsearch.builtin.magnitude import Magnitude, MagnitudeOptions, cubic
from kdsearch.errors import RefusedError, UserError
from kdsearch.kinds import Model
from kdsearch.testing.compressor import CompressorContract, HandSubject
from kdsearch.testing.models import small_resnet


class TestRows(CompressorContract):
    compressor = Magnitude
    options: ClassVar = {"pattern": "2:4"}


class TestLayers(CompressorContract):
    compressor = Magnitude
    options: ClassVar = {"scope": "layer", "sparsity": 0.7, "start": 0.2}


def subject(model):
    contract = TestRows()
    return HandSubject(0, Path(), model=model, io=contract.io(), batch=contract.batch())


def enforced(model, progress=1.0, **options):
    made = Magnitude(MagnitudeOptions(**options))
    plan = made.plan(subject(model))
    made.enforce(model, plan, progress)
    return plan


def test_the_schedule_is_zhu_and_guptas():
    # s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3, by hand at a quarter: .8 - .8 * .421875
    assert cubic(0.0, 0.8, 0.25) == pytest.approx(0.4625)
    assert cubic(0.2, 0.8, 0.0) == pytest.approx(0.2)
    assert cubic(0.0, 0.8, 1.0) == cubic(0.0, 0.8, 3.0) == 0.8


@given(share=st.floats(0.05, 0.9), seed=st.integers(0, 99))
def test_the_smallest_go_exactly_so_many(share, seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    before = np.concatenate([net[i].weight.detach().abs().numpy().ravel() for i in (0, 1)])
    enforced(Model(net, ("image",)), sparsity=share)
    after = np.concatenate([net[i].weight.detach().abs().numpy().ravel() for i in (0, 1)])
    n = int(np.floor(share * 50))
    assert (after == 0).sum() == n
    assert set(np.flatnonzero(after == 0)) == set(np.argsort(before)[:n])
    assert (net[0].bias != 0).all()


def test_equal_weights_are_cut_to_the_number():
    net = nn.Sequential(nn.Linear(4, 4))
    nn.init.ones_(net[0].weight)
    enforced(Model(net, ("image",)), sparsity=0.5)
    assert int((net[0].weight == 0).sum()) == 8


def test_two_of_four_along_the_input():
    model = small_resnet((8, 16), classes=5)
    before = {name: weight.clone() for name, weight in model.module.named_parameters()}
    plan = enforced(model, pattern="2:4")
    assert plan.edits["weights"]
    for name in plan.edits["weights"]:
        rows = model.module.get_parameter(name).detach().movedim(1, -1).reshape(-1, 4)
        assert ((rows == 0).sum(1) == 2).all(), name
        kept = before[name].movedim(1, -1).reshape(-1, 4).abs().topk(2).indices.sort().values
        assert torch.equal((rows != 0).nonzero()[:, 1].view(-1, 2), kept), name


def test_a_gradual_pattern_is_on_the_way_there():
    model = small_resnet((8, 16), classes=5)
    half = small_resnet((8, 16), classes=5)
    plan = enforced(model, 0.35, pattern="2:4", until=0.7)  # half the ramp: 1 - 1/8 of the rows
    enforced(half, 1.0, pattern="2:4")
    zeros = [sum(int((m.module.get_parameter(n) == 0).sum()) for n in plan.edits["weights"]) for m in (model, half)]
    assert zeros[0] == pytest.approx(0.875 * zeros[1], abs=2)


def test_a_pattern_begins_with_the_share_that_is_asked_for():
    net = nn.Linear(400, 10)
    enforced(Model(net, ("image",)), 0.0, pattern="2:4", start=0.4)
    assert float((net.weight == 0).float().mean()) == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize("options", [{"start": 0.9, "sparsity": 0.5}, {"start": 0.6, "pattern": "2:4"}])
def test_a_start_above_the_end_is_refused(options):
    with pytest.raises(ValueError, match=r"start 0\.[96] is above the 0\.5"):
        MagnitudeOptions(**options)


def test_two_of_four_of_a_transposed_convolution_are_along_its_inputs():
    torch.manual_seed(0)
    net = nn.ConvTranspose2d(8, 6, 2, bias=False)  # 6 outputs are no multiple of four
    enforced(Model(net, ("image",)), pattern="2:4")
    of_inputs = net.weight.detach().permute(1, 2, 3, 0).reshape(-1, 4)
    assert ((of_inputs == 0).sum(1) == 2).all()


def test_what_is_tied_to_an_embedding_stays_dense():
    net = nn.ModuleDict({"words": nn.Embedding(9, 4), "inner": nn.Linear(4, 4), "head": nn.Linear(4, 9, bias=False)})
    net["head"].weight = net["words"].weight
    plan = enforced(Model(net, ("image",)))
    assert plan.edits["weights"] == ["inner.weight"]
    assert (net["words"].weight != 0).all()
    assert any(line.startswith("head: stays dense, as the embedding") for line in plan.log)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("of", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
def test_weights_that_are_computed_from_others_stay_dense(of):
    net = nn.Sequential(of(nn.Conv2d(1, 4, 3)), nn.Flatten(), nn.Linear(16, 4))
    before = net[0].weight.detach().clone()
    plan = enforced(Model(net, ("image",)))
    assert plan.edits["weights"] == ["2.weight"]
    assert torch.equal(net[0].weight, before)
    assert int((net[2].weight == 0).sum()) == 32
    assert "0: stays dense, its weight is computed from others" in plan.log
    with pytest.raises(UserError, match="no layer can be sparse of 1; 0: stays dense, its weight is computed"):
        Magnitude(MagnitudeOptions()).preflight(Model(net[:1], ("image",)), TestRows().io())


def test_what_stays_dense_is_said():
    model = small_resnet((8, 16), classes=5)
    first = next(path for path, layer in model.module.named_modules() if isinstance(layer, nn.Conv2d))
    plan = Magnitude(MagnitudeOptions(pattern="2:4")).plan(subject(model))
    assert any(line.startswith(f"{first}: stays dense, its 3 inputs") for line in plan.log)
    with pytest.raises(RefusedError, match="no layer can be sparse"):
        Magnitude(MagnitudeOptions(keep=("*",))).plan(subject(replace(model)))
