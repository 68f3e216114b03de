"""The distiller `composed`: every design is a sound loss, its values are those of plain NumPy, and a study can search them."""

from __future__ import annotations

from itertools import product
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from kdsearch_plugins.auto_kd.composed import Composed, ComposedOptions
from scipy.spatial.distance import correlation, cosine
from scipy.special import log_softmax
from torch import Generator

from kdsearch.errors import TapShapeError
from kdsearch.host import Host
from kdsearch.kinds import HIDDEN, NoOptions, Shapes, TapShapes
from kdsearch.kinds.options import validate
from kdsearch.python.scorer import scorer
from kdsearch.study.api import make
from kdsearch.study.recipe import RecipeSpace
from kdsearch.testing.distiller import DistillerContract
from kdsearch.testing.models import small_resnet
from kdsearch.testing.step import HandStep

HOST = Host.load()
DISTANCES = ("mse", "kl", "cosine", "pearson")


class TestMaps(DistillerContract):
    distiller = Composed
    options: ClassVar = {"on": "maps", "distance": "mse"}


class TestScalesAndPatches(DistillerContract):
    distiller = Composed
    options: ClassVar = {"multi_scale": True, "local": True, "transform": "attention", "distance": "cosine"}


class TestBatchGram(DistillerContract):
    distiller = Composed
    options: ClassVar = {"transform": "batch_gram", "distance": "kl", "softmax": "batch", "local": True}
    zero_at_equal = ("maps",)


class TestChannelGram(DistillerContract):
    distiller = Composed
    options: ClassVar = {"transform": "channel_gram", "distance": "pearson", "multi_scale": True}
    zero_at_equal = ("maps",)


class TestChannelsOverPlaces(DistillerContract):
    distiller = Composed
    options: ClassVar = {"distance": "kl", "temperature": 2.0}


class TestLogits(DistillerContract):
    distiller = Composed
    options: ClassVar = {"on": "logits", "distance": "kl"}
    zero_at_equal = ("logits",)


class TestTransposed(DistillerContract):
    distiller = Composed
    options: ClassVar = {"on": "logits", "part": "transposed", "distance": "pearson", "temperature": 1.0}
    zero_at_equal = ("logits",)


class TestNonTarget(DistillerContract):
    distiller = Composed
    options: ClassVar = {"on": "logits", "part": "non_target", "distance": "cosine"}
    zero_at_equal = ("logits",)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def loss_of(s: np.ndarray, t: np.ndarray, label: Any = None, **options: Any) -> float:
    """The term of two maps of equal channels, or of two matrices of logits."""
    made = Composed(validate(ComposedOptions, {"on": "maps" if s.ndim == 4 else "logits", **options}))
    made.projector = torch.nn.Identity()
    name = "stage[-1]" if s.ndim == 4 else "logits"
    batch = {} if label is None else {"label": torch.as_tensor(label)}
    (term,) = made.terms(HandStep({name: torch.tensor(s)}, {name: torch.tensor(t)}, batch)).values()
    return float(term)


def plain(name: str, s: np.ndarray, t: np.ndarray, temperature: float) -> float:
    """A distance of rows."""
    if name == "mse":
        return float(np.square(s - t).mean())
    if name == "kl":
        a, b = log_softmax(s / temperature, axis=1), log_softmax(t / temperature, axis=1)
        return float((np.exp(b) * (b - a)).sum(1).mean() * temperature**2)
    of = cosine if name == "cosine" else correlation
    return float(np.mean([of(x, y) for x, y in zip(s, t, strict=True)]))


def gram_rows(x: np.ndarray) -> np.ndarray:
    g = x @ x.T
    return g / np.linalg.norm(g, axis=1, keepdims=True)


def prepared(name: str, f: np.ndarray, kl: bool, over: str) -> np.ndarray:
    """Rows of a transformed map, by the definition."""
    b, c = f.shape[:2]
    flat = f.reshape(b, c, -1)
    if name == "batch_gram":
        g = gram_rows(f.reshape(b, -1))
        return g.T if kl and over == "batch" else g
    if name == "channel_gram":
        x = np.stack([gram_rows(each) for each in flat])
    elif name == "attention":
        energy = np.square(flat).sum(1)
        x = (energy / np.linalg.norm(energy, axis=1, keepdims=True))[:, None]
    else:
        x = flat
    if kl:
        return x.reshape(b, -1).T if over == "batch" else x.reshape(-1, x.shape[-1])
    return x.reshape(-1, c) if name == "channel_gram" else x.reshape(b, -1)


