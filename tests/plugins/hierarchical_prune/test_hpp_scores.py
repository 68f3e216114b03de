"""Stages 0 to 2 of HierarchicalPrune by the numbers: ranges, order, budget, what is frozen, rates, losses."""

import json
import math
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kdsearch_plugins.hierarchical_prune.contribution import Evaluator, contributions, fingerprint
from kdsearch_plugins.hierarchical_prune.freezing import multipliers, preserved, sensitivity_of
from kdsearch_plugins.hierarchical_prune.losses import flow_task, kd_feat, kd_out
from kdsearch_plugins.hierarchical_prune.mmdit import TinyMmdit
from kdsearch_plugins.hierarchical_prune.proof import Kept, tapped
from kdsearch_plugins.hierarchical_prune.recovery import SelfRecovery, units_of
from kdsearch_plugins.hierarchical_prune.scores import Cut, cut_to, eligible, ordered, parse_range, w_pos
from torch import nn

from kdsearch.errors import UserError
from kdsearch.kinds import IO, Field, Model
from kdsearch.kit.blocks import ALL, edits_of, removed, surgery
from kdsearch.testing.step import HandStep


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = TinyMmdit(d=8, heads=2, depth=8)
    with torch.no_grad():  # zero gates would hide every block
        for weight in made.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return made.eval()


def given(n=3):
    torch.manual_seed(1)
    return torch.randn(n, 1, 8, 8), torch.rand(n), torch.tensor([1, 7, 10])[:n]


def test_ranges_end_before_their_end():
    assert parse_range("25-29,31-35") == [25, 26, 27, 28, 31, 32, 33, 34]
    assert parse_range("1,2-4") == [1, 2, 3]
    assert parse_range(None) == parse_range("") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3-x", "'3-x'"),
        ("7-9", "block 8"),
        ("-2", "'-2'"),
        ("2-2", "'2-2'.*8 is not in it"),
        ("1,3-1", "'1,3-1'"),
        (",", "','"),
    ],
)
def test_what_is_no_range(net, text, said):
    with pytest.raises(UserError, match=said):
        eligible(net.block_list(), text, "compress.prune.options.blocks")


def test_of_equal_drops_the_intent_is_that_late_blocks_go():
    delta = {(i, ALL): -0.3 for i in range(4)}
    assert [i for i, _ in ordered(delta, 4, "intent")] == [3, 2, 1, 0]
    assert [i for i, _ in ordered(delta, 4, "literal")] == [0, 1, 2, 3]
    assert [w_pos(i, 4) for i in range(4)] == pytest.approx([math.exp(-x) for x in (1, 0.75, 0.5, 0.25)])
    nothing = dict.fromkeys(delta, 0.0)  # an accuracy often does not move at all
    assert [i for i, _ in ordered(nothing, 4, "intent")] == [3, 2, 1, 0]


def test_position_weighs_against_the_drop():
    delta = {(0, "ff"): -1.0, (3, "ff"): -1.5}
    assert ordered(delta, 4, "none")[0] == (0, "ff")
    assert ordered(delta, 4, "intent")[0] == (3, "ff")  # 1.5 / e^-.25 = 1.93 < 1 / e^-1 = 2.72
    assert ordered(delta, 4, "literal")[0] == (0, "ff")


def test_the_budget_ends_at_the_first_ratio_strictly_below(net):
    blocks, whole = net.block_list(), sum(each.numel() for each in net.parameters())

    def ratio(parts):
        with surgery(net, blocks, parts):
            return sum(each.numel() for each in net.parameters()) / whole

    order = [(i, name) for i in (7, 6, 5) for name in blocks[i].components]
    cut = Cut()
    assert cut_to(order, blocks, ratio, 0.8, cut)
    assert cut.ratios[-1] < 0.8 <= cut.ratios[-2]
    assert all(b <= a for a, b in zip(cut.ratios, cut.ratios[1:], strict=False))
    exact = Cut()
    assert cut_to(order, blocks, ratio, cut.ratios[2], exact)
    assert len(exact.parts) == 4, "a ratio that is the target is not below it"
    assert not cut_to(order[:2], blocks, ratio, 0.1, Cut())


