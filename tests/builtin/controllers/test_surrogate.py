"""The model-based controller: its formula, its features, and what it makes of facts that help or mislead."""

import math
from dataclasses import replace

import moocore
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from kdsearch.builtin.controllers import surrogate
from kdsearch.builtin.controllers.gains import expected_improvement, largest_growths, largest_improvements
from kdsearch.builtin.controllers.random import Random
from kdsearch.builtin.controllers.surrogate import (
    Features,
    Surrogate,
    SurrogateOptions,
    _losses,
    _seen,
    _unseen_front,
    start,
)
from kdsearch.kinds import Dim, NoOptions, Range, Trial
from kdsearch.kit.pareto import fronts
from kdsearch.testing.controller import DIMS

N = 200


@pytest.mark.parametrize(
    ("best", "mean", "deviation"), [(0.0, 0.5, 1.0), (0.0, -2.0, 0.3), (1.0, 1.0, 0.1), (0.0, 9.0, 1.0)]
)
def test_expected_improvement_is_the_integral(best, mean, deviation):
    found = expected_improvement(best, np.array([mean]), np.array([deviation]))[0]
    lowest = mean - 12 * deviation
    expected = quad(lambda y: (best - y) * norm.pdf(y, mean, deviation), lowest, best)[0] if best > lowest else 0.0
    assert found == pytest.approx(expected, abs=1e-8)


def test_features_by_hand():
    known = Dim("net", Range(choices=("a", "b", "c"), facts=((0.1, 5.0), (0.3, 5.0), (-np.inf, 9.0))))
    features = Features([known, *DIMS])
    point = features.of({"net": "b", "rate": 1e-2, "kind": "c", "extra": 9})
    assert point[:2] == pytest.approx([2.5 / 3, 1.0 / 3])  # the best first fact, the shared lower second one
    by_path = dict(zip([d.path for d in features.dims], range(4), strict=True))
    assert by_path["kind"] < by_path["extra"]
    assert features.guess({"net": "b"}) > features.guess({"net": "a"}) > features.guess({"net": "c"})
    rest = point[2:]
    assert sorted(rest) == pytest.approx(sorted([0.5, 0.0, 0.0, 1.0, 0.0, 1.0]))  # rate, kind one-hot, extra
    off = features.of({"net": "b", "rate": 1e-2, "kind": "a"})
    assert sorted(off[2:]) == pytest.approx(sorted([0.5, 1.0, 0.0, 0.0, 0.0, 0.5]))


@pytest.mark.parametrize("n", [8, 500])
def test_the_best_scored_is_begun_with_recipes_far_apart(n):
    """However many choices there are: the pool of 512 has each of 500 once or twice."""
    net = Dim("net", Range(choices=tuple(map(str, range(n))), facts=tuple((float(i),) for i in range(n))))
    rate = Dim("rate", Range(low=0.0, high=1.0))
    apart = []
    for seed in range(12):
        asks = Surrogate(SurrogateOptions()).ask(None, [net, rate], [], 3, seed)
        assert {each.values["net"] for each in asks} == {str(n - 1)}
        rates = sorted(each.values["rate"] for each in asks)
        apart.append(min(rates[1] - rates[0], rates[2] - rates[1]))
    assert np.mean(apart) > 0.3  # .125 of three independent draws, .5 at best


