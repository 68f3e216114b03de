"""DisWOT's scores: contract, worked examples, closed forms against autograd and against explicit matrices."""

from importlib import import_module
from typing import ClassVar

import numpy as np
import pytest
import torch
from kdsearch_plugins import diswot
from kdsearch_plugins.diswot.proxy import (
    Diswot,
    DiswotMr,
    DiswotMs,
    DiswotOptions,
    RelationOptions,
    SemanticOptions,
)
from kdsearch_plugins.diswot.reference import rank_sum, z_sum
from kdsearch_plugins.diswot.scores import cam_score, gradient, relation_score, semantic_score
from torch.nn import functional as F

from kdsearch.errors import PluginError, TapError, TapShapeError
from kdsearch.hooks import Register
from kdsearch.kinds import HIDDEN, Model
from kdsearch.testing.models import noise_batch, small_resnet
from kdsearch.testing.probe import HandProbe
from kdsearch.testing.proxy import ProxyContract


class TestDiswot(ProxyContract):
    proxy = Diswot


class TestDiswotKaimingTwoStages(ProxyContract):
    proxy = Diswot
    options: ClassVar = {"init": "kaiming", "stages": 2}


class TestDiswotRankSum(ProxyContract):
    proxy = Diswot
    options: ClassVar = {"score": "ranksum"}


class TestDiswotZSum(ProxyContract):
    proxy = Diswot
    options: ClassVar = {"score": "zsum", "semantic": "cam_map"}


class TestDiswotMr(ProxyContract):
    proxy = DiswotMr


class TestDiswotMs(ProxyContract):
    proxy = DiswotMs


class TestDiswotMsCam(ProxyContract):
    proxy = DiswotMs
    options: ClassVar = {"semantic": "cam_map"}


@pytest.fixture
def probe() -> HandProbe:
    return HandProbe(noise_batch(8), teacher=small_resnet(depth=3, seed=9, name="teacher"))


def m_r_by_hand(a_s: np.ndarray, a_t: np.ndarray) -> float:
    rows = []
    for a in (a_s, a_t):
        g = a.reshape(len(a), -1).astype(np.float64)
        g = g @ g.T
        rows.append(g / np.maximum(np.linalg.norm(g, axis=1, keepdims=True), 1e-12))
    return -float(np.square(rows[0] - rows[1]).sum()) / len(a_s) ** 2


def m_s_by_hand(g_s: np.ndarray, g_t: np.ndarray) -> float:
    """The definition with explicit C x C matrices."""
    total = 0.0
    for k in range(len(g_s)):
        e = []
        for g in (g_s[k], g_t[k]):
            outer = np.outer(g, g)
            e.append(outer / np.maximum(np.linalg.norm(outer, axis=1, keepdims=True), 1e-12))
        total += np.square(e[0] - e[1]).sum()
    return -total / g_s.size


def test_relation_score_is_the_definition_on_the_last_map(probe: HandProbe) -> None:
    student = small_resnet((3, 7), seed=1)  # other widths than the teacher
    wanted = m_r_by_hand(probe.run(student)["stage[-1]"].numpy(), probe.teacher["stage[-1]"].numpy())
    assert relation_score(student, probe, ["stage[-1]"]) == pytest.approx(wanted, abs=1e-10)
    both = wanted + m_r_by_hand(probe.run(student)["stage[0]"].numpy(), probe.teacher["stage[0]"].numpy())
    assert relation_score(student, probe, ["stage[0]", "stage[1]"]) == pytest.approx(both, abs=1e-10)


def autograd_gradient(model: Model, probe: HandProbe) -> np.ndarray:
    module = model.copy().module.double().train()
    loss = F.cross_entropy(module(probe.batch["image"].double()), probe.batch["label"])
    loss.backward()
    return module.classifier.weight.grad.numpy()


def test_classifier_gradient_equals_autograd(probe: HandProbe) -> None:
    student = small_resnet(depth=2, seed=3)
    found = gradient(probe.run(student), probe.batch).numpy()
    assert np.abs(found - autograd_gradient(student, probe)).max() < 1e-6


def test_semantic_score_is_the_definition_with_autograd(probe: HandProbe) -> None:
    student = small_resnet(depth=2, seed=3)
    wanted = m_s_by_hand(autograd_gradient(student, probe), autograd_gradient(probe.teacher_model, probe))
    assert semantic_score(student, probe) == pytest.approx(wanted, abs=1e-4)


def test_student_that_is_the_teacher_scores_zero(probe: HandProbe) -> None:
    twin = probe.teacher_model.copy()
    proxy = Diswot(DiswotOptions())
    proxy.fit([twin], probe)
    assert proxy.score(twin, probe) == pytest.approx(0, abs=1e-12)
    assert proxy.note == ""


def test_sum_is_the_sum_and_terms_are_the_registered_ones(probe: HandProbe) -> None:
    student = small_resnet(seed=5)
    m_r, m_s = DiswotMr(RelationOptions()).score(student, probe), DiswotMs(SemanticOptions()).score(student, probe)
    assert Diswot(DiswotOptions()).score(student, probe) == m_r + m_s
    assert Diswot(DiswotOptions(score="mr")).score(student, probe) == m_r
    assert Diswot(DiswotOptions(score="ms")).score(student, probe) == m_s


