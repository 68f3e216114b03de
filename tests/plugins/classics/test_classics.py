"""The classic distillers: contract, and values against plain float64 numpy."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from kdsearch_plugins import classics
from kdsearch_plugins.classics.cwd import Cwd, CwdOptions
from kdsearch_plugins.classics.dkd import Dkd, DkdOptions
from kdsearch_plugins.classics.fitnet import FitNet, FitNetOptions
from kdsearch_plugins.classics.kd import Kd, KdOptions
from kdsearch_plugins.classics.sp import Sp, SpOptions
from torch.nn import functional as F

from kdsearch.errors import TapShapeError
from kdsearch.hooks import Register
from kdsearch.kinds import HIDDEN, Shapes, TapShapes
from kdsearch.testing.distiller import DistillerContract
from kdsearch.testing.models import small_resnet
from kdsearch.testing.step import HandStep


class TestKd(DistillerContract):
    distiller = Kd
    zero_at_equal = ("kl",)


class TestDkd(DistillerContract):
    distiller = Dkd
    zero_at_equal = ("tckd", "nckd")


class TestFitNet(DistillerContract):
    distiller = FitNet


class TestFitNetKernel3(DistillerContract):
    distiller = FitNet
    options: ClassVar = {"kernel": 3, "student_tap": "stage[0]", "teacher_tap": "stage[1]"}  # maps of unequal size


class TestCwd(DistillerContract):
    distiller = Cwd
    options: ClassVar = {"student_tap": "stage[-1]", "teacher_tap": "stage[-1]"}


class TestCwdOfUnequalSizes(DistillerContract):
    distiller = Cwd
    options: ClassVar = {"student_tap": "stage[0]", "teacher_tap": "stage[1]"}


class TestSp(DistillerContract):
    distiller = Sp
    zero_at_equal = ("similarity",)


class TestSpOnVectors(DistillerContract):
    distiller = Sp
    options: ClassVar = {"student_tap": "penultimate", "teacher_tap": "stage[0]"}
    zero_at_equal = ()


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def dkd_by_hand(z_s: np.ndarray, z_t: np.ndarray, y: np.ndarray, T: float) -> tuple[float, float]:
    """Zhao et al. 2022, eq. 3 to 7, sample by sample."""
    tckd, nckd = [], []
    for s, t, k in zip(softmax(z_s / T), softmax(z_t / T), y, strict=True):
        b_s, b_t = np.array([s[k], 1 - s[k]]), np.array([t[k], 1 - t[k]])
        tckd.append((b_t * np.log(b_t / b_s)).sum())
        hat_s, hat_t = np.delete(s, k) / (1 - s[k]), np.delete(t, k) / (1 - t[k])
        nckd.append((hat_t * np.log(hat_t / hat_s)).sum())
    return T**2 * float(np.mean(tckd)), T**2 * float(np.mean(nckd))


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape) * 2


def logits_step(z_s: np.ndarray, z_t: np.ndarray, y: np.ndarray | None = None) -> HandStep:
    batch = {} if y is None else {"label": torch.tensor(y)}
    return HandStep({"logits": torch.tensor(z_s)}, {"logits": torch.tensor(z_t)}, batch)


def test_kd_of_the_papers_example() -> None:
    step = logits_step(np.array([[1.0, 0, 0]]), np.array([[0.0, 2, 0]]))
    assert float(Kd(KdOptions()).terms(step)["kl"]) == pytest.approx(0.8337, abs=5e-5)


def test_dkd_equals_the_paper() -> None:
    z_s, z_t, y = draw(7, 5), draw(7, 5, seed=1), np.array([0, 1, 2, 3, 4, 0, 1])
    tckd, nckd = dkd_by_hand(z_s, z_t, y, 3.0)
    distiller = Dkd(DkdOptions(alpha=0.5, beta=2.0, temperature=3.0))
    terms = distiller.terms(logits_step(z_s, z_t, y))
    assert float(terms["tckd"]) == pytest.approx(tckd, abs=1e-10)
    assert float(terms["nckd"]) == pytest.approx(nckd, abs=1e-10)
    assert distiller.constants() == {"tckd": 0.5, "nckd": 2.0}


def test_dkd_with_the_teachers_weight_is_kd() -> None:
    """KD = TCKD + (1 - p_target) NCKD, for one sample (eq. 6)."""
    z_s, z_t, y = draw(1, 5), draw(1, 5, seed=1), np.array([2])
    rest = 1 - float(softmax(z_t / 4)[0, 2])
    terms = Dkd(DkdOptions(beta=1.0)).terms(logits_step(z_s, z_t, y))
    kl = Kd(KdOptions()).terms(logits_step(z_s, z_t))["kl"]
    assert float(terms["tckd"] + rest * terms["nckd"]) == pytest.approx(float(kl), abs=1e-10)


def test_dkd_takes_the_teachers_class_where_a_label_is_hidden() -> None:
    z_s, z_t = draw(6, 4), draw(6, 4, seed=1)
    y = np.array([0, HIDDEN, 2, HIDDEN, 1, 3])
    guessed = np.where(y == HIDDEN, z_t.argmax(1), y)
    found = Dkd(DkdOptions()).terms(logits_step(z_s, z_t, y))
    wanted = Dkd(DkdOptions()).terms(logits_step(z_s, z_t, guessed))
    unlabelled = Dkd(DkdOptions()).terms(logits_step(z_s, z_t))
    assert {name: float(term) for name, term in found.items()} == {name: float(term) for name, term in wanted.items()}
    assert float(unlabelled["tckd"]) != float(found["tckd"])


def test_dkd_of_two_classes_has_nothing_beside_the_target() -> None:
    terms = Dkd(DkdOptions()).terms(logits_step(draw(3, 2), draw(3, 2, seed=1), np.array([0, 1, 1])))
    assert float(terms["nckd"]) == pytest.approx(0, abs=1e-12)


def test_dkd_of_a_map_counts_every_place() -> None:
    z_s, z_t = draw(2, 3, 2, 2), draw(2, 3, 2, 2, seed=1)
    y = np.random.default_rng(2).integers(0, 3, size=(2, 2, 2))
    flat = [z.transpose(0, 2, 3, 1).reshape(-1, 3) for z in (z_s, z_t)]
    tckd, nckd = dkd_by_hand(flat[0], flat[1], y.reshape(-1), 4.0)
    terms = Dkd(DkdOptions()).terms(logits_step(z_s, z_t, y))
    assert float(terms["tckd"]) == pytest.approx(tckd, abs=1e-10)
    assert float(terms["nckd"]) == pytest.approx(nckd, abs=1e-10)


def test_sp_equals_the_paper() -> None:
    a_s, a_t = draw(4, 3, 2, 2), draw(4, 5, seed=1)
    rows = []
    for a in (a_s, a_t):
        g = a.reshape(4, -1) @ a.reshape(4, -1).T
        rows.append(g / np.linalg.norm(g, axis=1, keepdims=True))
    step = HandStep({"stage[-1]": torch.tensor(a_s)}, {"stage[-1]": torch.tensor(a_t)})
    found = Sp(SpOptions()).terms(step)["similarity"]
    assert float(found) == pytest.approx(np.square(rows[0] - rows[1]).sum() / 16, abs=1e-12)


def test_fitnet_is_half_the_mean_square_of_the_regression() -> None:
    fitnet = FitNet(FitNetOptions(student_tap="stage[0]", teacher_tap="stage[0]"))
    models = small_resnet((3, 5), name="s"), small_resnet((4, 5), name="t")
    torch.manual_seed(0)
    fitnet.build(TapShapes(*(Shapes(model, {}) for model in models)))
    fitnet.double()
    h_s, h_t = draw(2, 3, 4, 4), draw(2, 4, 4, 4, seed=1)
    found = fitnet.terms(HandStep({"stage[0]": torch.tensor(h_s)}, {"stage[0]": torch.tensor(h_t)}))["hint"]
    weight, bias = (p.detach().numpy() for p in (fitnet.regressor.weight[:, :, 0, 0], fitnet.regressor.bias))
    r = np.einsum("oc,bchw->bohw", weight, h_s) + bias[None, :, None, None]
    assert found.item() == pytest.approx(0.5 * np.square(h_t - r).mean(), abs=1e-12)


def test_fitnet_refuses_a_vector_naming_tap_and_shape() -> None:
    fitnet = FitNet(FitNetOptions(student_tap="penultimate"))
    with pytest.raises(TapShapeError, match=r"tap 'penultimate' of 'small_resnet' is 8.*map"):
        fitnet.build(TapShapes(*(Shapes(small_resnet(), {}) for _ in range(2))))


def test_a_hand_step_trains_a_student_without_a_study() -> None:
    """kd by gradient descent on the logits alone ends at the teacher's distribution."""
    z = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    z_t = torch.tensor(draw(4, 3))
    optimiser = torch.optim.SGD([z], lr=2.0)
    kd = Kd(KdOptions(temperature=2.0))
    for _ in range(300):
        optimiser.zero_grad()
        kd.terms(HandStep({"logits": z}, {"logits": z_t}))["kl"].backward()
        optimiser.step()
    assert torch.allclose(F.softmax(z / 2, 1), F.softmax(z_t / 2, 1), atol=1e-4)