def facts_and_losses(noise, seed=0):
    """N choices with three facts; the loss follows the second and third, the first is a guess of it."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(N, 2))
    loss = (x[:, 0] - 0.8) ** 2 + 0.3 * (1 - x[:, 1])
    guess = -loss + noise * rng.normal(size=N)
    return np.column_stack([guess, x]), loss


def after(controller, facts, loss, budget):
    """The place of the best found among all, 0 = the best."""
    choices = tuple(f"net-{i}" for i in range(N))
    dim = Dim("net", Range(choices=choices, facts=tuple(map(tuple, facts.tolist())) if facts is not None else ()))
    history = []
    while len(history) < budget:
        for ask in controller.ask(None, [dim], history, 1, 0):
            history.append(Trial(len(history), ask.values, losses=(float(loss[choices.index(ask.values["net"])]),)))
    order = np.argsort(np.argsort(loss))
    return min(int(order[choices.index(trial.values["net"])]) for trial in history)


def test_it_begins_with_the_best_guesses():
    facts, loss = facts_and_losses(0.0)
    assert after(Surrogate(SurrogateOptions()), facts, loss, 1) == 0


def test_equal_guesses_spread():
    """Guesses first; among equal ones the farthest from all that was tried or chosen, the first drawn where nothing was."""
    points = [[0.5], [0.1], [0.45], [0.95], [0.9]]
    assert start([0.0] * 5, points, [], 3) == [0, 3, 1]
    assert start([0.0] * 5, points, [[0.95], [0.1]], 2) == [0, 2]
    assert start([0.0, 1.0, 1.0, 0.0, 2.0], points, [], 4) == [4, 1, 2, 0]
    assert start([0.0], [[0.5]], [], 3) == [0]


def test_a_start_of_three_sees_both_halves_of_a_range():
    """Independent draws do so in three of four cases."""
    dims = [
        Dim("net", Range(choices=("a", "b"), facts=((0.0,), (1.0,)))),
        Dim("lr", Range(low=1e-4, high=1e-2, log=True)),
    ]
    for seed in range(20):
        asks = Surrogate(SurrogateOptions()).ask(None, dims, [], 3, seed)
        assert {ask.values["net"] for ask in asks} == {"b"}
        assert min(ask.values["lr"] for ask in asks) < 1e-3 < max(ask.values["lr"] for ask in asks)


@pytest.mark.parametrize("noise", [0.1, 100.0])
def test_it_learns_from_the_facts_what_the_guess_does_not_tell(noise):
    """Also where the first fact is pure noise; random search stays far behind."""
    found, drawn = [], []
    for seed in range(3):
        facts, loss = facts_and_losses(noise, seed)
        found.append(after(Surrogate(SurrogateOptions()), facts, loss, 15))
        drawn.append(after(Random(NoOptions()), None, loss, 15))
    assert np.mean(found) < 2
    assert np.mean(found) < np.mean(drawn)


def test_a_batch_spreads():
    """Picks of one ask differ in place: each is taken to be as predicted before the next is chosen."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(6, 2))
    y = ((x - 0.5) ** 2).sum(1)
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 15), np.linspace(0, 1, 15)), -1).reshape(-1, 2)
    picks = largest_improvements(x, y, grid, 5)
    assert len(set(picks)) == 5
    assert largest_improvements(x, y, grid, 1) == picks[:1]
    assert sorted(largest_improvements(x, y, grid[:3], 5)) == [0, 1, 2]


def test_a_bad_trial_is_not_taken_for_the_best_where_many_are_equal():
    """The best loss at 0, .1 and .2, a bad one at 1: the median is the best."""
    x, y = np.array([[0.0], [0.1], [0.2], [1.0]]), np.array([0.1, 0.1, 0.1, 0.9])
    picks = largest_improvements(x, y, np.array([[0.97], [0.15]]), 1)
    assert picks == [1]
    # equal ones alone tell nothing apart
    assert sorted(largest_improvements(x, np.full(4, 0.1), np.array([[0.97], [0.15]]), 2)) == [0, 1]


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([(0.3, ()), (None, ()), (None, ())], {0: 0.3, 1: 0.6, 2: 0.6}),
        ([(0.0, ()), (None, ())], {0: 0.0, 1: 1.0}),
        ([(-2.0, ()), (-2.0, ()), (None, ())], {0: -2.0, 1: -2.0, 2: 0.0}),
        ([(0.9, ()), (0.1, (0.5,))], {0: 0.9, 1: 1.8}),
        ([(0.2, ()), (0.3, ()), (None, ())], {0: 0.2, 1: 0.3, 2: 0.3}),
        ([(0.2, (0.5,)), (None, ())], {0: 0.2, 1: 0.2}),
    ],
    ids=["one success", "of loss 0", "equal ones", "the worst is the one that is allowed", "two", "none"],
)
def test_what_failed_is_worse_than_the_best(trials, expected):
    told = [
        Trial(i, {"x": i / 9}, losses=(loss,), violations=over)
        if loss is not None
        else Trial(i, {"x": i / 9}, state="failed", error="NaN")
        for i, (loss, over) in enumerate(trials)
    ]
    losses, bad = _losses(told)
    assert {i: loss for i, (loss,) in losses.items()} == pytest.approx(expected)
    assert bad == {i for i, (loss, over) in enumerate(trials) if loss is None or over}


