"""A score is a function of (canonical spec, probe seed, init seed) and of nothing else."""

import gc
import math
import signal
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from search_toy import (
    TOY_IO,
    CountedSpace,
    Energy,
    Size,
    ToySpace,
    ToyTask,
    toy_proxies,
    toy_scorer,
)
from torch import nn

from kdsearch.errors import InterruptedRun, PluginError, TapError
from kdsearch.kinds import Cost, Model, NoOptions, Probe, Proxy
from kdsearch.search.probe import LiveProbe
from kdsearch.search.scoring import Scored, Scorer, built, cost_of, inits_of, random_teacher
from kdsearch.search.trace import Trace

SPECS: list[dict[str, Any]] = [
    {"depth": d, "width": w, "norm": n, "alias": 0}
    for d, w, n in [(1, 2, True), (3, 4, True), (2, 8, False), (2, 6, True)]
]


def test_order_company_and_process_of_candidates_change_no_bit() -> None:
    forwards = toy_scorer().score_all(SPECS)
    backwards = toy_scorer().score_all(SPECS[::-1])[::-1]
    alone = [toy_scorer().score(spec) for spec in SPECS]
    assert forwards == backwards == alone


@pytest.mark.parametrize("order", [("vandal", "energy", "size", "g"), ("g", "size", "energy", "vandal")])
def test_a_proxy_sees_nothing_of_the_others(order: tuple[str, ...]) -> None:
    together = toy_scorer(order).score_all(SPECS)
    for name in order:
        assert [row.scores[name] for row in toy_scorer([name]).score_all(SPECS)] == [
            row.scores[name] for row in together
        ]


def test_a_proxy_that_writes_into_the_batch_is_named_and_no_other() -> None:
    """What the others score would be of zeros, and one of them be blamed."""

    class Zeroes(Size):
        def score(self, student: Model, probe: Probe) -> float:
            probe.batch["image"].data.zero_()
            return 1.0

    proxies = {"zeroes": Zeroes(NoOptions()), "size": Size(NoOptions())}
    scorer = Scorer(ToySpace(), TOY_IO, ToyTask(NoOptions()), proxies, batch_size=8)
    with pytest.raises(PluginError, match=r"^proxy zeroes: writes into the probe's batch \('image'\)"):
        scorer.check()


def test_the_batch_is_put_back_missing_numbers_included() -> None:
    probe = probe_with(student_of(depth=1, width=4))
    image = probe.batch["image"]
    assert probe.put_back() == []
    known = image.clone()
    image.data.zero_()
    assert probe.put_back() == ["image"]
    assert torch.equal(image, known)
    image.data[0] = torch.nan
    gaps = LiveProbe(probe.batch, TOY_IO, ToyTask(NoOptions()))
    assert gaps.put_back() == []


def test_gradients_are_as_they_were() -> None:
    toy_scorer(["vandal"]).score(SPECS[0])
    assert torch.is_grad_enabled()


def test_specs_of_one_canonical_form_have_one_row() -> None:
    a, b = (toy_scorer().score({"depth": 2, "width": 4, "norm": True, "alias": alias}) for alias in (0, 1))
    assert a == b
    assert a.spec["alias"] == 0


def test_global_streams_stay() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    toy_scorer().score(SPECS[0])
    assert torch.equal(before, torch.get_rng_state())


def test_no_two_seeds_share_an_initialisation() -> None:
    assert len({init for seed in range(20) for init in inits_of(seed, 5)}) == 100
    assert inits_of(4, 5)[:2] == inits_of(4, 2)


def test_init_seeds_and_probe_seed_count_and_are_averaged() -> None:
    names = ["energy", "size", "g"]
    single = [toy_scorer(names, init_seeds=[seed]).score(SPECS[1]) for seed in (3, 8, 11)]
    both = toy_scorer(names, init_seeds=[3, 8, 11]).score(SPECS[1])
    for name in names:
        values = [each.scores[name] for each in single]
        assert both.scores[name] == pytest.approx(np.mean(values), rel=1e-12)
        assert both.spread[name] == pytest.approx(np.std(values), rel=1e-12, abs=1e-12)
    assert single[0].scores["energy"] != single[1].scores["energy"]
    assert (
        toy_scorer(names, probe_seed=1).score(SPECS[1]).scores["energy"]
        != toy_scorer(names).score(SPECS[1]).scores["energy"]
    )


class Flow(Proxy[NoOptions]):
    """As large as synaptic flow is without a logarithm, twice that at the next initialisation."""

    unit = 1e200

    def score(self, student: Model, probe: Probe) -> float:
        self.unit *= 2
        return self.unit


