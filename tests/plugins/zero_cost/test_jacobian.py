"""jacob_cov and epe_nas: hand-made Jacobians, and their authors' formulas in NumPy."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from kdsearch_plugins.zero_cost.jacobian import EpeNas, JacobCov, input_jacobian
from torch import nn
from zero_cost_toys import linear, token_model, token_probe, two_input_model, two_input_probe, vector_model

from kdsearch.kinds import HIDDEN, IO, Field, Model, NoOptions
from kdsearch.testing.models import noise_batch, small_resnet
from kdsearch.testing.probe import HandProbe
from kdsearch.testing.proxy import ProxyContract

K = 1e-5


class TestJacobCov(ProxyContract):
    proxy = JacobCov


class TestEpeNas(ProxyContract):
    proxy = EpeNas


class Gated(nn.Module):
    """Sum of the positive inputs: the Jacobian's row is 1 where the input is above 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x).sum(1, keepdim=True)


def jacobian_of(x: list[list[float]], labels: list[int] | None = None, classes: int = 3) -> HandProbe:
    values = torch.tensor(x)
    io = IO((Field("x", "vector", (values.shape[1],)),), (Field("logits", "logits", (classes,)),))
    return HandProbe({"x": values, "label": torch.tensor(labels or [0] * len(x))}, io=io)


def test_jacob_cov_of_orthogonal_rows() -> None:
    probe = jacobian_of([[1.0, 1, -1, -1], [1.0, -1, 1, -1]])
    wanted = -2 * (math.log(1 + K) + 1 / (1 + K))
    assert wanted == pytest.approx(-2.0, abs=1e-4)
    assert JacobCov(NoOptions()).score(vector_model(Gated()), probe) == pytest.approx(wanted, abs=1e-9)


def test_jacob_cov_of_equal_rows() -> None:
    probe = jacobian_of([[1.0, 1, -1, -1], [2.0, 3, -1, -1]])
    wanted = -(math.log(K) + 1 / K) - (math.log(2 + K) + 1 / (2 + K))
    assert JacobCov(NoOptions()).score(vector_model(Gated()), probe) == pytest.approx(wanted, rel=1e-9)


def test_a_sample_that_moves_nothing_is_the_worst() -> None:
    probe = jacobian_of([[1.0, 1, -1, -1], [-1.0, -1, -1, -1]])
    for proxy in (JacobCov, EpeNas):
        assert proxy(NoOptions()).score(vector_model(Gated()), probe) == -math.inf


def numpy_jacobian(student: Model, probe: HandProbe) -> np.ndarray:
    x = probe.batch["image"].clone().requires_grad_()
    student.copy().module.train()(x).sum().backward()
    assert x.grad is not None
    return x.grad.double().flatten(1).numpy()


def test_jacob_cov_as_its_authors_code_it() -> None:
    student, probe = small_resnet(depth=2), HandProbe(noise_batch(6))
    v = np.linalg.eigvals(np.corrcoef(numpy_jacobian(student, probe))).real
    wanted = -np.sum(np.log(v + K) + 1 / (v + K))
    assert JacobCov(NoOptions()).score(student, probe) == pytest.approx(wanted, rel=1e-5)


def coded_epe(jacobian: np.ndarray, labels: list[int], classes: int) -> float:
    s = {}
    for c in sorted(set(labels)):
        rows = jacobian[np.array(labels) == c]
        if len(rows) == 1:
            if classes <= 100:
                s[c] = math.log(1 + K)
            continue
        s[c] = np.log(np.abs(np.corrcoef(rows)) + K).sum() / (len(rows) if classes > 100 else 1)
    if classes <= 100:
        return float(sum(abs(each) for each in s.values()))
    return float(sum(abs(a - b) for a in s.values() for b in s.values()) / len(s))