def test_what_failed_has_the_worst_of_each_loss():
    told = [
        Trial(0, {"x": 0.1}, losses=(0.3, 5.0)),
        Trial(1, {"x": 0.2}, losses=(0.1, 9.0)),
        Trial(2, {"x": 0.3}, state="failed", error="NaN"),
        Trial(3, {"x": 0.4}, losses=(0.0, 1.0), violations=(0.1,)),
        Trial(4, {"x": 0.5}, state="pruned", curve=((0.3, (0.2, math.nan)),)),
        Trial(5, {"x": 0.6}, state="running"),
    ]
    worst = (0.3, 9.0)
    assert _losses(told) == ({0: (0.3, 5.0), 1: (0.1, 9.0), 2: worst, 3: worst, 4: worst}, {2, 3, 4})
    assert _losses(told[:1] + told[2:3])[0][1] == (0.6, 10.0), "never as good as the best"


def test_while_every_pair_breaks_a_limit_it_learns_by_how_far():
    """Two networks that ship together, the larger the better scored: the first of 1,275 pairs are all too large."""
    sizes = [50 - i for i in range(50)]
    choices = tuple(map(str, range(50)))
    dims = [Dim(role, Range(choices=choices, facts=tuple((float(each),) for each in sizes))) for role in ("a", "b")]
    told: list[Trial] = []
    for number in range(20):
        values = Surrogate(SurrogateOptions()).ask(None, dims, told, 1, 0)[0].values
        over = (sum(sizes[int(each)] for each in values.values()) - 50) / 50
        if over <= 0:
            break
        told.append(Trial(number, values, state="pruned", violations=(over, -0.5)))
    assert 3 <= len(told) < 8
    assert _losses(told[:2])[0] == {i: (each.violations[0],) for i, each in enumerate(told[:2])}
    assert _losses([Trial(0, {"a": "0"}, state="pruned", violations=(-0.5, 0.0))]) == ({}, set())


def test_stopped_failed_and_broken_trials():
    """A stopped trial counts with its last loss, a failed or infeasible one as the worst; one that says nothing not at all."""
    dim = Dim("x", Range(low=0.0, high=1.0))
    good = [Trial(i, {"x": x}, losses=((x - 0.3) ** 2,)) for i, x in enumerate([0.0, 0.2, 0.6])]
    bad = [
        Trial(3, {"x": 0.31}, state="failed", error="NaN"),
        Trial(4, {"x": 0.29}, losses=(-9.0,), violations=(0.5,)),
        Trial(5, {"x": 0.9}, state="pruned", curve=((0.3, (0.9,)), (0.6, (0.5,)))),
        Trial(6, {"x": 0.95}, state="pruned"),
    ]
    told, broken = _losses([*good, *bad])
    assert {i: loss for i, (loss,) in told.items()} == pytest.approx(
        {0: 0.09, 1: 0.01, 2: 0.09, 3: 0.5, 4: 0.5, 5: 0.5}
    )
    assert broken == {3, 4}
    asks = Surrogate(SurrogateOptions(first=2)).ask(None, [dim], [*good, *bad], 4, 0)
    assert len(asks) == 4
    assert all(0 <= ask.values["x"] <= 1 for ask in asks)


def test_what_was_stopped_without_a_finite_loss_is_the_worst():
    """`halving` ends as pruned what is NaN at a rung; what runs may still come to a number."""
    curve = ((0.3, (math.nan,)),)
    told = [
        Trial(0, {"x": 0.1}, losses=(0.3,)),
        Trial(1, {"x": 0.2}, losses=(0.4,)),
        Trial(2, {"x": 0.7}, state="pruned", curve=curve),
        Trial(3, {"x": 0.8}, state="pruned", curve=((0.3, (math.inf,)),)),
        Trial(4, {"x": 0.9}, state="running", curve=curve),
    ]
    assert _losses(told) == ({0: (0.3,), 1: (0.4,), 2: (0.4,), 3: (0.4,)}, {2, 3})


def test_of_many_trials_the_best_stay_known():
    losses = {i: (float(abs(i - 3)),) for i in range(20)}
    assert _seen(losses, 20) == list(range(20))
    assert _seen(losses, 8) == [2, 3, *range(14, 20)]
    assert _seen({i: (float(-i),) for i in range(20)}, 8) == list(range(12, 20)), "the youngest are the best"
    several = {i: (float(abs(i - 3)), float(abs(i - 5))) for i in range(20)}
    assert _seen(several, 12) == [3, 4, 5, *range(11, 20)], "of several losses the front"


