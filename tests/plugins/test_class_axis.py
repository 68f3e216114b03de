"""Distillers of logits go over the classes, wherever the task has them, against plain float64 numpy, position by position."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from kdsearch_plugins.auto_kd.composed import Composed, ComposedOptions
from kdsearch_plugins.classics.dkd import Dkd, DkdOptions
from kdsearch_plugins.classics.kd import Kd, KdOptions
from kdsearch_plugins.classics.match import Match, MatchOptions
from torch import Generator, nn

from kdsearch.builtin.distiller_proxy import proxy_of
from kdsearch.builtin.text.causal_lm import CausalLm
from kdsearch.builtin.text.seq2seq import Seq2Seq
from kdsearch.builtin.vision.segmentation import Segmentation
from kdsearch.engine.cache import Live
from kdsearch.engine.step import Cast, LiveStep
from kdsearch.errors import TapShapeError
from kdsearch.kinds import HIDDEN, IO, Batch, Clock, Field, Model, NoOptions, Shapes, TapShapes, Task
from kdsearch.search.probe import LiveProbe

B, K, T = 3, 5, 2.0
VECTOR, SEQUENCE, MAP = (
    Field("logits", "logits", (K,)),
    Field("logits", "logits", (None, K)),
    Field("logits", "logits", (K, 2, 4)),
)
POINTS = Field("logits", "logits", (K, 6), classes_at=0)  # a cloud whose classes come first
SHAPES = {
    "vector": (VECTOR, (B, K)),
    "sequence": (SEQUENCE, (B, 7, K)),
    "map": (MAP, (B, K, 2, 4)),
    "points": (POINTS, (B, K, 6)),
}
EVERY = pytest.mark.parametrize("what", SHAPES)


class Positions(Task[NoOptions]):
    """A class at each position; the batch's `padding` says which positions are none."""

    def __init__(self, output: Field) -> None:
        super().__init__(NoOptions())
        self.output = output

    def io(self, fields, facts):
        return IO((Field("x", "vector", self.output.shape),), (self.output,))

    def loss(self, out, batch):
        return out["logits"].mean()

    def counted(self, batch):
        return ~batch["padding"] if "padding" in batch else None


