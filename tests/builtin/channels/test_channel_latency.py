"""A latency is met by few measurements and a line through them. What is measured here is computed: nothing depends on time."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from kdsearch.builtin.channels import pruner, timing
from kdsearch.builtin.channels.cutting import Counted, Cutter, Rules
from kdsearch.builtin.channels.importance import magnitudes
from kdsearch.builtin.channels.pruner import Channels, ChannelsOptions
from kdsearch.builtin.channels.targets import LatencyFit, Limit, Taken, meet_latency, work_of
from kdsearch.builtin.onnx_exporter import OnnxExporter
from kdsearch.errors import RefusedError
from kdsearch.kinds import Model
from kdsearch.kit.costs import count_module
from kdsearch.kit.latency import Beside, Latency
from tests.builtin.channels.test_channels import model_of, subject
from tests.deploy.nets import trained

ONE = (torch.zeros(1, 1, 8, 8),)


def cutter():
    def score(module, groups):
        return magnitudes(module, groups, 2), []

    return Cutter.of(trained("residual"), [(torch.randn(2, 1, 8, 8),)], ONE, Rules("global", 1, ("*",), ()), score)


class Clock:
    """Milliseconds as overhead and a power of the MACs: not the line that is fitted."""

    def __init__(self, overhead, power):
        self.overhead, self.power, self.taken = overhead, power, []

    def __call__(self, module: nn.Module) -> Taken:
        self.taken.append(self.overhead + (count_module(module, ONE).macs / 1e6) ** self.power)
        return Taken(self.taken[-1])


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
@pytest.mark.parametrize(("overhead", "power"), [(0.0, 1.0), (0.1, 0.8), (0.05, 1.3)])
def test_three_measurements_come_within_five_per_cent(overhead, power, share):
    clock, made = Clock(overhead, power), cutter()
    target = share * Clock(overhead, power)(made.module).ms
    found, log = meet_latency(made, target, Limit(), clock)
    assert len(clock.taken) <= 3
    reached = Clock(overhead, power)(found.module).ms
    assert 0.9 * target < reached <= 1.05 * target
    assert len([line for line in log if "predicted" in line and "target" in line]) == len(clock.taken) - 1


class Smooth(nn.Module):
    """Between two products what no product takes along."""

    def __init__(self):
        super().__init__()
        self.into, self.norm, self.out = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x):
        return self.out(self.norm(nn.functional.gelu(self.into(x)))).softmax(-1)


def test_numbers_that_take_long_are_counted_for_a_sample():
    """GELU and norm of what is hidden, softmax of what is answered, at 7 places; additions and products are none."""
    torch.manual_seed(0)
    rules = Rules("global", 1, ("*",), ())
    made = Cutter.of(
        Smooth(), [(torch.randn(3, 7, 6),)], (torch.zeros(1, 7, 6),), rules, lambda m, g: (magnitudes(m, g, 2), [])
    )
    assert made.counted.computed == 7 * (16 + 16 + 5)
    assert work_of(made.counted) == made.counted.macs + 10 * made.counted.params + 45 * 7 * 37
    found = made.meet(Limit(work=0.5 * work_of(made.counted)).holds)
    hidden = found.module.into.out_features
    assert 1 < hidden < 16
    assert found.counted.computed == 7 * (2 * hidden + 5)
    assert 0.4 * work_of(made.counted) < work_of(found.counted) <= 0.5 * work_of(made.counted)


def test_the_second_line_is_half_as_steep_as_each_of_two():
    """.8 through both measurements, 1.2 through the last one and nothing."""
    fit = LatencyFit([(10.0, 10.0), (5.0, 6.0)])
    assert (fit.work(5.5), fit.ms(4.0)) == pytest.approx((4.5, 5.0))
    assert LatencyFit([(10.0, 20.0)]).work(5.0) == pytest.approx(2.5)


def test_a_network_that_is_fast_enough_stays_after_one_measurement():
    clock, made = Clock(0.0, 1.0), cutter()
    found, log = meet_latency(made, 1e6, Limit(), clock)
    assert len(clock.taken) == 1
    assert found.cut.slices == {}
    assert log == [f"latency {clock.taken[0]:.3f} ms before"]


def test_other_limits_hold_too():
    made = cutter()
    clock = Clock(0.0, 1.0)
    found, _ = meet_latency(made, 0.9 * Clock(0.0, 1.0)(made.module).ms, Limit(params=0.3 * made.counted.params), clock)
    assert found.counted.params <= 0.3 * made.counted.params


def test_a_latency_that_does_not_fall_is_told():
    made = cutter()
    taken = []

    def measure(module):
        taken.append(1.0)
        return Taken(1.0)

    _, log = meet_latency(made, 0.7, Limit(), measure)
    assert len(taken) <= 3
    assert log[-1] == "latency is 42.9% above its target after 3 measurements"


@pytest.mark.parametrize("second", [0.9, 0.99, 1.01, 1.1])
def test_between_a_cut_that_is_too_slow_and_one_that_is_too_fast_lies_the_one(second, monkeypatch):
    """By the line through both, without another measurement."""
    meet, asked = Cutter.meet, []

    def spied(self, holds, *step):
        asked.append(holds.__self__.work)
        return meet(self, holds, *step)

    monkeypatch.setattr(Cutter, "meet", spied)
    made, works, times = cutter(), [], iter([10.0, 5 * 1.1, 5 * second])

    def measure(module):
        works.append(work_of(Counted.of(module, ONE)))
        return Taken(next(times))

    found, log = meet_latency(made, 5.0, Limit(), measure)
    assert len(works) == 3
    first, second_line = LatencyFit([(works[0], 10.0)]), LatencyFit([(works[0], 10.0), (works[1], 5.5)])
    assert asked[:2] == pytest.approx([first.work(0.985 * 5), second_line.work(5.0)]), (
        "the second cut aims at all of it"
    )
    if second > 0.985:
        assert work_of(found.counted) == works[-1 if second < 1.1 else 1]
        assert "not measured" not in log[-1]
        return
    share = (1.0 - second) / (1.1 - second)
    wanted = works[2] + share * (works[1] - works[2])
    assert works[2] < work_of(found.counted) <= wanted
    assert work_of(found.counted) > 0.97 * wanted
    assert "ms predicted for a cut between both, not measured" in log[-1]
    assert 4.5 < float(log[-1].split()[1]) <= 5


def test_the_plan_measures_files(monkeypatch, tmp_path):
    """In a store of its own; the figures are this machine's, so what they are is not looked at."""
    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path))
    plan = Channels(ChannelsOptions(latency_ms=1e6)).plan(subject(model_of("mlp")))
    assert plan.edits["steps"] == [{"remove": [], "attributes": {}, "opened": []}]
    assert len(list((tmp_path / "latency").glob("*.json"))) == 1
    with pytest.raises(RefusedError, match=r"latency_ms: 1e-06 ms of \d.* needs a network of 0.000 of the size"):
        Channels(ChannelsOptions(latency_ms=1e-6)).plan(subject(model_of("mlp")))