@pytest.fixture
def sample() -> list[Model]:
    return [small_resnet(depth=1 + i % 3, seed=i) for i in range(12)]


def test_rank_sum_counts_within_the_reference(probe: HandProbe, sample: list[Model]) -> None:
    proxy = Diswot(DiswotOptions(score="ranksum"))
    proxy.fit(sample, probe)
    terms = np.array([proxy.terms(model, probe) for model in sample])
    for row, model in zip(terms, sample, strict=True):  # at the reference's own values a rank is a count
        wanted = sum(np.log(((terms[:, i] < row[i]).sum() + 1) / 13) for i in range(2))
        assert proxy.score(model, probe) == pytest.approx(float(wanted), abs=1e-12)
    between = (float(np.sort(terms[:, 0])[4:6].mean()), float(terms[:, 1].max() + 1))
    assert rank_sum(between, terms) == pytest.approx(np.log(5.5 / 13) + np.log(1), abs=0.1)
    assert rank_sum((between[0], between[1] + 1), terms) > rank_sum(between, terms), "no ties beyond the ends"


def test_z_sum_is_numpys(probe: HandProbe, sample: list[Model]) -> None:
    proxy = Diswot(DiswotOptions(score="zsum"))
    proxy.fit(sample, probe)
    terms = np.array([proxy.terms(model, probe) for model in sample])
    student = small_resnet(depth=2, seed=77)
    wanted = ((np.array(proxy.terms(student, probe)) - terms.mean(0)) / terms.std(0)).sum()
    assert proxy.score(student, probe) == pytest.approx(float(wanted), rel=1e-9)
    z = [proxy.score(model, probe) for model in sample]
    assert sum(z) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("joined", [rank_sum, z_sum])
def test_what_is_not_finite_is_the_worst_and_spoils_no_reference(joined) -> None:
    reference = [(1.0, 10.0), (2.0, 30.0), (-np.inf, 20.0)]
    assert joined((np.nan, 20.0), reference) == joined((1.0, -np.inf), reference) == -np.inf
    assert np.isfinite(joined((1.5, 20.0), reference))
    assert joined((2.0, 20.0), reference) > joined((1.5, 20.0), reference)
    assert np.isfinite(joined((1.0, 2.0), [(-np.inf, -np.inf)] * 3))


def test_a_term_in_which_the_reference_agrees_counts_0() -> None:
    assert z_sum((5.0, 3.0), [(0.1, 1.0), (0.1, 3.0), (0.1, 2.0)]) == pytest.approx(1 / np.sqrt(2 / 3), rel=1e-12)


@pytest.mark.parametrize("kind", ["ranksum", "zsum"])
def test_without_fit_it_says_what_to_do(kind: str, probe: HandProbe) -> None:
    with pytest.raises(PluginError, match=f"'score: {kind}' has no reference"):
        Diswot(DiswotOptions(score=kind)).score(small_resnet(), probe)


def cam_by_hand(model: Model, probe: HandProbe) -> np.ndarray:
    """(B, K, H W): the gradient of each logit by the last map, averaged over places, times the map (Grad-CAM), times H W."""
    net = model.copy().module.double().train()
    x = F.relu(net.stem(probe.batch["image"].double()))
    for stage in net.stages:
        x = stage(x)
    maps = x.detach().requires_grad_()
    logits = net.classifier(net.pool(maps))
    found = []
    for k in range(logits.shape[1]):
        (grad,) = torch.autograd.grad(logits[:, k].sum(), maps, retain_graph=True)
        weight = grad.sum((2, 3), keepdim=True)
        found.append((weight * maps).sum(1).flatten(1).detach().numpy())
    return np.stack(found, 1)


def test_cam_score_compares_grad_cams_maps(probe: HandProbe) -> None:
    student = small_resnet((3, 7), seed=1)  # other widths than the teacher
    total = 0.0
    for s, t in zip(cam_by_hand(student, probe), cam_by_hand(probe.teacher_model, probe), strict=True):
        e_s, e_t = (g / np.linalg.norm(g, axis=1, keepdims=True) for g in (s @ s.T, t @ t.T))
        total += np.square(e_s - e_t).sum()
    assert cam_score(student, probe) == pytest.approx(-total / (8 * 5), abs=1e-5)
    assert cam_score(probe.teacher_model.copy(), probe) == pytest.approx(0, abs=1e-12)
    proxy = Diswot(DiswotOptions(semantic="cam_map"))
    proxy.fit([student], probe)
    assert proxy.note == "", "other widths are no obstacle"
    assert proxy.score(student, probe) == relation_score(student, probe, ["stage[-1]"]) + cam_score(student, probe)
    assert DiswotMs(SemanticOptions(semantic="cam_map")).score(student, probe) == cam_score(student, probe)


