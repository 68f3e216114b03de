"""The classifier's gradient and the semantic similarity in closed form."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from kdsearch.ops.semantic import classifier_gradient, semantic_similarity


def explicit(g_s: np.ndarray, g_t: np.ndarray) -> float:
    """The definition: normalised C x C matrices, class by class."""
    total = 0.0
    for s, t in zip(g_s, g_t, strict=True):
        e = []
        for g in (s, t):
            outer = np.outer(g, g)
            e.append(outer / np.maximum(np.linalg.norm(outer, axis=1, keepdims=True), 1e-12))
        total += np.square(e[0] - e[1]).sum()
    return -total / g_s.size


@pytest.mark.parametrize(
    ("g_s", "wanted"), [([[4.0, 3]], -0.08), ([[4.0, -3]], -2.0), ([[3.0, 4]], 0.0), ([[-3.0, -4]], 0.0)]
)
def test_computed_on_paper(g_s: list[list[float]], wanted: float) -> None:
    g_t = torch.tensor([[3.0, 4]], dtype=torch.float64)
    assert semantic_similarity(torch.tensor(g_s, dtype=torch.float64), g_t).item() == pytest.approx(wanted, abs=1e-12)


@given(
    seed=st.integers(0, 2**31), k=st.integers(1, 6), c=st.integers(1, 8), dead=st.floats(0, 0.9), faint=st.floats(0, 12)
)
def test_is_the_definition_with_explicit_matrices(seed: int, k: int, c: int, dead: float, faint: float) -> None:
    """Also with dead entries, and with classes so faint that their rows are shorter than eps."""
    rng = np.random.default_rng(seed)
    scales = 10 ** -rng.uniform(0, faint, size=(2, k, 1))
    g_s, g_t = (rng.normal(size=(k, c)) * (rng.random((k, c)) >= dead) * scale for scale in scales)
    found = semantic_similarity(torch.tensor(g_s), torch.tensor(g_t)).item()
    assert found == pytest.approx(explicit(g_s, g_t), abs=1e-9)
    assert -4 - 1e-9 <= found <= 1e-9


def test_without_zeros_it_is_cosine_times_sign_agreement() -> None:
    g_s, g_t = np.random.default_rng(0).normal(size=(2, 10, 64))
    cosine = (g_s * g_t).sum(1) / np.linalg.norm(g_s, axis=1) / np.linalg.norm(g_t, axis=1)
    wanted = -2 + 2 * (cosine * np.sign(g_s * g_t).mean(1)).mean()
    assert semantic_similarity(torch.tensor(g_s), torch.tensor(g_t)).item() == pytest.approx(wanted, abs=1e-12)


def test_huge_gradients_count_by_direction_and_faint_ones_not_at_all() -> None:
    g_s, g_t = torch.tensor([[3.0, 4]], dtype=torch.float64), torch.tensor([[4.0, 3]], dtype=torch.float64)
    assert semantic_similarity(g_s * 1e100, g_t).item() == pytest.approx(-0.08, abs=1e-12)
    assert semantic_similarity(g_s * 1e-30, g_t).item() == pytest.approx(-1, abs=1e-12)  # the teacher's rows alone
    assert semantic_similarity(g_s * 1e-30, -g_t * 1e-30).item() == pytest.approx(0, abs=1e-12)


def test_other_widths_are_refused_naming_both() -> None:
    with pytest.raises(ValueError, match=r"10x64.*10x32"):
        semantic_similarity(torch.zeros(10, 64), torch.zeros(10, 32))


def test_classifier_gradient_equals_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(9, 6, generator=generator)
    layer = torch.nn.Linear(6, 4)
    y = torch.arange(9) % 4
    F.cross_entropy(layer(f), y).backward()
    assert torch.allclose(classifier_gradient(f, layer(f).detach(), y), layer.weight.grad, atol=1e-6)