def test_of_many_trials_the_front_stays_known():
    losses = {i: (float(i), 9.0 - i) for i in range(10)} | dict.fromkeys(range(10, 30), (20.0, 20.0))
    assert _unseen_front(losses, set(), list(losses)) == []
    assert _unseen_front(losses, {2}, [0, 1, *range(20, 30)]) == [3, 4, 5, 6, 7, 8, 9], "the broken one is no front"
    assert _unseen_front(losses, set(losses), [0]) == []


def test_the_model_is_told_of_a_front_that_it_does_not_see(monkeypatch):
    told = []

    def spied(*given):
        told.append(given[-1])
        return largest_growths(*given)

    monkeypatch.setattr(surrogate, "largest_growths", spied)
    dims, losses = networks()
    values = [{"net": f"net-{i}", "rate": 0.7} for i in range(30)]
    history = [Trial(i, each, losses=losses(each)) for i, each in enumerate(values)]
    Surrogate(SurrogateOptions()).ask(None, dims, history, 1, 0)
    assert told[-1].shape == (0, 2)
    little = SurrogateOptions(first=2, seen=2)  # the youngest two
    Surrogate(little).ask(None, dims, history, 1, 0)
    front = {history[i].losses for i in fronts([each.losses for each in history])[0]}
    assert set(map(tuple, told[-1].tolist())) == front - {each.losses for each in history[-2:]}
    assert len(told[-1]) > 2
    off = [replace(each, losses=(each.losses[0], 0.0)) for each in history]
    Surrogate(little).ask(None, dims, off, 1, 0)
    best = min(history, key=lambda each: each.losses[0])
    assert told[-1].tolist() == [list(best.losses)], "with its cost as it is known, not as it was measured"


def networks(n=200, seed=0):
    """A dimension of networks with scores and sizes, one of recipes; and (error, size) of both together."""
    rng = np.random.default_rng(seed)
    size = 10 ** rng.uniform(3, 5, size=n)
    quality = np.log10(size) / 5 + 0.1 * rng.normal(size=n)
    score = quality + 0.1 * rng.normal(size=n)
    choices = tuple(f"net-{i}" for i in range(n))
    facts, costs = tuple(zip(score, np.log(size), strict=True)), tuple((math.nan, each) for each in size)
    net, rate = Dim("net", Range(choices=choices, facts=facts, costs=costs)), Dim("rate", Range(low=0.0, high=1.0))

    def losses(values):
        i = choices.index(values["net"])
        return 1 - 0.8 * float(quality[i]) + 0.5 * abs(values["rate"] - 0.7), float(size[i])

    return [net, rate], losses


def hypervolume(points):
    """Of (error, size), sizes by their logarithms."""
    unit = np.array([[(error - 0.1) / 1.4, (math.log10(size) - 3) / 2] for error, size in points])
    return moocore.hypervolume(unit, ref=np.array([1.1, 1.1]))


def front_after(controller, dims, losses, budget, seed):
    history = []
    while len(history) < budget:
        (ask,) = controller.ask(None, dims, history, 1, seed)
        history.append(Trial(len(history), ask.values, losses=losses(ask.values)))
    return hypervolume([each.losses for each in history])


def test_of_a_known_cost_it_begins_with_a_front():
    dims, losses = networks()
    for seed in range(4):
        asks = Surrogate(SurrogateOptions()).ask(None, dims, [], 3, seed)
        sizes = sorted(losses(each.values)[1] for each in asks)
        assert sizes[0] * 3 < sizes[1] * 2 < sizes[2], "networks of several sizes"
        told = [Trial(0, {**asks[0].values, "rate": 0.25}, state="running")]
        again = Surrogate(SurrogateOptions()).ask(None, dims, told, 1, seed)[0]
        assert again.values == {"net": asks[1].values["net"], "rate": 0.25}, "beside what runs, with its recipe"
        failed = [
            replace(told[0], state="failed", error="NaN"),
            Trial(1, {"net": "net-3", "rate": 0.5}, state="running"),
        ]
        again = Surrogate(SurrogateOptions()).ask(None, dims, failed, 1, seed)[0]
        assert again.values["rate"] == 0.5, "not that of one that failed"
        assert Surrogate(SurrogateOptions()).ask(None, dims, failed[:1], 1, seed)[0].values["rate"] not in (0.25, 0.5)