def test_cut_networks_are_timed_in_turns_with_the_whole_one(monkeypatch):
    """The first one's milliseconds, times the ratio of their file to its file."""
    model, taken = model_of("mlp"), []

    def beside(file, other, samples):
        taken.append((file.exists(), other.exists(), file != other, [len(each) for each in samples]))
        return Beside(0.5, 0.01, 24)

    monkeypatch.setattr(OnnxExporter, "write", lambda self, graph, example, file: file.touch())
    monkeypatch.setattr(timing, "measure", lambda file, samples: Latency(1.0, 2.0, 0.1, 3))
    monkeypatch.setattr(timing, "measure_beside", beside)
    with timing.timing(model, subject(model).io) as timed:
        assert timed(model.module) == Taken(2.0)
        assert taken == []
        assert timed(model.module) == Taken(1.0, 0.01)
    assert taken == [(True, True, True, [2])]


@pytest.mark.parametrize(("round_to", "multiple"), [(None, 16), (7, 7)])
def test_channels_that_stay_are_a_multiple(monkeypatch, round_to, multiple):
    @contextmanager
    def by_work(model, io):
        yield lambda module: Taken(count_module(module, ONE).macs / 1e6)

    monkeypatch.setattr(pruner, "timing", by_work)
    model = wide()
    ms = 0.68 * count_module(model.module, ONE).macs / 1e6
    made = Channels(ChannelsOptions(latency_ms=ms, round_to=round_to))
    small = made.apply(model, made.plan(subject(model))).module
    assert small[1].out_features < 240
    assert small[1].out_features % multiple == 0


def wide():
    torch.manual_seed(0)
    return Model(nn.Sequential(nn.Flatten(), nn.Linear(64, 240), nn.ReLU(), nn.Linear(240, 10)), ("image",))