@pytest.mark.parametrize("classes", [5, 101])
def test_epe_nas_as_its_authors_code_it(classes: int) -> None:
    student, batch = small_resnet(depth=2), noise_batch(9)
    labels = [0, 0, 1, 1, 1, 2, 3, 3, 3]  # class 2 has one sample
    io = IO((Field("image", "image", (3, 8, 8)),), (Field("logits", "logits", (classes,)),))
    probe = HandProbe({"image": batch["image"], "label": torch.tensor(labels)}, io=io)
    wanted = coded_epe(numpy_jacobian(student, probe), labels, classes)
    assert EpeNas(NoOptions()).score(student, probe) == pytest.approx(wanted, rel=1e-5)


def test_epe_nas_leaves_samples_of_unknown_class_out() -> None:
    x = [[1.0, 1, -1, -1], [1.0, -1, 1, -1], [1.0, -1, -1, -1]]
    some = EpeNas(NoOptions()).score(vector_model(Gated()), jacobian_of(x, [0, 0, HIDDEN]))
    assert some == EpeNas(NoOptions()).score(vector_model(Gated()), jacobian_of(x[:2], [0, 0]))
    assert some == pytest.approx(-2 * math.log(1 + K) - 2 * math.log(K), rel=1e-9)


def test_inputs_lie_side_by_side_and_tokens_count_by_their_vectors() -> None:
    two = input_jacobian(two_input_model(), two_input_probe())
    assert two.shape == (6, 36 + 5)
    assert bool((two[:, :36] != 0).any())
    assert bool((two[:, 36:] != 0).any())
    student, probe = token_model(), token_probe()
    found = input_jacobian(student, probe)
    assert found.shape == (6, 4 * 6)  # not the positions, not the mask
    padded = (probe.batch["mask"] == 0)[:, :, None].expand(6, 4, 6).flatten(1)
    assert bool(padded.any())
    assert bool((found[padded] == 0).all())


def test_the_jacobian_by_tokens_is_that_by_vectors() -> None:
    student, probe = token_model(), token_probe()
    net, ids, mask = student.module, probe.batch["ids"], probe.batch["mask"]
    vectors = net.tokens(ids).detach().requires_grad_()
    x = torch.relu(net.mix(vectors + net.positions.weight[:4])) * mask[..., None]
    net.classifier(x.sum(1) / mask.sum(1, keepdim=True)).sum().backward()
    assert vectors.grad is not None
    torch.testing.assert_close(input_jacobian(student, probe).float(), vectors.grad.flatten(1))


@pytest.mark.parametrize("proxy", [JacobCov, EpeNas])
@pytest.mark.parametrize(("model", "probe"), [(token_model, token_probe), (two_input_model, two_input_probe)])
def test_tokens_and_several_inputs(proxy: Any, model: Callable[..., Any], probe: Callable[[], HandProbe]) -> None:
    assert math.isfinite(proxy(NoOptions()).score(model(), probe()))


def test_a_network_without_continuous_inputs_is_the_worst() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = linear([[1.0], [2.0]])

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(ids.float().sum(1, keepdim=True))
            return out

    io = IO((Field("ids", "tokens", (2,), "int64", n_values=9),), (Field("logits", "logits", (2,)),))
    probe = HandProbe({"ids": torch.tensor([[1, 2], [3, 4]]), "label": torch.tensor([0, 0])}, io=io)
    for proxy in (JacobCov, EpeNas):
        assert proxy(NoOptions()).score(Model(Counts(), ("ids",)), probe) == -math.inf


def test_rows_are_by_standard_deviations_of_fields_in_units() -> None:
    """y = x / std reads two numbers of very different units: by deviations each row is (1, 1)."""
    std = (1e3, 1e-3)
    io = IO((Field("x", "vector", (2,), mean=(5.0, 1.0), std=std),), (Field("logits", "logits", (1,)),))
    probe = HandProbe({"x": torch.tensor([[5.0, 1.0], [1e3, 0.0]])}, io=io)
    found = input_jacobian(vector_model(linear([[1 / std[0], 1 / std[1]]])), probe)
    assert torch.allclose(found, torch.ones(2, 2, dtype=torch.float64), rtol=1e-6)