def test_a_full_identity_gives_back_its_inputs(net):
    block = net.block_list()[3]
    h, c, e = torch.randn(2, 16, 8), torch.randn(2, 2, 8), torch.randn(2, 8)
    with surgery(net, net.block_list(), [(3, name) for name in block.components]):
        out = net.blocks[3](h, c, e)
        assert out[0] is h
        assert out[1] is c
        assert not list(net.blocks[3].parameters()), "five components gone are the block"
        of_parts = net(*given())
    with surgery(net, net.block_list(), [(3, ALL)]):
        assert torch.equal(net(*given()), of_parts)


def test_an_attention_that_is_gone_still_adds_its_gated_input(net):
    """Check 3: h + g Norm1(h), not h."""
    block = net.blocks[2]
    h, c, e = torch.randn(2, 16, 8), torch.randn(2, 2, 8), torch.randn(2, 8)
    with surgery(net, net.block_list(), [(2, "attn")]):
        nn.init.zeros_(block.ff[2].weight)
        nn.init.zeros_(block.ff[2].bias)
        out, _ = block(h, c, e)
        n, g, *_ = block.w_norm1(h, e)
    assert torch.allclose(out, h + g * n, atol=1e-6)
    assert not torch.allclose(out, h, atol=1e-3)
    with surgery(net, net.block_list(), [(2, "attn")], "zero"):
        assert torch.allclose(block(h, c, e)[0], h, atol=1e-6)


def test_a_norm_that_is_gone_has_gates_of_one(net):
    h, e = 5 + 3 * torch.randn(2, 16, 8), torch.randn(2, 8)
    before = sum(each.numel() for each in net.parameters())
    with surgery(net, net.block_list(), [(4, "w_norm1")]):
        n, gate_msa, shift, scale, gate_mlp = net.blocks[4].w_norm1(h, e)
        assert before - sum(each.numel() for each in net.parameters()) == 6 * 8 * 8 + 6 * 8
    assert torch.allclose(n.mean(-1), torch.zeros(2, 16), atol=1e-5)
    assert torch.allclose(n.var(-1, unbiased=False), torch.ones(2, 16), atol=1e-4)
    assert (gate_msa == 1).all()
    assert (gate_mlp == 1).all()
    assert (shift == 0).all()
    assert (scale == 0).all()


def frozen_after(net, parts, before=None):
    blocks = net.block_list()
    names = preserved(net, blocks, parts, "identity", before)
    removed(net, edits_of(blocks, parts, "identity"))
    for name, weight in net.named_parameters():
        weight.requires_grad_(name not in names)
    net(*given()).square().sum().backward()
    return {name for name, weight in net.named_parameters() if weight.grad is None}


def test_pwp_freezes_all_before_the_first_cut(net):
    names = [name for name, _ in net.named_parameters()]
    frozen = frozen_after(net, [(5, ALL)])
    early = ("patches", "position", "context", "level", *(f"blocks.{i}." for i in range(5)))
    assert frozen == {name for name in names if name.startswith(early)}


def test_pwp_trains_what_is_defined_after_a_component(net):
    frozen = frozen_after(net, [(3, "ff")])
    assert {name.split(".")[2] for name in frozen if name.startswith("blocks.3.")} == {
        "w_norm1",
        "w_norm1_context",
        "attn",
    }
    assert not any(name.startswith(("blocks.3.ff_context", "blocks.4", "norm_out", "project")) for name in frozen)


def test_pwp_from_a_block_on(net):
    frozen = frozen_after(net, [(6, ALL)], before=2)
    assert any(name.startswith("blocks.1.") for name in frozen)
    assert not any(name.startswith(("blocks.2.", "blocks.5.")) for name in frozen)


def test_sensitive_parts_move_less(net):
    blocks, delta = net.block_list(), {(6, "attn"): -4.0, (6, "ff"): 1.0, (7, "ff"): -0.5}
    names = [name for name, _ in net.named_parameters()]
    found = multipliers(names, sensitivity_of(blocks, delta), "inverse")
    assert set(found) == {name for name in names if name.startswith("blocks.6.attn.")}
    assert list(found.values()) == pytest.approx([0.25] * len(found))  # the median of 4, 1, .5 over 4
    assert multipliers(names, sensitivity_of(blocks, delta), "binary") == {}
    hard = multipliers(names, sensitivity_of(blocks, delta), "binary", zero_above=0.5)
    assert set(hard) == set(found)
    assert set(hard.values()) == {0.0}