def test_known_costs_find_a_better_front():
    """In six trials; beside what does not know which loss is a cost, and what knows nothing."""
    found = {"costs": [], "no costs": [], "random": []}
    for seed in range(4):
        dims, losses = networks(seed=seed)
        found["costs"].append(front_after(Surrogate(SurrogateOptions()), dims, losses, 6, seed))
        blind = [Dim("net", replace(dims[0].range, costs=())), dims[1]]
        found["no costs"].append(front_after(Surrogate(SurrogateOptions()), blind, losses, 6, seed))
        found["random"].append(front_after(Random(NoOptions()), dims, losses, 6, seed))
    means = {name: np.mean(each) for name, each in found.items()}
    assert means["costs"] > 1.05 * means["no costs"]
    assert means["costs"] > 1.1 * means["random"]


def test_the_best_recipe_is_tried_on_other_networks():
    dims, losses = networks()
    rates = [0.1, 0.3, 0.7, 0.95, 0.5]
    told = [
        Trial(i, values, losses=losses(values))
        for i, rate in enumerate(rates)
        for values in [{"net": "net-7", "rate": rate}]
    ]
    asks = Surrogate(SurrogateOptions()).ask(None, dims, told, 4, 0)
    assert sum(each.values["rate"] == 0.7 for each in asks) >= 2
    assert all(each.values["net"] != "net-7" for each in asks)
    # with the cost as the first objective, and other networks that are cheaper
    net, rate = dims
    turned = [Dim("net", replace(net.range, costs=tuple(each[::-1] for each in net.range.costs))), rate]
    other = [replace(each, losses=each.losses[::-1]) for each in told]
    assert [each.values for each in Surrogate(SurrogateOptions()).ask(None, turned, other, 1, 0)] == [asks[0].values]


def test_a_recipe_is_carried_where_its_conditions_hold():
    """`extra` counts for the network a alone."""
    facts, costs = ((0.1,), (0.2,), (0.3,)), tuple((math.nan, float(i)) for i in range(3))
    dims = [
        Dim("net", Range(choices=("a", "b", "c"), facts=facts, costs=costs)),
        Dim("rate", Range(low=0.0, high=1.0)),
        Dim("extra", Range(low=0.0, high=1.0), when=(("net", ("a",)),)),
    ]
    told = [Trial(0, {"net": "a", "rate": 0.5, "extra": 0.5}, state="running")]
    (ask,) = Surrogate(SurrogateOptions()).ask(None, dims, told, 1, 0)
    assert ask.values.keys() == {"net", "rate"}
    assert ask.values["rate"] != 0.5, "its own recipe"
    told = [Trial(0, {"net": "b", "rate": 0.5}, state="running")]
    asks = Surrogate(SurrogateOptions()).ask(None, dims, told, 2, 0)
    assert {each.values["net"]: each.values["rate"] == 0.5 for each in asks} == {"c": True, "a": False}


def test_a_maximised_cost_and_two_networks_that_ship_together():
    """Costs add up; a loss may be negative."""
    small, large = (math.nan, -10.0), (math.nan, -1000.0)
    dims = [
        Dim(role, Range(choices=("s", "l"), facts=((0.1,), (0.9,)), costs=(small, large))) for role in ("one", "two")
    ]
    features = Features(dims)
    assert features.costs({"one": "s", "two": "l"}) == pytest.approx([math.nan, -1010.0], nan_ok=True)
    asks = Surrogate(SurrogateOptions()).ask(None, dims, [], 4, 0)
    assert asks[0].values == {"one": "l", "two": "l"}, "the best in both"


def test_costs_alone_and_whole_numbers():
    """Nothing that a training tells, as of `{params: min, macs: min}`; one loss has no front."""
    costs = ((5, 90), (6, 70), (9, 10), (10, 100))
    net = Dim("net", Range(choices=tuple("abcd"), facts=tuple((float(i),) for i in range(4)), costs=costs))
    told: list[Trial] = []
    while asks := Surrogate(SurrogateOptions(first=2)).ask(None, [net], told, 1, 0):
        told.append(
            Trial(len(told), asks[0].values, losses=tuple(map(float, costs["abcd".index(asks[0].values["net"])])))
        )
    assert [each.values["net"] for each in told][-1] == "d", "what the others are better than comes last"
    assert len(told) == 4
    one = Dim("net", replace(net.range, costs=tuple((first,) for first, _ in costs)))
    assert Surrogate(SurrogateOptions()).ask(None, [one], [], 1, 0)[0].values == {"net": "d"}, "the best guess"


