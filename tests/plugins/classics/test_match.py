"""Matching outputs: contract, values against plain float64 numpy, and who is refused where."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from kdsearch_plugins.classics.dkd import Dkd, DkdOptions
from kdsearch_plugins.classics.kd import Kd, KdOptions
from kdsearch_plugins.classics.match import Match, MatchOptions

from kdsearch.errors import TapShapeError
from kdsearch.kinds import Shapes, TapShapes
from kdsearch.testing.distiller import DistillerContract
from kdsearch.testing.models import small_resnet
from kdsearch.testing.step import HandStep


class TestMse(DistillerContract):
    distiller = Match
    zero_at_equal = ("match",)


class TestHuber(DistillerContract):
    distiller = Match
    options: ClassVar = {"distance": "huber", "delta": 0.3}
    zero_at_equal = ("match",)


class TestCosine(DistillerContract):
    distiller = Match
    options: ClassVar = {"distance": "cosine"}


class TestBinaryKl(DistillerContract):
    distiller = Match
    options: ClassVar = {"distance": "binary_kl", "temperature": 2.0}
    zero_at_equal = ("match",)


MODEL = small_resnet((4, 6), 1, 5, name="student")


def made(fields, cls=Match, options=None):
    found = cls(options or MatchOptions())
    found.build(TapShapes(Shapes(MODEL, fields), Shapes(MODEL, fields)))
    return found.double() if cls is Match else found


def drawn(*shape, seed=0, scale=(1.0, 100.0)):
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z * torch.tensor(scale, dtype=torch.float64) + 7


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_a_cosine_near_1_is_told_apart_under_bf16():
    """1 - cos of vectors near the teacher's, as a CPU's autocast hands them on, is below bfloat16's step of 0.004."""
    t = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    s = (t.float() + 0.02 * torch.randn(64, 16, generator=torch.Generator().manual_seed(1))).bfloat16()
    found = made({"embedding": (16,)}, options=MatchOptions(distance="cosine"))
    a, b = s.double().numpy(), t.double().numpy()
    expected = (1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean()
    with torch.autocast("cpu", torch.bfloat16):
        term = found.terms(HandStep({"embedding": s}, {"embedding": t}))["match"]
    assert float(term) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("distance", ["mse", "huber", "cosine", "binary_kl"])
def test_values_are_those_of_the_formulas(distance):
    scale = (1.0, 2.0) if distance == "binary_kl" else (1.0, 100.0)
    s, t = drawn(6, 2, scale=scale) - 7, drawn(6, 2, seed=1, scale=scale) - 7
    found = made({"value": (2,)}, options=MatchOptions(distance=distance, delta=0.5, temperature=2.0))
    term = float(found.terms(HandStep({"value": s}, {"value": t}))["match"])
    a, b = s.numpy(), t.numpy()
    far = np.abs(a - b) / b.std(0)
    expected = {
        "mse": (far**2).mean(),
        "huber": np.where(far <= 0.5, far**2 / 2, 0.5 * (far - 0.25)).mean(),
        "cosine": (1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean(),
    }
    if distance == "binary_kl":
        p, q = sigmoid(b / 2), sigmoid(a / 2)
        expected[distance] = 4 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    assert term == pytest.approx(expected[distance], rel=1e-9)


def test_targets_in_other_units_weigh_the_same():
    s, t = drawn(6, 2), drawn(6, 2, seed=1)
    units = torch.tensor([1e-3, 1e6], dtype=torch.float64)
    one, other = (
        made({"value": (2,)}).terms(HandStep({"value": s * u}, {"value": t * u}))["match"] for u in (1.0, units)
    )
    assert float(one) == pytest.approx(float(other), rel=1e-9)


def test_the_spread_is_of_all_that_the_teacher_answered():
    found = made({"value": (2,)})
    batches = [drawn(n, 2, seed=n) for n in (3, 5, 8)]
    for z in batches:
        found.on_step_end(HandStep({"value": z}, {"value": z}))
    every = torch.cat(batches).numpy()
    np.testing.assert_allclose(found.spread(batches[0]).numpy(), every.std(0), rtol=1e-5)
    s = drawn(4, 2, seed=9)
    term = float(found.terms(HandStep({"value": s}, {"value": batches[0][:1].expand(4, 2)}))["match"])
    expected = (((s.numpy() - batches[0][:1].numpy()) / every.std(0)) ** 2).mean()
    assert term == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("mean", "std"), [(-122.41, 0.02), (-406757.0, 6.0), (1.6e9, 1e6), (0.0, 1e-12)])
def test_the_spread_survives_float32_far_from_zero(mean, std):
    """Degrees of longitude: a mean of squares less a square of the mean has nothing left of .02^2."""
    found = Match(MatchOptions())
    found.build(TapShapes(*[Shapes(MODEL, {"value": (1,)})] * 2))
    rng = torch.Generator().manual_seed(0)
    batches = [(mean + std * torch.randn(64, 1, generator=rng, dtype=torch.float64)).float() for _ in range(50)]
    first = found.spread(batches[0])
    assert float(first) == pytest.approx(batches[0].double().numpy().std(), rel=1e-3)
    for z in batches:
        found.on_step_end(HandStep({"value": z}, {"value": z}))
    assert float(found.spread(z)) == pytest.approx(torch.cat(batches).double().numpy().std(), rel=1e-3)


def test_a_constant_has_a_spread_of_one():
    found = Match(MatchOptions())
    found.build(TapShapes(*[Shapes(MODEL, {"value": (2,)})] * 2))
    z = torch.tensor([[-122.41, 0.0]]).expand(7, 2)
    for _ in range(3):
        assert found.spread(z).tolist() == [1.0, 1.0]
        found.on_step_end(HandStep({"value": z}, {"value": z}))


def test_the_output_is_the_task_s_or_the_one_that_is_named():
    many = {"value": (2,), "scores": (3,)}
    assert made(many, options=MatchOptions(field="scores")).field == "scores"
    with pytest.raises(TapShapeError, match="'match' names no output, and the task has value, scores"):
        made(many)
    with pytest.raises(TapShapeError, match="no output 'score'; did you mean 'scores'"):
        made(many, options=MatchOptions(field="score"))


@pytest.mark.parametrize(
    ("field", "instead"),
    [
        ("value", "{use: match}"),
        ("scores", "distance: binary_kl"),
        ("embedding", "distance: cosine"),
        ("boxes", "match"),
    ],
)
@pytest.mark.parametrize(("cls", "options", "name"), [(Kd, KdOptions(), "kd"), (Dkd, DkdOptions(), "dkd")])
def test_what_compares_classes_is_refused_with_what_fits(cls, options, name, field, instead):
    with pytest.raises(TapShapeError) as found:
        made({field: (2,)}, cls, options)
    assert f"'{name}' compares class probabilities, and the task answers {field}" in str(found.value)
    assert instead in str(found.value)


def test_a_wider_teacher_s_vectors_are_met_by_a_map_that_is_trained():
    """cosine: 1 - cos(W z_s, z_t), of pairs of vectors too; nothing else takes unequal widths."""
    narrow, wide = Shapes(MODEL, {"logits": (2, 3)}), Shapes(MODEL, {"logits": (2, 7)})
    found = Match(MatchOptions(distance="cosine"))
    found.build(TapShapes(narrow, wide))
    found.double()
    z_s = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z_t = torch.randn(4, 2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    term = found.terms(HandStep({"logits": z_s}, {"logits": z_t}))["match"]
    mapped, target = z_s.numpy().reshape(8, 3) @ found.widen.weight.detach().numpy().T, z_t.numpy().reshape(8, 7)
    cosines = (mapped * target).sum(1) / np.linalg.norm(mapped, axis=1) / np.linalg.norm(target, axis=1)
    assert term.item() == pytest.approx((1 - cosines).mean(), abs=1e-12)
    term.backward()
    assert found.widen.weight.grad.abs().sum() > 0
    for other, pair in (("mse", (narrow, wide)), ("cosine", (Shapes(MODEL, {"logits": (3,)}), wide))):
        with pytest.raises(TapShapeError, match="the teacher's"):
            Match(MatchOptions(distance=other)).build(TapShapes(*pair))