@pytest.mark.parametrize(("unit", "mean", "spread"), [(1e200, 3e200, 1e200), (4e307, 1.2e308, 4e307), (0.0, 0.0, 0.0)])
def test_means_of_scores_do_not_overflow(unit: float, mean: float, spread: float) -> None:
    scorer = Scorer(ToySpace(), TOY_IO, ToyTask(NoOptions()), {"flow": Flow(NoOptions())}, init_seeds=(0, 1))
    scorer.check()
    scorer.proxies["flow"].unit = unit  # type: ignore[attr-defined]
    row = scorer.score(SPECS[0])
    assert row.scores["flow"] == pytest.approx(mean, rel=1e-15)
    assert row.spread["flow"] == pytest.approx(spread, rel=1e-12)


def test_no_number_is_null_and_what_raises_is_told() -> None:
    scorer = toy_scorer(["lost", "size"])
    narrow, deep, fine = scorer.score(SPECS[0]), scorer.score(SPECS[1]), scorer.score(SPECS[2])
    assert (narrow.scores["lost"], narrow.spread["lost"], narrow.errors) == (
        None,
        None,
        {"lost": "no finite number, but nan"},
    )
    assert (deep.scores["lost"], list(deep.errors)) == (None, ["lost"])
    assert deep.errors["lost"].startswith("RuntimeError: too deep (in score, ")
    assert fine.scores["lost"] == 8.0
    assert all(math.isfinite(row.scores["size"]) for row in (narrow, deep, fine))


def test_a_network_that_cannot_be_built_is_a_row_with_an_error() -> None:
    class Broken(ToySpace):
        def build(self, spec: Any, io: Any) -> Model:
            raise RuntimeError("no such network")

    row = Scorer(Broken(), TOY_IO, ToyTask(NoOptions()), {"size": Size(NoOptions())}).score(SPECS[0])
    assert row.scores == {"size": None}
    assert list(row.errors) == ["build"]
    assert row.errors["build"].startswith("RuntimeError: no such network (in build, test_scoring.py:")


def test_a_tap_that_the_space_lacks_is_the_users_error() -> None:
    class Asks(Size):
        def taps(self) -> Sequence[str]:
            return ("stage[7]",)

        def score(self, student: Model, probe: Probe) -> float:
            return float(probe.run(student)["stage[7]"].sum())

    scorer = Scorer(ToySpace(), TOY_IO, ToyTask(NoOptions()), {"asks": Asks(NoOptions())})
    with pytest.raises(TapError, match=r"stage\[7\].*stage\[0\]"):
        scorer.score(SPECS[0])


def test_a_tap_that_one_candidate_lacks_is_an_error_of_its_row_in_any_order() -> None:
    sizes = [row.scores["size"] or 0.0 for row in toy_scorer(["size"]).score_all(SPECS)]
    largest = max(sizes)

    class Asks(Size):
        def score(self, student: Model, probe: Probe) -> float:
            if super().score(student, probe) == largest:
                raise TapError("tap 'stage[7]' is not there")
            return 1.0

    def scorer() -> Scorer:
        return Scorer(ToySpace(), TOY_IO, ToyTask(NoOptions()), {"asks": Asks(NoOptions()), "size": Size(NoOptions())})

    rows, again = scorer().score_all(SPECS), scorer().score_all(SPECS[::-1])[::-1]
    assert rows == again
    assert [bool(row.errors) for row in rows] == [size == largest for size in sizes]
    (lacking,) = (row for row in rows if row.errors)
    assert lacking.errors == {"asks": "tap 'stage[7]' is not there"}
    assert lacking.scores == {"asks": None, "size": largest}


def test_a_proxy_without_its_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="'energy' needs a teacher"):
        Scorer(ToySpace(), TOY_IO, ToyTask(NoOptions()), {"energy": Energy(NoOptions())})


class Keeps(Proxy[NoOptions]):
    """Remembers what it was shown."""

    init = "gaussian"
    needs_teacher = True

    def __init__(self, options: NoOptions) -> None:
        super().__init__(options)
        self.weights: dict[str, torch.Tensor] = {}
        self.teacher_weights: dict[str, torch.Tensor] = {}
        self.fitted: list[str] = []

    def fit(self, sample: Sequence[Model], probe: Probe) -> None:
        self.fitted = [str(model.name) for model in sample]
        self.note = f"{len(sample)} models"

    def score(self, student: Model, probe: Probe) -> float:
        assert probe.teacher_model is not None
        self.weights = {name: each.detach().clone() for name, each in student.module.named_parameters()}
        self.teacher_weights = {n: each.detach().clone() for n, each in probe.teacher_model.module.named_parameters()}
        return 0.0


