"""Relations between samples and channels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.ops.relation import channel_loss, channel_relation, gram, normalised_rows, relation_loss, relation_matrix


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def test_relation_computed_on_paper() -> None:
    same, unlike = torch.tensor([[1.0, 0], [1, 0]]), torch.eye(2)
    assert relation_loss(same, unlike).item() == pytest.approx(1 - 2**-0.5, abs=1e-6)
    assert relation_loss(unlike, unlike).item() == 0


def test_gram_and_rows_are_numpys() -> None:
    x = draw(4, 3, 2)
    flat = x.numpy().reshape(4, -1)
    assert np.allclose(gram(x).numpy(), flat @ flat.T, atol=1e-12)
    wanted = (flat @ flat.T) / np.linalg.norm(flat @ flat.T, axis=1, keepdims=True)
    assert np.allclose(relation_matrix(x).numpy(), wanted, atol=1e-12)
    assert np.allclose(normalised_rows(gram(x)).numpy(), wanted, atol=1e-12)


@given(seed=st.integers(0, 2**31), b=st.integers(1, 6), c_s=st.integers(1, 5), c_t=st.integers(1, 5))
def test_relation_is_invariant(seed: int, b: int, c_s: int, c_t: int) -> None:
    rng = np.random.default_rng(seed)
    f_s, f_t = torch.tensor(rng.normal(size=(b, c_s))), torch.tensor(rng.normal(size=(b, c_t, 2)))
    found = relation_loss(f_s, f_t).item()
    rotation = torch.tensor(np.linalg.qr(rng.normal(size=(c_s, c_s)))[0])
    order = torch.tensor(rng.permutation(b))
    scale = float(rng.choice([-1, 1]) * np.exp(rng.normal() * 3))
    assert relation_loss(f_s * scale, f_t).item() == pytest.approx(found, abs=1e-9)
    assert relation_loss(f_s @ rotation, f_t).item() == pytest.approx(found, abs=1e-9)
    assert relation_loss(f_s[order], f_t[order]).item() == pytest.approx(found, abs=1e-9)
    assert 0 <= found <= 4 / b + 1e-12


def test_large_and_dead_features_stay_finite() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(relation_matrix(x * 1e30), relation_matrix(x), atol=1e-6)  # squares would overflow float32
    dead = torch.zeros(4, 8, requires_grad=True)
    loss = relation_loss(dead, x)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(dead.grad).all()


@pytest.mark.parametrize("loss", [relation_loss, channel_loss])
def test_under_autocast_it_is_that_of_the_same_features(loss) -> None:
    """Computed in bfloat16, a loss this near the teacher is rounding alone, 20 times too large."""
    f_t = draw(16, 32, 4, 4)
    f_s = f_t + 0.01 * draw(16, 32, 4, 4, seed=1)
    halves = [each.bfloat16().requires_grad_() for each in (f_s, f_t)]
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(*halves)
    exact = loss(*(each.detach().double() for each in halves))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=0.02)
    found.backward()
    alone = [each.detach().double().requires_grad_() for each in halves]
    loss(*alone).backward()
    assert (
        torch.nn.functional.cosine_similarity(halves[0].grad.double().flatten(), alone[0].grad.flatten(), dim=0) > 0.999
    )


def test_sums_beyond_float16_are_finite() -> None:
    ones = torch.ones(4, 256, 20, 20, dtype=torch.float16)
    assert torch.isfinite(relation_loss(ones, draw(4, 256, 20, 20).half()))


def test_channel_relation_is_numpys() -> None:
    f_s, f_t = draw(3, 4, 2, 2), draw(3, 4, 5, seed=1)
    e = []
    for f in (f_s, f_t):
        flat = f.numpy().reshape(3, 4, -1)
        g = np.einsum("bcn,bdn->bcd", flat, flat)
        e.append(g / np.linalg.norm(g, axis=2, keepdims=True))
    assert np.allclose(channel_relation(f_s).numpy(), e[0], atol=1e-12)
    assert channel_loss(f_s, f_t).item() == pytest.approx(np.square(e[0] - e[1]).sum() / 12, abs=1e-12)


def test_gradients_are_numerically_right() -> None:
    f_s = draw(3, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: relation_loss(f, draw(3, 5, seed=1)), f_s)
    assert torch.autograd.gradcheck(lambda f: channel_loss(f, draw(3, 4, 3, seed=1)), f_s)