def test_drops_of_0_do_not_freeze_the_rest(net):
    """Of six blocks four do not move an accuracy: the median of all is 0, that of the others .03."""
    blocks = net.block_list()
    delta = dict(zip([(i, ALL) for i in range(6)], [0.0, 0.0, -0.02, 0.0, -0.04, 0.0], strict=True))
    names = [name for name, _ in net.named_parameters()]
    found = multipliers(names, sensitivity_of(blocks, delta), "inverse")
    assert {name.split(".")[1] for name in found} == {"4"}
    assert list(found.values()) == pytest.approx([0.75] * len(found))
    assert multipliers(names, sensitivity_of(blocks, dict.fromkeys(delta, 0.0)), "inverse") == {}
    assert multipliers(names, sensitivity_of(blocks, dict.fromkeys(delta, 1e-12)), "inverse") == {}


def test_a_factor_is_one_on_the_learning_rate():
    """Check 7: on gradients it would do nothing, Adam divides by their size."""
    from kdsearch.engine.optim import bind
    from kdsearch.kinds import Optim

    for kind in ("adam", "adamw", "sgd"):
        torch.manual_seed(0)
        net = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in ("whole", "tenth", "none")})
        for each in net.values():
            each.weight.data.copy_(net["whole"].weight)
        before = {name: each.weight.detach().clone() for name, each in net.items()}
        scale = {"net.tenth.weight": 0.1, "net.none.weight": 0.0}
        bound = bind(Optim({"net": net}, kind=kind, lr=1e-2, weight_decay=0.1, scale=scale))
        x = torch.randn(8, 4)
        for step in range(10):
            bound.torch.zero_grad()
            sum(each(x).square().mean() for each in net.values()).backward()
            bound.set_rates(0.0)
            bound.torch.step()
            if step == 0:
                moved = {name: (each.weight - before[name]).abs().mean().item() for name, each in net.items()}
                assert moved["whole"] / moved["tenth"] == pytest.approx(10, rel=1e-3), kind
        assert torch.equal(net["none"].weight, before["none"]), "weight decay does not move it either"


def test_a_copy_of_the_teacher_has_no_loss(net):
    student = TinyMmdit(d=8, heads=2, depth=8).eval()
    student.load_state_dict(net.state_dict())
    kept = range(8)
    v_s, h_s = tapped(student, kept, lambda: student(*given()))
    v_t, h_t = tapped(net, kept, lambda: net(*given()))
    assert len(h_t) == 15, "both streams, but for the context that nobody reads"
    assert kd_out({"v": v_s}, {"v": v_t}).item() == 0
    assert kd_feat(h_s, h_t, list(h_t)).item() == 0


def test_losses_are_means_that_are_summed():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(3, 4)) for _ in range(2))
    s, t = ({"x": torch.tensor(v), "y": torch.tensor(2 * v)} for v in (a, b))
    expected = ((a - b) ** 2).mean() + (4 * (a - b) ** 2).mean()
    assert kd_out(s, t).item() == pytest.approx(expected)
    assert kd_feat(s, t, ["x", "y"]).item() == pytest.approx(expected)
    x0, eps, level = torch.randn(5, 1, 8, 8), torch.randn(5, 1, 8, 8), torch.rand(5)
    x_t = (1 - level.view(-1, 1, 1, 1)) * x0 + level.view(-1, 1, 1, 1) * eps
    assert flow_task(x_t, level, eps - x0, x0).item() == pytest.approx(0, abs=1e-10)


def recovered(student, teacher, field, mask=None):
    """Terms of the recovery of one network, as its phase's step makes them."""
    n = len(teacher[field.name])
    setup = SimpleNamespace(
        task=SimpleNamespace(answers=lambda io: io.outputs, counted=lambda _: mask),
        io=IO((), (field,)),
        models={"student": Model(nn.Identity(), (), outputs=(field.name,))},
        data=SimpleNamespace(split=lambda _: SimpleNamespace(ids=range(n), load=lambda at: at)),
        rng=lambda _: torch.Generator().manual_seed(0),
        predict=lambda role, at: {field.name: teacher[field.name][at]},
    )
    step = HandStep(student, roles={"uncut.student": teacher}, fields=[field], counted=mask)
    made = SelfRecovery({"student": ["b"]}, {"kd_out": 1.0, "kd_feat": 1.0})
    return made._terms(step, "student", setup, units_of(setup, "student"))