def test_gaussian_proxies_see_gaussian_students_and_teachers_and_the_others_do_not() -> None:
    space, keeps = ToySpace(), Keeps(NoOptions())
    teacher = random_teacher(space, TOY_IO, 0)
    before = {name: each.detach().clone() for name, each in teacher.module.named_parameters()}
    scorer = Scorer(space, TOY_IO, ToyTask(NoOptions()), {"k": keeps, "e": Energy(NoOptions())}, teacher=teacher)
    scorer.score({"depth": 3, "width": 8})
    for weights in (keeps.weights, keeps.teacher_weights):
        drawn = torch.cat([each.flatten() for name, each in weights.items() if each.dim() > 1])
        assert abs(float(drawn.std()) - 1) < 0.1
        assert all(float(each.abs().sum()) == 0 for name, each in weights.items() if name in ("body.0.bias", "fc.bias"))
    assert all(torch.equal(each, before[name]) for name, each in teacher.module.named_parameters())


def test_fit_sees_the_whole_space_and_not_the_candidates() -> None:
    fitted = []
    for specs in (SPECS, SPECS[2:]):
        keeps = Keeps(NoOptions())
        scorer = Scorer(
            ToySpace(), TOY_IO, ToyTask(NoOptions()), {"k": keeps}, teacher=random_teacher(ToySpace(), TOY_IO, 0)
        )
        scorer.score_all(specs)
        fitted.append(keeps.fitted)
        assert scorer.notes == {"k": "16 models"}
    assert fitted[0] == fitted[1]
    assert len(set(fitted[0])) > 4


class Marks(Proxy[NoOptions]):
    """Draws while it is fitted, and leaves the sample changed."""

    def fit(self, sample: Sequence[Model], probe: Probe) -> None:
        weights = [each.detach() for model in sample for each in model.module.parameters()]
        self.found = float(torch.rand((), generator=probe.rng) + torch.rand(()) + sum(each.sum() for each in weights))
        for each in weights:
            each.zero_()

    def score(self, student: Model, probe: Probe) -> float:
        return self.found


def test_what_a_proxy_is_fitted_on_does_not_depend_on_the_others() -> None:
    def scores(*names: str) -> list[float | None]:
        proxies = {name: Marks(NoOptions()) for name in names}
        scores = Scorer(ToySpace(), TOY_IO, ToyTask(NoOptions()), proxies).score(SPECS[0]).scores
        return [scores[name] for name in names]

    assert scores("a", "b") == scores("a") * 2


def test_no_candidate_is_held_on_to(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[nn.Module]] = []
    build = ToySpace.build

    def watched(self: ToySpace, spec: Any, io: Any) -> Model:
        model = build(self, spec, io)
        alive.append(weakref.ref(model.module))
        return model

    scorer = toy_scorer()
    scorer.score(SPECS[0])
    monkeypatch.setattr(ToySpace, "build", watched)
    scorer.score_all(SPECS)
    gc.collect()
    assert len(alive) >= len(SPECS)
    assert [ref for ref in alive if ref() is not None] == []


def test_counted_cost_is_the_formulas() -> None:
    formula, counted = ToySpace(), CountedSpace()
    for spec in formula.every():
        assert cost_of(counted, spec, TOY_IO, ToyTask(NoOptions())) == formula.cost(spec, TOY_IO)


def test_the_default_teacher_is_the_largest_of_a_sample() -> None:
    space = ToySpace()
    teacher = random_teacher(space, TOY_IO, 0)
    largest = max(space.cost(spec, TOY_IO).params for spec in space.every())
    assert sum(each.numel() for each in teacher.module.parameters()) == largest


def probe_with(student: Model, taps: Sequence[str] = ("stage[-1]", "penultimate", "logits")) -> LiveProbe:
    task = ToyTask(NoOptions())
    batch = task.dummy(TOY_IO, 4, torch.Generator().manual_seed(0))
    teacher = built(ToySpace(), ToySpace().parse({"depth": 2, "width": 8}), TOY_IO, 1)
    probe = LiveProbe(batch, TOY_IO, task, teacher, taps)
    probe.bind(student, Trace(student.module), 5)
    return probe


def student_of(**spec: Any) -> Model:
    return built(ToySpace(), ToySpace().parse(spec), TOY_IO, 2)