@pytest.mark.parametrize("transform", ["identity", "attention", "batch_gram", "channel_gram"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("softmax", ["space", "batch"])
def test_a_map_loss_is_the_distance_of_transformed_rows(transform: str, distance: str, softmax: str) -> None:
    s, t = drawn(4, 3, 2, 5), drawn(4, 3, 2, 5, seed=1)
    rows = [prepared(transform, f, distance == "kl", softmax) for f in (s, t)]
    found = loss_of(s, t, transform=transform, distance=distance, softmax=softmax, temperature=2.0)
    assert found == pytest.approx(plain(distance, *rows, 2.0), rel=1e-9)


@pytest.mark.parametrize("transform", ["identity", "attention", "batch_gram", "channel_gram"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_under_autocast_it_is_that_of_the_same_maps(transform: str, distance: str) -> None:
    """In bfloat16 a loss this near the teacher is rounding: up to a thousand times too large, or below 0."""
    t = drawn(8, 6, 4, 4)
    s, t = (torch.tensor(each, dtype=torch.bfloat16) for each in (t + 0.01 * drawn(8, 6, 4, 4, seed=1), t))
    made = Composed(ComposedOptions(on="maps", transform=transform, distance=distance))
    made.projector = torch.nn.Identity()
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = made.terms(HandStep({"stage[-1]": s}, {"stage[-1]": t})).values()
    (exact,) = made.terms(HandStep({"stage[-1]": s.double()}, {"stage[-1]": t.double()})).values()
    assert float(found) == pytest.approx(float(exact), rel=0.05, abs=1e-6 if distance == "kl" else 0)


def test_scales_and_patches_are_means_over_pieces() -> None:
    s, t = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1)

    def pooled(f: np.ndarray, n: int) -> np.ndarray:
        return f.reshape(2, 3, 4 // n, n, 4 // n, n).max((3, 5))

    def cut(f: np.ndarray, n: int) -> list[np.ndarray]:
        w = f.shape[-1] // n
        return [f[..., i * w : i * w + w, j * w : j * w + w] for i in range(n) for j in range(n)]

    def by_hand(pieces_s: list[np.ndarray], pieces_t: list[np.ndarray]) -> float:
        rows = [[prepared("attention", f, False, "") for f in pair] for pair in zip(pieces_s, pieces_t, strict=True)]
        return float(np.mean([plain("mse", *pair, 1.0) for pair in rows]))

    options = {"transform": "attention", "distance": "mse"}
    scales = [[pooled(f, n) for n in (1, 2, 4)] for f in (s, t)]
    assert loss_of(s, t, **options, multi_scale=True) == pytest.approx(by_hand(*scales), rel=1e-9)
    places = [[piece for n in (1, 2, 4) for piece in cut(f, n)] for f in (s, t)]
    assert loss_of(s, t, **options, local=True) == pytest.approx(by_hand(*places), rel=1e-9)
    both = [[piece for f in each for n in (1, 2, 4) if n <= f.shape[-1] for piece in cut(f, n)] for each in scales]
    assert loss_of(s, t, **options, local=True, multi_scale=True) == pytest.approx(by_hand(*both), rel=1e-9)


def test_uneven_maps_are_cut_as_evenly_as_they_come() -> None:
    """5 rows and 3 columns into 2 x 2: rows 3 + 2, columns 2 + 1; nothing is cut finer than a pixel."""
    s, t = drawn(2, 1, 5, 3), drawn(2, 1, 5, 3, seed=1)
    cuts = [(slice(a, b), slice(c, d)) for a, b in ((0, 3), (3, 5)) for c, d in ((0, 2), (2, 3))]
    pieces = [*cuts, (slice(0, 5), slice(0, 3))]
    wanted = np.mean([np.square(s[..., r, c] - t[..., r, c]).mean() for r, c in pieces])
    assert loss_of(s, t, local=True) == pytest.approx(float(wanted), rel=1e-12)


@pytest.mark.parametrize("part", ["all", "transposed", "target", "non_target"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_logit_loss_is_the_distance_of_distributions(part: str, distance: str) -> None:
    z_s, z_t, label, T = drawn(5, 4), drawn(5, 4, seed=1), [0, 1, 2, 3, 1], 3.0
    pair = []
    for z in (z_s, z_t):
        p = np.exp(log_softmax(z / T, axis=1))
        chosen = {
            "all": p,
            "transposed": p.T / p.T.sum(1, keepdims=True),
            "target": np.array([[row[k], 1 - row[k]] for row, k in zip(p, label, strict=True)]),
            "non_target": np.array([np.delete(row, k) / (1 - row[k]) for row, k in zip(p, label, strict=True)]),
        }[part]
        pair.append(chosen)
    if distance == "kl":
        wanted = float((pair[1] * np.log(pair[1] / pair[0])).sum(1).mean()) * T**2
    else:
        wanted = plain(distance, *pair, 1.0)
    found = loss_of(z_s, z_t, label, part=part, distance=distance, temperature=T)
    assert found == pytest.approx(wanted, rel=1e-9)


def test_known_losses_are_among_the_designs() -> None:
    """KD, the two halves of DKD and SP, by their own plugins; SP: mse of relations is 1/B^2 || . ||_F^2."""
    z_s, z_t, label = drawn(6, 5), drawn(6, 5, seed=1), torch.arange(6) % 5
    step = HandStep({"logits": torch.tensor(z_s)}, {"logits": torch.tensor(z_t)}, {"label": label})
    kd, dkd, sp = (HOST.load_class("distiller", name) for name in ("kd", "dkd", "sp"))
    kl = {"on": "logits", "distance": "kl", "temperature": 4.0}
    assert loss_of(z_s, z_t, **kl) == pytest.approx(float(kd(kd.options_class()).terms(step)["kl"]), rel=1e-9)
    halves = dkd(dkd.options_class(beta=1.0)).terms(step)
    assert loss_of(z_s, z_t, label, **kl, part="target") == pytest.approx(float(halves["tckd"]), rel=1e-9)
    assert loss_of(z_s, z_t, label, **kl, part="non_target") == pytest.approx(float(halves["nckd"]), rel=1e-9)
    f_s, f_t = drawn(6, 2, 3, 3), drawn(6, 2, 3, 3, seed=1)
    maps = HandStep({"stage[-1]": torch.tensor(f_s)}, {"stage[-1]": torch.tensor(f_t)})
    wanted = float(sp(sp.options_class()).terms(maps)["similarity"])
    assert loss_of(f_s, f_t, transform="batch_gram") == pytest.approx(wanted, rel=1e-9)


def test_the_teachers_likeliest_class_stands_in_for_labels_that_are_hidden() -> None:
    z_s, z_t = drawn(4, 3), drawn(4, 3, seed=1)
    guess = z_t.argmax(1)
    options = {"part": "target", "distance": "kl"}
    assert loss_of(z_s, z_t, [HIDDEN] * 4, **options) == loss_of(z_s, z_t, guess, **options)
    assert loss_of(z_s, z_t, **options) == loss_of(z_s, z_t, guess, **options)


def built(**options: Any) -> Composed:
    loss = Composed(ComposedOptions(**options))
    student, teacher = small_resnet((4, 6)), small_resnet((4, 8), name="teacher")
    loss.build(TapShapes(Shapes(student, {"logits": (5,)}), Shapes(teacher, {"logits": (5,)})))
    return loss


def test_a_projection_is_trained_only_where_channels_are_compared() -> None:
    shapes = {
        name: [tuple(p.shape) for p in built(transform=name).parameters()] for name in ("identity", "channel_gram")
    }
    assert shapes == {"identity": [(8, 6, 1, 1)], "channel_gram": [(8, 6, 1, 1)]}
    assert not list(built(transform="attention").parameters())
    assert not list(built(transform="batch_gram").parameters())
    assert not list(built(on="logits").parameters())


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(TapShapeError, match=r"tap 'penultimate' of 'small_resnet' is 6\. Expected a map"):
        built(student_tap="penultimate")
    loss = Composed(ComposedOptions(on="logits"))
    with pytest.raises(TapShapeError, match=r"the student's logits are \(5,\), the teacher's \(7,\)"):
        loss.build(TapShapes(Shapes(small_resnet(), {"logits": (5,)}), Shapes(small_resnet(), {"logits": (7,)})))


SEARCHED = ("on", "multi_scale", "local", "transform", "part", "distance", "softmax", "temperature")


def recipe(**options: Any) -> RecipeSpace:
    study = make(
        data={"use": "digits"},
        teacher={"use": "trained", "options": {"space": "cifar_resnet"}},
        student={"space": "cifar_resnet"},
        recipe=[{"use": "composed", "weight": "search", "options": {**dict.fromkeys(SEARCHED, "search"), **options}}],
        host=HOST,
    )
    return RecipeSpace.from_study(study, HOST)


def test_a_controller_draws_whole_designs_and_no_choice_that_does_not_count() -> None:
    space, seen = recipe(), set()
    at = "recipe.distillers[0].options."
    controller = HOST.load_class("controller", "random")(NoOptions())
    for ask in controller.ask(None, space.dims, (), 150, 0):
        values = ask.values
        found = space.at(values)
        options = found.distillers[0].options
        chosen = {path.removeprefix(at) for path in values if path.startswith(at)}
        maps = {"multi_scale", "local", "transform", *(["softmax"] if values[f"{at}distance"] == "kl" else [])}
        assert chosen == {"on", "distance", "temperature"} | (maps if values[f"{at}on"] == "maps" else {"part"})
        assert 0.05 <= found.weights["composed"] <= 20
        seen.add(tuple(getattr(options, name) for name in SEARCHED[:-1]))
    assert len(seen) > 50


def test_a_fixed_side_leaves_the_other_sides_choices_out() -> None:
    names = {dim.path.rpartition(".")[2] for dim in recipe(on="logits").dims}
    assert names == {"weight", "part", "distance", "temperature"}


def test_every_design_gives_the_student_a_finite_gradient() -> None:
    student, teacher = small_resnet((4, 6)), small_resnet((4, 8), name="teacher")
    image = torch.randn(6, 3, 8, 8, generator=Generator().manual_seed(0))
    both = []
    for model in (student, teacher):
        maps = model.module.stages[1](model.module.stages[0](torch.relu(model.module.stem(image))))
        logits = model.module.classifier(model.module.pool(maps))
        both.append({"stage[1]": maps.detach().requires_grad_(), "logits": logits.detach().requires_grad_()})
    sides = [
        {"on": "maps", "multi_scale": a, "local": b, "transform": c}
        for a, b, c in product((False, True), (False, True), ("identity", "attention", "batch_gram", "channel_gram"))
    ] + [{"on": "logits", "part": part} for part in ("all", "transposed", "target", "non_target")]
    for side, distance, softmax in product(sides, DISTANCES, ("space", "batch")):
        if side.get("part") == "target" and distance == "pearson":  # refused: see below
            continue
        contract = DistillerContract()
        contract.distiller = Composed
        made = contract.made((student, teacher), ComposedOptions(**side, distance=distance, softmax=softmax))
        step = HandStep(*({**each, "stage[-1]": each["stage[1]"]} for each in both), {"label": torch.arange(6) % 5})
        (loss,) = made.terms(step).values()
        of = both[0]["stage[1]" if side["on"] == "maps" else "logits"]
        (grad,) = torch.autograd.grad(loss, of)
        assert loss >= -1e-6, (side, distance)
        assert torch.isfinite(grad).all(), (side, distance)
        assert grad.abs().max() > 1e-6, (side, distance)  # of rounding alone they are about 1e-8


@pytest.mark.parametrize(
    ("part", "distance", "classes"),
    [("target", "pearson", 5), ("all", "pearson", 2), ("non_target", "mse", 2), ("non_target", "pearson", 3)],
)
def test_a_design_without_a_gradient_is_refused(part: str, distance: str, classes: int) -> None:
    """By hand: of (p, 1 - p) deviations from the mean are p - 1/2 and 1/2 - p, whose correlation is 1 or -1 whatever p is."""
    loss = Composed(validate(ComposedOptions, {"on": "logits", "part": part, "distance": distance}))
    shapes = [Shapes(small_resnet(), {"logits": (n,)}) for n in (classes, 7)]
    with pytest.raises(TapShapeError, match=f"'{distance}' of '{part}' compares"):
        loss.build(TapShapes(shapes[0], shapes[0]))
    if part != "target":
        loss.build(TapShapes(shapes[1], shapes[1]))


def test_a_design_scores_without_training_too() -> None:
    proxy = {"use": "kd.composed", "options": {"transform": "channel_gram", "distance": "cosine", "local": True}}
    scoring = scorer(
        "cifar_resnet", [proxy], shape=(3, 8, 8), classes=5, teacher={"depths": [2, 1, 1], "widths": [4, 8, 8]}
    )
    rows = scoring.score_all([{"depths": [1, 1, d], "widths": [4, 4, 8]} for d in (1, 2)])
    assert len({row.scores["kd.composed"] for row in rows} - {None}) == 2