@pytest.mark.parametrize("std", [(80000.0, 0.5), ()])
def test_values_of_any_unit_recover_alike(std):
    rng = torch.Generator().manual_seed(0)
    z_s, z_t = torch.randn(2, 60, 2, generator=rng)
    z_t = (z_t - z_t.mean(0)) / z_t.std(0, unbiased=False)  # the deviations of answers are those of the data
    unit = torch.tensor([80000.0, 0.5])
    field = Field("value", "value", (2,), mean=(0.0, 0.0) if std else (), std=std)
    student, teacher = ({"value": z * unit + 7, "module:b": torch.zeros(60, 3)} for z in (z_s, z_t))
    found = recovered(student, teacher, field)["kd_out"]
    assert found.item() == pytest.approx(((z_s - z_t) ** 2).mean().item(), rel=1e-4)


def test_padding_recovers_nothing():
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    rng = torch.Generator().manual_seed(0)
    z, h = torch.randn(2, 2, 4, 5, generator=rng), torch.randn(2, 2, 4, 3, generator=rng)
    student, teacher = ({"logits": z[i], "module:b": h[i]} for i in (0, 1))
    found = recovered(student, teacher, Field("logits", "logits", (None, 5)), mask)
    at = [(0, 0), (0, 1), (0, 2), (1, 0)]
    for term, x in (("kd_out", z), ("kd_feat", h)):
        expected = np.mean([((x[0, i, j] - x[1, i, j]) ** 2).mean().item() for i, j in at])
        assert found[term].item() == pytest.approx(expected, rel=1e-5), term


class Counted:
    def __init__(self, kept):
        self.calls, self.kept = 0, kept

    def evaluator(self):
        def score(net):
            self.calls += 1
            return float(net(*given()).detach().square().mean())

        return Evaluator("size", score, self.kept.once)


def test_contributions_are_measured_once_and_leave_no_trace(net, tmp_path):
    blocks = net.block_list()
    parts = [(i, name) for i in (0, 3, 7) for name in blocks[i].components]
    before, counted = fingerprint(net), Counted(Kept(tmp_path / "values.json"))
    first = contributions(net, blocks, parts, "identity", counted.evaluator())
    assert counted.calls == len(parts) + 1
    assert fingerprint(net) == before
    again = contributions(net, blocks, parts[::-1], "identity", counted.evaluator())
    assert counted.calls == len(parts) + 1, "a second run asks nothing"
    assert again == first
    told = []
    contributions(net, blocks, parts, "identity", counted.evaluator(), lambda share, what: told.append((share, what)))
    assert told[0] == (0.0, f"without part 1 of {len(parts)}")
    assert told[-1] == (1 - 1 / len(parts), f"without part {len(parts)} of {len(parts)}")
    fresh = Counted(Kept(tmp_path / "other.json"))
    assert contributions(net, blocks, parts[::-1], "identity", fresh.evaluator()) == first
    contributions(net, blocks, parts[:1], "zero", fresh.evaluator())
    assert fresh.calls == len(parts) + 2, "another removal is another measurement; the intact one is not"
    net.project.weight.data[0, 0] += 1
    contributions(net, blocks, parts[:1], "identity", fresh.evaluator())
    assert fresh.calls == len(parts) + 4, "another network is measured anew"


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.plugins.hierarchical_prune.test_hpp_scores import *
torch.manual_seed(0)
net = TinyMmdit(d=8, heads=2, depth=8).eval()
calls = 0
def score(net):
    global calls
    calls += 1
    print(calls, flush=True)
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return float(calls)
contributions(net, net.block_list(), [(i, ALL) for i in range(8)], "identity", Evaluator("n", score, Kept(Path(sys.argv[1])).once))
"""


def test_a_kill_loses_one_measurement(tmp_path):
    def run(at):
        asked = [sys.executable, "-c", KILLED, str(tmp_path / "values.json"), str(at)]
        return subprocess.run(
            asked, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )

    assert run(5).returncode == -signal.SIGKILL
    assert len(json.loads((tmp_path / "values.json").read_text())) == 4
    done = run(99)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "5", "9 measurements, 4 of them before the kill"