def test_one_forward_pass_is_shared_and_leaves_no_trace() -> None:
    student = student_of(depth=2, width=4)
    calls: list[int] = []
    student.module.register_forward_hook(lambda *_: calls.append(1))
    before = {name: each.clone() for name, each in student.module.state_dict().items()}
    probe = probe_with(student)
    first = probe.run(student)
    assert probe.run(student) is first
    assert calls == [1]
    assert all(torch.equal(each, before[name]) for name, each in student.module.state_dict().items())
    assert all(len(part._forward_hooks) == (part is student.module) for part in student.module.modules())
    assert not any(len(part._forward_pre_hooks) for part in student.module.modules())
    assert not any(each.requires_grad for each in first.values())


def test_taps_are_the_train_mode_activations() -> None:
    """Against a pass by hand: batch statistics, the map before the pool, the vector that enters the classifier."""
    student = student_of(depth=1, width=4, norm=True)
    net = student.module
    probe = probe_with(student)
    found = probe.run(student)
    image = probe.batch["image"].double().numpy()
    weight, bias = (each.detach().double() for each in (net.body[0].weight, net.body[0].bias))
    x = nn.functional.conv2d(torch.from_numpy(image), weight, bias, padding=1).numpy()
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    x = np.maximum((x - mean) / np.sqrt(var + 1e-5), 0)
    np.testing.assert_allclose(found["stage[-1]"].numpy(), x, atol=1e-5)
    pooled, dropped = x.mean((2, 3)), found["penultimate"].numpy()
    is_kept = dropped != 0
    np.testing.assert_allclose(dropped[is_kept], 2 * pooled[is_kept], atol=1e-5)  # dropout is on: p = 0.5
    assert 0 < is_kept.mean() < 1


def test_an_in_place_rectifier_after_a_tap_does_not_change_it() -> None:
    found = probe_with(student_of(depth=1, width=4, norm=False), ["stage[0]"]).run(
        student_of(depth=1, width=4, norm=False)
    )
    assert float(found["stage[0]"].min()) < 0


def test_a_changed_student_is_run_for_its_proxy_alone() -> None:
    student = student_of(depth=2, width=4)
    probe = probe_with(student)
    with torch.no_grad():
        student.module.fc.weight.data.mul_(2.0)
        student.module.fc.bias.data.mul_(2.0)
    changed = probe.run(student)["logits"]
    with torch.no_grad():
        student.module.fc.weight.data.mul_(0.5)
        student.module.fc.bias.data.mul_(0.5)
    torch.testing.assert_close(changed, 2 * probe.run(student)["logits"])


def test_what_proxies_share_is_made_once_a_candidate_and_draws_the_same_whoever_asks_first() -> None:
    student = student_of(depth=2, width=4)
    probe = probe_with(student)

    def make() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.rand(3, generator=probe.rng), torch.rand(3)

    first = probe.shared(student, "k", make)
    assert probe.shared(student, "k", make) is first
    probe.bind(student, Trace(student.module), 6)
    torch.rand(1, generator=probe.rng)
    other = probe.shared(student, "k", make)
    assert not torch.equal(other[0], first[0])
    probe.bind(student, Trace(student.module), 6)
    assert torch.equal(torch.rand(1, generator=probe.rng), other[0][:1])  # it went on where it was
    assert all(torch.equal(a, b) for a, b in zip(probe.shared(student, "k", make), other, strict=True))


def test_what_is_made_from_a_changed_student_is_for_its_proxy_alone() -> None:
    student = student_of(depth=2, width=4)
    probe = probe_with(student)
    weight = student.module.fc.weight.data

    def make() -> float:
        return float(weight.sum())

    weight.add_(1.0)
    changed = probe.shared(student, "k", make)
    weight.sub_(1.0)
    assert probe.shared(student, "k", make) == make() != changed


def test_the_teacher_runs_once_in_train_mode_and_once_is_a_function_of_the_probe() -> None:
    drawn = []
    for spec in ({"depth": 1, "width": 2}, {"depth": 3, "width": 8}):
        probe = probe_with(student_of(**spec))
        assert probe.teacher is probe.teacher
        assert probe.teacher is not None
        drawn.append((probe.once("k", lambda p=probe: (torch.rand(2, generator=p.rng), torch.rand(2))), probe.teacher))
        assert probe.once("k", lambda: None) is drawn[-1][0]
    (a, teacher_a), (b, teacher_b) = drawn
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert all(torch.equal(teacher_a[name], teacher_b[name]) for name in teacher_a)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.fc.weight.data.add_(1),
        lambda net: net.body[1].running_mean.add_(1),
        lambda net: net.eval(),
        lambda net: net(torch.zeros(2, 3, 8, 8)).sum().backward(),
        lambda net: net.fc.requires_grad_(False),
        lambda net: net.body[0].register_forward_hook(lambda *_: None),
        lambda net: setattr(net, "drop", nn.Identity()),
        lambda net: setattr(net.fc, "weight", nn.Parameter(net.fc.weight.detach().clone())),
        lambda net: setattr(net.drop, "forward", lambda x: x),
    ],
)
def test_every_kind_of_change_is_seen(change: Any) -> None:
    net = student_of(depth=1, width=4, norm=True).module
    trace = Trace(net)
    assert trace.unchanged(net)
    change(net)
    assert not trace.unchanged(net)