def step_of(
    what: str, padded: bool = False, seed: int = 0
) -> tuple[LiveStep, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A live step of two networks with their logits (B, ...), the labels (B, ...), and which positions count."""
    field, shape = SHAPES[what]
    rng = Generator().manual_seed(seed)
    x = torch.randn(shape, generator=rng, dtype=torch.float64)
    positions = tuple(np.delete(shape, field.class_axis % len(shape)))
    label = torch.randint(0, K, positions, generator=rng)
    tensors = {"x": x, "label": label}
    if padded:
        tensors["padding"] = torch.rand(positions, generator=rng) < 0.4
    batch = Batch(tuple("abc"), tensors)
    task = Positions(field)
    student, teacher = (Model(Wave(k), ("x",), name=name) for k, name in ((3.0, "student"), (5.0, "teacher")))
    cast = Cast(
        task, task.io((), {}), {"student": student}, {"teacher": Live(teacher, task, None)}, {}, torch.device("cpu")
    )
    step = LiveStep(cast, {"train": batch}, batch, Generator(), Clock(0, 0, 0.0, 1))
    counts = ~tensors["padding"].numpy() if padded else np.ones(positions, dtype=bool)
    return step, student.module(x).numpy(), teacher.module(x).numpy(), label.numpy(), counts


class Wave(nn.Module):
    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k

    def forward(self, x):
        return 2 * torch.sin(self.k * x)


@pytest.mark.parametrize(
    "what", [each for each in SHAPES if each != "points"]
)  # whose shape does not say where classes are
@pytest.mark.parametrize("distance", ["mse", "huber", "cosine", "binary_kl"])
def test_match_compares_what_stands_at_each_position(what, distance):
    step, z_s, z_t, y, counts = step_of(what, padded=what != "vector")
    shapes = Shapes(Model(nn.Identity(), ("x",)), {"logits": SHAPES[what][0].shape})
    match = Match(MatchOptions(distance=distance))
    match.build(TapShapes(shapes, shapes))
    match.double()
    assert match.terms(step)["match"].isfinite()
    match.on_step_end(step)
    if distance == "mse":
        rows = np.array([t for _, t, _ in places(what, z_s, z_t, y, counts)])
        far = np.array([s - t for s, t, _ in places(what, z_s, z_t, y, counts)])
        assert match.terms(step)["match"].item() == pytest.approx(((far / rows.std(0)) ** 2).mean(), rel=1e-6)


def places(
    what: str, z_s: np.ndarray, z_t: np.ndarray, y: np.ndarray, counts: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """(z_s (K,), z_t (K,), class) of every position that counts, by hand for each shape."""
    for b in range(B):
        if what == "vector":
            found = [(z_s[b], z_t[b], y[b], counts[b])]
        elif what == "sequence":
            found = [(z_s[b, t], z_t[b, t], y[b, t], counts[b, t]) for t in range(7)]
        elif what == "map":
            found = [
                (z_s[b, :, i, j], z_t[b, :, i, j], y[b, i, j], counts[b, i, j]) for i in range(2) for j in range(4)
            ]
        else:
            found = [(z_s[b, :, i], z_t[b, :, i], y[b, i], counts[b, i]) for i in range(6)]
        yield from ((s, t, int(k)) for s, t, k, is_in in found if is_in)


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum()


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum())


@EVERY
@pytest.mark.parametrize("padded", [False, True])
def test_kd(what: str, padded: bool) -> None:
    step, *given = step_of(what, padded)
    expected = np.mean([T**2 * kl(softmax(t / T), softmax(s / T)) for s, t, _ in places(what, *given)])
    assert float(Kd(KdOptions(temperature=T)).terms(step)["kl"]) == pytest.approx(expected, abs=1e-12)


@EVERY
@pytest.mark.parametrize("padded", [False, True])
def test_dkd(what: str, padded: bool) -> None:
    step, *given = step_of(what, padded)
    target, rest = [], []
    for s, t, k in places(what, *given):
        p_s, p_t = softmax(s / T), softmax(t / T)
        target.append(kl(np.array([p_t[k], 1 - p_t[k]]), np.array([p_s[k], 1 - p_s[k]])))
        rest.append(kl(np.delete(p_t, k) / (1 - p_t[k]), np.delete(p_s, k) / (1 - p_s[k])))
    terms = Dkd(DkdOptions(alpha=1.0, beta=1.0, temperature=T)).terms(step)
    assert float(terms["tckd"]) == pytest.approx(T**2 * np.mean(target), abs=1e-12)
    assert float(terms["nckd"]) == pytest.approx(T**2 * np.mean(rest), abs=1e-12)


@EVERY
def test_composed(what: str) -> None:
    step, *given = step_of(what)
    expected = np.mean([np.square(softmax(t / T) - softmax(s / T)).mean() for s, t, _ in places(what, *given)])
    terms = Composed(ComposedOptions(on="logits", distance="mse", temperature=T)).terms(step)
    assert float(terms["logits"]) == pytest.approx(expected, abs=1e-12)


@EVERY
def test_a_distiller_as_a_proxy(what: str) -> None:
    step, *given = step_of(what)
    task, models = step.cast.task, [step.cast.models["student"], step.cast.teachers["teacher"].model]
    probe = LiveProbe(step.batch, step.cast.io, task, models[1])
    expected = -0.9 * np.mean([T**2 * kl(softmax(t / T), softmax(s / T)) for s, t, _ in places(what, *given)])
    assert proxy_of("kd", Kd)(KdOptions(temperature=T)).score(models[0], probe) == pytest.approx(expected, abs=1e-12)


def test_a_hidden_label_takes_the_teachers_class_there() -> None:
    step, _, z_t, y, _ = step_of("sequence")
    hidden, guessed = y.copy(), y.copy()
    hidden[1, 3:] = HIDDEN
    guessed[1, 3:] = z_t[1, 3:].argmax(-1)
    dkd = Dkd(DkdOptions(temperature=T))
    one, other = (dkd.terms(step.on(step.batch.having(label=torch.tensor(each)))) for each in (hidden, guessed))
    assert torch.equal(one["tckd"], other["tckd"])
    assert not torch.equal(one["tckd"], dkd.terms(step)["tckd"])


TASKS = {
    "segmentation": (Segmentation, MAP, "mask"),
    "causal_lm": (CausalLm, SEQUENCE, "next"),
    "seq2seq": (Seq2Seq, SEQUENCE, "next"),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_truth_is_read_where_the_task_has_it(name: str) -> None:
    """A third of the positions have another class than the teacher's likeliest one, a third the same, a third none."""
    cls, field, target = TASKS[name]
    task = cls(cls.options_class())
    shape = (B, K, 2, 4) if field is MAP else (B, 7, K)
    x = torch.randn(shape, generator=Generator().manual_seed(0), dtype=torch.float64)
    student, teacher = (Model(Wave(k), ("x",), name=name) for k, name in ((3.0, "student"), (5.0, "teacher")))
    z_s, z_t = (each.module(x).movedim(field.class_axis, -1) for each in (student, teacher))  # (B, ..., K)
    likeliest = z_t.argmax(-1)
    third = torch.arange(likeliest.numel()).reshape(likeliest.shape) % 3
    truth = torch.where(third == 0, (likeliest + 1) % K, likeliest)
    tensors = {"x": x, target: truth.masked_fill(third == 2, HIDDEN)}
    counts = torch.ones_like(truth, dtype=torch.bool)
    if field is SEQUENCE:
        counts[1, 4:] = False
        tensors["prefix_mask" if name == "seq2seq" else "mask"] = counts.long()
    batch, io = Batch(tuple("abc"), tensors), IO((Field("x", "vector", field.shape),), (field,))
    cast = Cast(task, io, {"student": student}, {"teacher": Live(teacher, task, None)}, {}, torch.device("cpu"))
    step = LiveStep(cast, {"train": batch}, batch, Generator(), Clock(0, 0, 0.0, 1))

    target_kl, rest_kl = [], []
    for s, t, k in zip(z_s[counts].numpy(), z_t[counts].numpy(), truth[counts].tolist(), strict=True):
        p_s, p_t = softmax(s / T), softmax(t / T)
        target_kl.append(kl(np.array([p_t[k], 1 - p_t[k]]), np.array([p_s[k], 1 - p_s[k]])))
        rest_kl.append(kl(np.delete(p_t, k) / (1 - p_t[k]), np.delete(p_s, k) / (1 - p_s[k])))
    expected = {"target": T**2 * np.mean(target_kl), "non_target": T**2 * np.mean(rest_kl)}
    terms = Dkd(DkdOptions(alpha=1.0, beta=1.0, temperature=T)).terms(step)
    assert float(terms["tckd"]) == pytest.approx(expected["target"], abs=1e-12)
    assert float(terms["nckd"]) == pytest.approx(expected["non_target"], abs=1e-12)
    for part, value in expected.items():
        options = ComposedOptions(on="logits", part=part, distance="kl", temperature=T)
        assert float(Composed(options).terms(step)["logits"]) == pytest.approx(value, abs=1e-12)
    score = proxy_of("dkd", Dkd)(DkdOptions(alpha=1.0, beta=1.0, temperature=T)).score(
        student, LiveProbe(batch, io, task, teacher)
    )
    assert score == pytest.approx(-sum(expected.values()), abs=1e-12)


def test_a_batch_of_padding_alone_is_zero() -> None:
    step, *_ = step_of("sequence")
    empty = step.on(step.batch.having(padding=torch.ones(B, 7, dtype=torch.bool)))
    assert float(Kd(KdOptions()).terms(empty)["kl"]) == 0.0
    assert set(map(float, Dkd(DkdOptions()).terms(empty).values())) == {0.0}


def test_a_sample_that_does_not_count_counts_at_none_of_its_positions() -> None:
    counted = torch.tensor([True, False, True])
    logits = torch.arange(B * K * 2 * 4, dtype=torch.float64).view(B, K, 2, 4)
    expected = np.concatenate([logits[b, :, i, j][None].numpy() for b in (0, 2) for i in range(2) for j in range(4)])
    assert np.array_equal(MAP.rows(logits, counted).numpy(), expected.reshape(-1, K))


@pytest.mark.parametrize("shape", [(B,), (B, K, 2, 4)])
def test_a_tensor_of_other_axes_is_refused_by_name(shape: tuple[int, ...]) -> None:
    with pytest.raises(TapShapeError, match="'logits' is 3"):
        SEQUENCE.rows(torch.zeros(shape))
