import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.ops.softened import softened_kl


def by_hand(z_s: np.ndarray, z_t: np.ndarray, T: float) -> float:
    """Hinton et al. 2015 in plain float64 numpy."""
    p_s, p_t = np.exp(z_s / T), np.exp(z_t / T)
    p_s, p_t = p_s / p_s.sum(1, keepdims=True), p_t / p_t.sum(1, keepdims=True)
    return float(T**2 * (p_t * np.log(p_t / p_s)).sum(1).mean())


@given(seed=st.integers(0, 2**31), T=st.floats(1, 20), n=st.integers(1, 6), k=st.integers(2, 12))
def test_equals_the_formula(seed: int, T: float, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    z_s, z_t = rng.normal(size=(2, n, k)) * 3
    assert float(softened_kl(torch.tensor(z_s), torch.tensor(z_t), T)) == pytest.approx(by_hand(z_s, z_t, T), abs=1e-10)


def test_one_sample_computed_on_paper() -> None:
    found = softened_kl(torch.tensor([[1.0, 0, 0]]), torch.tensor([[0.0, 2, 0]]), 4.0)
    assert float(found) == pytest.approx(0.8337, abs=5e-5)


@pytest.mark.parametrize("shape", [(3,), (2, 4, 3), (2, 3, 4, 4)])
def test_the_class_axis_is_not_guessed(shape: tuple[int, ...]) -> None:
    """(B, T, V) was softmaxed over time without a word."""
    with pytest.raises(ValueError, match="expected equal rows"):
        softened_kl(torch.zeros(shape), torch.zeros(shape), 2.0)


def test_unequal_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 1\)"):
        softened_kl(torch.zeros(2, 3), torch.zeros(2, 1), 2.0)


def test_no_row_is_no_divergence() -> None:
    assert float(softened_kl(torch.zeros(0, 3), torch.zeros(0, 3), 2.0)) == 0.0


def test_certain_logits_stay_finite() -> None:
    z = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = softened_kl(z, torch.tensor([[-1e4, 1e4]]), 1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("eps", [0.3, 0.03])
def test_under_autocast_it_is_that_of_the_same_logits(eps: float) -> None:
    """A CPU computed in bfloat16: near the teacher a divergence below 0."""
    rng = np.random.default_rng(0)
    z_t = rng.normal(size=(64, 100)) * 2
    given = [torch.tensor(z, dtype=torch.bfloat16) for z in (z_t + eps * rng.normal(size=z_t.shape), z_t)]
    with torch.autocast("cpu", torch.bfloat16):
        found = softened_kl(given[0], given[1], 4.0)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(by_hand(*(z.double().numpy() for z in given), 4.0), rel=1e-3)