@pytest.mark.parametrize("n", [4, 17, 60])
def test_a_front_of_many_at_once_is_of_different_candidates(n):
    dims, _ = networks(n=20)
    for told in ([], [Trial(0, {"net": "net-3", "rate": 0.25}, state="running")]):
        asks = Surrogate(SurrogateOptions()).ask(None, dims, told, n, 0)
        assert len({(each.values["net"], each.values["rate"]) for each in asks}) == n
        front = asks[: min(n, 19)]
        assert len({each.values["net"] for each in front}) == len(front), "each network once, before any comes again"
        assert {each.values["rate"] for each in front[:4]} == {asks[0].values["rate"]}, "with one recipe"


def test_what_failed_or_broke_a_limit_is_no_part_of_the_front():
    """The best and cheapest has failed: what it was better than is worth a trial."""
    costs = tuple((math.nan, 10.0 ** (1 + i % 10)) for i in range(40))
    net = Dim("net", Range(choices=tuple(range(40)), facts=tuple((float(i % 10),) for i in range(40)), costs=costs))
    best = Dim("net", replace(net.range, facts=((99.0,), *net.range.facts[1:]), costs=((math.nan, 1.0), *costs[1:])))
    for bad in (
        Trial(0, {"net": 0}, state="failed", error="NaN"),
        Trial(0, {"net": 0}, state="pruned", violations=(1.0,)),
    ):
        asks = Surrogate(SurrogateOptions()).ask(None, [best], [bad], 3, 0)
        sizes = sorted(costs[each.values["net"]][1] for each in asks)
        assert sizes[0] * 100 <= sizes[-1], "several sizes"
    good = Trial(0, {"net": 0}, losses=(0.1, 1.0))
    asks = Surrogate(SurrogateOptions()).ask(None, [best], [good], 3, 0)
    assert {each.values["net"] % 10 for each in asks} == {9}, "beside it nothing adds anything: by the guesses"


def test_a_cost_of_a_choice_that_does_not_count_is_not_known():
    net = Range(choices=("a", "b"), facts=((0.1,), (0.2,)), costs=((math.nan, 5.0), (math.nan, 6.0)))
    dims = [Dim("kind", Range(choices=(0, 1))), Dim("net", net, when=(("kind", (1,)),))]
    asks = Surrogate(SurrogateOptions()).ask(None, dims, [], 3, 0)
    assert {each.values["kind"] for each in asks} == {0, 1}


def test_costs_are_those_of_the_choices_whatever_was_told():
    """A loop of one's own may tell a latency of another device: the scale stays one."""
    dims, losses = networks()
    told = [Trial(i, {"net": f"net-{i}", "rate": 0.7}) for i in range(8)]
    once, other = (
        [replace(each, losses=(losses(each.values)[0], factor * losses(each.values)[1])) for each in told]
        for factor in (1.0, 20.0)
    )
    found = [Surrogate(SurrogateOptions()).ask(None, dims, each, 3, 0) for each in (once, other)]
    assert found[0] == found[1]


def test_the_twin_of_what_runs_or_ended_is_not_asked_for():
    dims, losses = networks()
    told = [Trial(i, {"net": f"net-{i}", "rate": 0.7}) for i in range(10)]
    told = [replace(each, losses=losses(each.values)) for each in told]
    (ask,) = Surrogate(SurrogateOptions()).ask(None, dims, told, 1, 0)
    size = losses(ask.values)[1]
    for last in (Trial(10, ask.values, state="running"), Trial(10, ask.values, losses=losses(ask.values))):
        (other,) = Surrogate(SurrogateOptions()).ask(None, dims, [*told, last], 1, 0)
        assert abs(math.log(losses(other.values)[1] / size)) > 0.05


def test_a_front_of_few_choices_is_gone_through():
    """Each of three networks once, then nothing more; while the model is not asked yet, too."""
    costs = tuple((math.nan, float(i)) for i in range(3))
    dim = Dim("net", Range(choices=("a", "b", "c"), facts=((0.1,), (0.2,), (0.3,)), costs=costs))
    for first in (1, 9):
        told: list[Trial] = []
        controller = Surrogate(SurrogateOptions(first=first))
        while asks := controller.ask(None, [dim], told, 1, 0):
            told.append(Trial(len(told), asks[0].values, losses=(0.5 - 0.1 * len(told), float(len(told)))))
        assert sorted(str(each.values["net"]) for each in told) == ["a", "b", "c"]