def test_cam_score_names_what_a_network_lacks(probe: HandProbe) -> None:
    headless = small_resnet(seed=1, name="headless")
    headless.module.classifier = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Linear(6, 5))
    with pytest.raises(TapShapeError, match=r"'stage\[-1\]' of 'headless' is 8x4x4.*map of the 6 channels"):
        cam_score(headless, probe)
    headless.module.classifier = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.LayerNorm(5))
    assert isinstance(cam_score(headless, probe), float)
    headless.module.classifier = torch.nn.Sequential(
        torch.nn.Linear(8, 6), torch.nn.Conv1d(1, 1, 2), torch.nn.Flatten()
    )
    headless.module.pool.append(torch.nn.Unflatten(1, (1, 8)))
    with pytest.raises(TapError, match="'headless' has no linear classifier of 5 classes"):
        cam_score(headless, probe)


def test_maps_that_no_classifier_reads_make_it_m_r_alone_or_are_refused(probe: HandProbe) -> None:
    headless = small_resnet(seed=1, name="headless")
    headless.module.classifier = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Linear(6, 5))
    sample = [small_resnet(seed=2), headless]
    proxy = Diswot(DiswotOptions(semantic="cam_map"))
    proxy.fit(sample, probe)
    assert proxy.note == "M_r alone: M_s is undefined, as tap 'stage[-1]' of 'headless' is 8x4x4"
    assert proxy.score(headless, probe) == relation_score(headless, probe, ["stage[-1]"])
    for refusing in (
        Diswot(DiswotOptions(semantic="cam_map", score="ms")),
        DiswotMs(SemanticOptions(semantic="cam_map")),
    ):
        with pytest.raises(TapShapeError, match="'headless' is 8x4x4"):
            refusing.fit(sample, probe)


def test_other_widths_make_it_m_r_alone_for_the_whole_study(probe: HandProbe) -> None:
    proxy = Diswot(DiswotOptions())
    proxy.fit([small_resnet(seed=1), small_resnet((4, 6), name="narrow")], probe)
    assert proxy.note == "M_r alone: M_s is undefined, as 'narrow' is 6 wide before the classifier and the teacher 8"
    assert list(proxy.taps()) == ["stage[-1]"]
    for student in (small_resnet(seed=5), small_resnet((4, 6))):  # also where M_s would be defined
        assert proxy.score(student, probe) == relation_score(student, probe, ["stage[-1]"])


@pytest.mark.parametrize("proxy", [DiswotMs(SemanticOptions()), Diswot(DiswotOptions(score="ms"))])
def test_m_s_alone_refuses_other_widths_naming_both(proxy: DiswotMs | Diswot, probe: HandProbe) -> None:
    narrow = small_resnet((4, 6), name="narrow")
    with pytest.raises(
        TapShapeError, match=r"'narrow' is 6 wide at 'penultimate' with 5 classes, the teacher 8 with 5"
    ):
        proxy.score(narrow, probe)
    with pytest.raises(TapShapeError, match="6 wide"):
        proxy.fit([small_resnet(), narrow], probe)


def test_the_teacher_runs_once(probe: HandProbe) -> None:
    passes = []
    handle = probe.teacher_model.module.register_forward_hook(lambda *_: passes.append(1))
    proxy = Diswot(DiswotOptions())
    students = [small_resnet(seed=i) for i in range(4)]
    proxy.fit(students, probe)
    for student in students:
        proxy.score(student, probe)
    handle.remove()
    assert len(passes) == 1


def test_a_student_runs_once_for_all_proxies(probe: HandProbe) -> None:
    student, passes = small_resnet(), []
    student.module.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    for proxy in (Diswot(DiswotOptions()), DiswotMr(RelationOptions()), DiswotMs(SemanticOptions())):
        proxy.score(student, probe)
    assert passes == [False]


def test_hidden_labels_do_not_count(probe: HandProbe) -> None:
    batch = noise_batch(8)
    batch["label"][4:] = HIDDEN
    out = probe.run(small_resnet())
    half = HandProbe(batch).batch
    found = gradient(out, half)
    f, z, y = out["penultimate"][:4].double(), out["logits"][:4].double(), batch["label"][:4]
    wanted = (z.softmax(1) - F.one_hot(y, 5)).mT @ f / 4
    assert torch.allclose(found, wanted, atol=1e-12)


def test_features_that_are_not_finite_rank_last(probe: HandProbe) -> None:
    student = small_resnet()
    with torch.no_grad():
        student.module.stages[1][0].conv2.weight.fill_(float("nan"))
    for score in (lambda *of: relation_score(*of, ["stage[-1]"]), semantic_score, cam_score):
        assert score(student, probe) == -np.inf
    for kind in ("sum", "ranksum", "zsum"):
        proxy = Diswot(DiswotOptions(score=kind))
        proxy.fit([small_resnet(seed=i) for i in range(3)], probe)
        assert proxy.score(student, probe) == -np.inf


def test_registers_what_exists() -> None:
    register = Register()
    diswot.kdsearch_register(register)
    assert [(entry.kind, entry.name) for entry in register.entries] == [
        ("proxy", "diswot"),
        ("proxy", "diswot_mr"),
        ("proxy", "diswot_ms"),
        ("distiller", "diswot"),
    ]
    for entry in register.entries:
        module, _, name = entry.target.partition(":")
        assert hasattr(import_module(module), name)
