"""Noise schedules, samplers and the Frechet distance by their closed forms."""

import numpy as np
import pytest
import torch
from torch import nn

from kdsearch.ops.frechet import frechet_distance, frechet_of_moments
from kdsearch.ops.noise import Diffusion, Flow
from kdsearch.ops.sampling import sample, sampled_steps


def draws(n=5):
    torch.manual_seed(0)
    return torch.randn(n, 1, 4, 4), torch.randn(n, 1, 4, 4)


def test_a_flow_is_a_straight_line():
    x0, eps = draws()
    flow, s = Flow(), torch.rand(5)
    x, v = flow.add_noise(x0, eps, s), flow.target(x0, eps, s)
    assert torch.allclose(flow.to_x0(x, v, s), x0, atol=1e-6)
    assert torch.allclose(flow.to_eps(x, v, s), eps, atol=1e-6)
    assert torch.equal(flow.add_noise(x0, eps, torch.zeros(5)), x0)
    assert torch.equal(flow.add_noise(x0, eps, torch.ones(5)), eps)


def test_a_shift_keeps_the_ends():
    s = torch.linspace(0, 1, 9)
    assert torch.equal(Flow(shift=1.0).shifted(s), s)
    assert Flow(shift=3.0).shifted(s)[[0, -1]].tolist() == [0, 1]
    assert Flow(shift=3.0).shifted(torch.tensor(0.5)).item() == pytest.approx(0.75)


def test_levels_are_logit_normal():
    level = Flow().sample_level(20_000, torch.Generator().manual_seed(0)).logit()
    assert level.mean().item() == pytest.approx(0, abs=0.03)
    assert level.std().item() == pytest.approx(1, abs=0.03)


def test_the_diffusion_has_stable_diffusions_levels():
    a = Diffusion().alphas
    assert [a[t].item() for t in (0, 499, 999)] == pytest.approx([0.99915, 0.2777, 0.00466], rel=1e-3)


@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
def test_a_diffusion_goes_there_and_back(predicts):
    x0, eps = draws()
    schedule, level = Diffusion(predicts), torch.tensor([0.0, 100, 400, 700, 900])
    x, out = schedule.add_noise(x0, eps, level), schedule.target(x0, eps, level)
    assert torch.allclose(schedule.to_x0(x, out, level), x0, atol=1e-4)
    assert torch.allclose(schedule.to_eps(x, out, level), eps, atol=1e-4)


def test_min_snr_weights():
    level = torch.tensor([10.0, 500.0])
    snr = (Diffusion().alphas / (1 - Diffusion().alphas))[[10, 500]].numpy()
    assert np.allclose(Diffusion(gamma=5.0).weight(level), np.minimum(snr, 5) / snr)
    assert np.allclose(Diffusion("v", 5.0).weight(level), np.minimum(snr, 5) / (snr + 1))
    assert np.allclose(Diffusion("x0", 5.0).weight(level), np.minimum(snr, 5))


@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
def test_levels_are_where_the_samples_are(predicts):
    """`meta` stands for any device that is not the schedule's."""
    schedule, level = Diffusion(predicts, 5.0), torch.tensor([10.0, 500.0], device="meta")
    x0, eps = (each[:2].to("meta") for each in draws())
    x = schedule.add_noise(x0, eps, level)
    made = [x, schedule.target(x0, eps, level), schedule.to_x0(x, eps, level), schedule.to_eps(x, eps, level)]
    assert all(each.device.type == "meta" for each in [*made, schedule.weight(level)])


class Exact(nn.Module):
    """Knows the clean sample: the velocity, or the noise, that leads there from any x."""

    def __init__(self, x0, noise):
        super().__init__()
        self.x0, self.noise, self.calls = x0, noise, []

    def forward(self, x, level, cond):
        self.calls.append(cond)
        if isinstance(self.noise, Flow):
            return (x - self.x0) / level.view(-1, 1, 1, 1)
        return self.noise.to_eps(x, x, level) if self.noise.predicts == "x0" else self._eps(x, level)

    def _eps(self, x, level):
        a = self.noise.alphas[level.long()].view(-1, 1, 1, 1)
        return ((x - a.sqrt() * self.x0) / (1 - a).sqrt()).float()


@pytest.mark.parametrize(
    ("noise", "solver", "steps"),
    [(Flow(), "euler", 1), (Flow(), "euler", 10), (Diffusion(), "ddim", 20), (Flow(), "one_step", 7)],
)
def test_the_exact_answer_leads_to_the_sample(noise, solver, steps):
    x0 = draws()[0]
    net = Exact(x0, noise)
    got = sample(net, torch.arange(5), None, (1, 4, 4), 3, steps, noise=noise, solver=solver)
    assert torch.allclose(got, x0, atol=1e-3)
    assert len(net.calls) == (1 if solver == "one_step" else steps)


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.calls = 0

    def forward(self, x, level, cond):
        self.calls += 1
        return self.drop(torch.ones_like(x)) * cond.view(-1, 1, 1, 1).float()


@pytest.mark.parametrize(("guidance", "velocity", "calls"), [(1.0, 3.0, 1), (0.0, 1.0, 1), (2.0, 5.0, 2)])
def test_guidance_goes_beyond_the_condition(guidance, velocity, calls):
    net = Constant().train()
    state = torch.get_rng_state()
    first, last = (
        x for x, _ in sampled_steps(net.eval(), torch.full((2,), 3), torch.tensor([1]), (1, 2, 2), 0, 1, guidance)
    )
    assert torch.allclose(first - last, torch.full_like(first, velocity))
    net.train()
    net.calls = 0
    again = sample(net, torch.full((2,), 3), torch.tensor([1]), (1, 2, 2), 0, 1, guidance)
    assert torch.equal(again, last), "in eval mode"
    assert net.calls == calls
    assert net.training
    assert net.drop.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sample_is_the_same_at_any_batch_size():
    net = Constant()
    many = sample(net, torch.ones(50), None, (1, 2, 2), 4, 3)
    few = sample(net, torch.ones(8), None, (1, 2, 2), 4, 3)
    assert torch.allclose(many[:8], few, atol=1e-5)


def test_frechet_by_its_closed_forms():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(400, 6)))
    assert abs(frechet_distance(x, x)) < 1e-6
    eye, m = torch.eye(4, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    assert frechet_of_moments(0 * m, eye, m, eye) == pytest.approx(5.25)
    c1, c2 = (torch.tensor(rng.uniform(0.1, 3, 4)) for _ in range(2))
    assert frechet_of_moments(m, c1.diag(), m, c2.diag()) == pytest.approx(float(((c1.sqrt() - c2.sqrt()) ** 2).sum()))
    y = torch.tensor(rng.normal(size=(300, 6)) * 2 + 1)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))
    with pytest.warns(UserWarning, match="4 samples for 6 features"):
        assert np.isfinite(frechet_distance(x[:4], y))