def test_a_row_comes_back_from_json() -> None:
    row = toy_scorer().score(SPECS[1])
    assert Scored(**row.row()) == row
    assert isinstance(row.row()["spec"], Mapping)
    assert set(toy_proxies()) == set(row.scores)
    assert Cost(row.params, row.macs) == ToySpace().cost(ToySpace().parse(SPECS[1]), TOY_IO)


class Fails(CountedSpace):
    """Networks of three layers cannot be built."""

    def build(self, spec: Any, io: Any) -> Model:
        if spec.depth == 3:
            raise RuntimeError("no such network")
        return super().build(spec, io)


def test_the_teacher_is_the_largest_that_can_be_built() -> None:
    class Largest(Fails):
        def cost(self, spec: Any, io: Any) -> Cost | None:
            return ToySpace.cost(self, spec, io)

    for space in (Fails(), Largest()):
        assert random_teacher(space, TOY_IO, 0).name == "toy2x8"

    class Fitted(Size):
        def fit(self, sample: Sequence[Model], probe: Probe) -> None:
            self.sizes = [each.name for each in sample]

    proxy = Fitted(NoOptions())
    Scorer(Fails(), TOY_IO, ToyTask(NoOptions()), {"fitted": proxy}).check()
    assert 0 < len(proxy.sizes) < 16
    assert not any("toy3" in name for name in proxy.sizes)

    class Never(CountedSpace):
        def build(self, spec: Any, io: Any) -> Model:
            raise RuntimeError("no such network")

    with pytest.raises(
        PluginError, match=r"search space 'Never' builds none of .* specs: RuntimeError: no such network"
    ):
        random_teacher(Never(), TOY_IO, 0)


def test_what_is_wrong_of_a_proxy_is_named_before_any_candidate() -> None:
    class Refuses(Size):
        def fit(self, sample: Sequence[Model], probe: Probe) -> None:
            raise TapError("no such tap")

    scorer = Scorer(
        ToySpace(), TOY_IO, ToyTask(NoOptions()), {"refuses": Refuses(NoOptions()), "size": Size(NoOptions())}
    )
    for _ in range(2):
        with pytest.raises(TapError, match=r"^proxy refuses: no such tap"):
            scorer.check()


class Careless(Proxy[NoOptions]):
    """Is asked to stop while it scores, as a process of jobs is, and takes whatever is raised for a bad network."""

    def score(self, student: Model, probe: Probe) -> float:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            return 0.0
        return 1.0


@pytest.fixture
def stoppable() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise InterruptedRun("stopped")

    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


def test_being_asked_to_stop_says_nothing_of_a_candidate(monkeypatch: pytest.MonkeyPatch, stoppable: None) -> None:
    scorer = toy_scorer(["size"])
    scorer.proxies["careless"] = Careless(NoOptions())
    with pytest.raises(InterruptedRun):
        scorer.score(SPECS[0])

    def build(*_: Any) -> Any:
        raise InterruptedRun("stopped")

    monkeypatch.setattr(ToySpace, "build", build)
    with pytest.raises(InterruptedRun):
        toy_scorer(["energy"]).score(SPECS[0])


class Lower(Proxy[NoOptions]):
    """Reads a tap that these networks lack, unless it has been fitted: then it does without."""

    def __init__(self, options: NoOptions) -> None:
        super().__init__(options)
        self.asked = ("stage[7]",)

    def taps(self) -> Sequence[str]:
        return self.asked

    def fit(self, sample: Sequence[Model], probe: Probe) -> None:
        self.asked, self.note = (), "without it"

    def score(self, student: Model, probe: Probe) -> float:
        return float(probe.run(student)["logits"].isfinite().all())


def test_a_proxy_may_do_with_other_taps_once_it_is_fitted() -> None:
    """As `diswot` does with stages alone where a network has no classifier of vectors."""
    scorer = Scorer(ToySpace(), TOY_IO, ToyTask(NoOptions()), {"lower": Lower(NoOptions())}, batch_size=8)
    row = scorer.score({"width": 2, "depth": 3})
    assert (row.scores, row.errors) == ({"lower": 1.0}, {})
    assert scorer.notes == {"lower": "without it"}