def test_registers_distillers_that_exist() -> None:
    from importlib import import_module

    register = Register()
    classics.kdsearch_register(register)
    assert [entry.name for entry in register.entries] == ["kd", "dkd", "fitnet", "cwd", "sp", "match"]
    for entry in register.entries:
        module, _, name = entry.target.partition(":")
        assert getattr(import_module(module), name).options_class.model_fields


def maps_step(y_s: np.ndarray, y_t: np.ndarray) -> HandStep:
    return HandStep({"logits": torch.tensor(y_s)}, {"logits": torch.tensor(y_t)}, {})


def cwd_of(y_s: np.ndarray, y_t: np.ndarray, temperature: float) -> float:
    found = Cwd(CwdOptions(temperature=temperature))
    student, teacher = (Shapes(small_resnet((4, 6), 1, 5), {"logits": each.shape[1:]}) for each in (y_s, y_t))
    found.build(TapShapes(student, teacher))
    return float(found.terms(maps_step(y_s, y_t))["channels"])


def test_cwd_equals_the_paper() -> None:
    """Shu et al. 2021, eq. 3 and 4, channel by channel: T^2 / C times the sum over channels, mean over samples."""
    y_s, y_t, T = draw(3, 4, 2, 5), draw(3, 4, 2, 5, seed=1), 3.0
    losses = []
    for s, t in zip(y_s.reshape(3, 4, 10), y_t.reshape(3, 4, 10), strict=True):
        phi_s, phi_t = softmax(s / T), softmax(t / T)
        losses.append(T**2 / 4 * (phi_t * np.log(phi_t / phi_s)).sum())
    assert cwd_of(y_s, y_t, T) == pytest.approx(np.mean(losses), abs=1e-10)


def test_cwd_looks_at_places_and_not_at_heights() -> None:
    """What a channel has everywhere changes nothing; a channel that looks elsewhere does. Softened KL over classes would differ."""
    y_t = draw(2, 3, 4, 4)
    raised = y_t + draw(1, 3, 1, 1, seed=5)
    assert cwd_of(raised, y_t, 4.0) == pytest.approx(0, abs=1e-10)
    assert cwd_of(y_t[..., ::-1].copy(), y_t, 4.0) > 0.1


def test_cwd_resizes_the_students_map() -> None:
    y_t = draw(2, 3, 8, 8)
    small = F.interpolate(torch.tensor(y_t), (4, 4), mode="bilinear").numpy()
    large = F.interpolate(torch.tensor(small), (8, 8), mode="bilinear").numpy()
    assert cwd_of(small, y_t, 4.0) == pytest.approx(cwd_of(large, y_t, 4.0), abs=1e-10)


def test_cwd_of_vectors_is_refused() -> None:
    shapes = Shapes(small_resnet((4, 6), 1, 5, name="student"), {"logits": (5,)})
    with pytest.raises(TapShapeError, match="logits"):
        Cwd(CwdOptions()).build(TapShapes(shapes, shapes))
