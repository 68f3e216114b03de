"""The objective's value with its interval, by the metric's own kind and number of items."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from kdsearch.builtin.metrics import Accuracy, NegativeLogLikelihood
from kdsearch.errors import DataError, PluginError
from kdsearch.kinds import Measurement, Metric, NoOptions, Trial
from kdsearch.stages.quality import bootstrap, measured, quality_of, shown
from kdsearch.stages.refine import _best, _best_note

NONE = NoOptions()


class MeanIou(Metric[NoOptions]):
    """Of two classes; a row is an image's intersections and unions."""

    unit = "share"

    def measure(self, predict, data, split, services):
        raise NotImplementedError


def iou(mean: torch.Tensor) -> float:
    return float((mean[..., 0] / mean[..., 1]).mean())


def test_a_proportion_has_wilsons_interval_on_its_own_n():
    """The 230 nodes that were judged, whatever the split holds."""
    from scipy.stats import binomtest

    found = quality_of("accuracy", Accuracy(NONE), {"accuracy": 207 / 230, "n": 230.0}, 0)
    theirs = binomtest(207, 230).proportion_ci(0.95, method="wilson")
    assert found.n == 230
    assert found.interval == pytest.approx((theirs.low, theirs.high))
    assert quality_of("accuracy", Accuracy(NONE), {"accuracy": 0.9}, 0).interval is None, "n is not known"


def test_a_figure_that_is_no_number_is_left_out():
    """Of one sample there is no r2, and JSON has no NaN."""

    class Some(Metric[NoOptions]):
        unit = ""

        def measure(self, predict, data, split, services):
            return Measurement({"rmse": 1.0, "r2": float("nan"), "far": float("inf"), "n": 1.0})

    materials = SimpleNamespace(
        objective="rmse", reported={"rmse": Some(NONE)}, seed=0, data=None, judging=lambda name: nullcontext()
    )
    values, quality = measured(materials, None, "test", None)
    assert values == {"rmse": 1.0, "n": 1.0}
    assert quality["value"] == 1.0


def test_a_metric_that_finds_nothing_to_judge_is_left_out_unless_it_is_the_objective():
    class Some(Metric[NoOptions]):
        def measure(self, predict, data, split, services):
            return {"macro_f1": 0.5, "n": 4.0}

    class Nothing(Metric[NoOptions]):
        def measure(self, predict, data, split, services):
            raise DataError("no label occurs")

    reported = {"macro_f1": Some(NONE), "map": Nothing(NONE)}
    materials = SimpleNamespace(
        objective="macro_f1", reported=reported, seed=0, data=None, judging=lambda name: nullcontext()
    )
    assert measured(materials, None, "test", None)[0] == {"macro_f1": 0.5, "n": 4.0}
    materials.objective = "map"
    with pytest.raises(DataError, match="no label occurs"):
        measured(materials, None, "test", None)


def test_a_metric_without_a_value_of_its_name_is_refused():
    class Some(Metric[NoOptions]):
        def measure(self, predict, data, split, services):
            return {"brier": 0.5, "n": 4.0}

    materials = SimpleNamespace(
        objective="own", reported={"own": Some(NONE)}, seed=0, data=None, judging=lambda name: nullcontext()
    )
    with pytest.raises(PluginError, match=r"gives brier, n\. Expected 'own', the name"):
        measured(materials, None, "test", None)


def test_means_are_resampled():
    """Of 400 losses the 95 % interval is the mean +- 1.96 standard errors, within what 1,000 resamples can say."""
    rows = torch.rand(400, generator=torch.Generator().manual_seed(0)).double()
    values = Measurement({"nll": float(rows.mean()), "n": 400.0}, rows)
    found = quality_of("nll", NegativeLogLikelihood(NONE), values, 0)
    half = 1.96 * float(rows.std()) / 400**0.5
    assert found.unit == "nats"
    assert found.direction == "min"
    assert found.interval == pytest.approx((float(rows.mean()) - half, float(rows.mean()) + half), abs=0.15 * half)
    again = quality_of("nll", NegativeLogLikelihood(NONE), values, 0)
    assert again == found, "a stream of the study's seed"
    assert quality_of("nll", NegativeLogLikelihood(NONE), values, 1).interval != found.interval


def test_a_ratio_is_resampled_over_images_not_over_pixels():
    rng = torch.Generator().manual_seed(0)
    union = torch.randint(20, 60, (50, 2), generator=rng).double()
    inside = union * torch.rand(50, 2, generator=rng)
    rows = torch.stack([inside, union], -1)
    values = Measurement({"miou": iou(rows.mean(0)), "n": 50.0}, rows, iou)
    found = quality_of("miou", MeanIou(NONE), values, 0)
    draws = torch.tensor(
        [iou(rows[torch.randint(50, (50,), generator=rng)].mean(0)) for _ in range(2000)], dtype=torch.float64
    )
    expected = draws.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    assert found.interval == pytest.approx(expected, abs=0.02)
    assert found.interval[0] < found.value < found.interval[1]


def test_where_items_say_nothing_there_is_no_interval():
    found = quality_of("miou", MeanIou(NONE), {"miou": 0.5, "n": 50.0}, 0)
    assert (found.interval, found.n) == (None, 50)
    assert bootstrap(Measurement({"x": 1.0}, torch.tensor([1.0, float("nan")])), 0) is None


@pytest.mark.parametrize(
    ("quality", "text"),
    [
        ({"metric": "accuracy", "value": 0.981, "unit": "share"}, "accuracy 98.1 %"),
        ({"metric": "nll", "value": 0.03125, "unit": "nats"}, "nll 0.03125 nats"),
        ({"metric": "fid", "value": 12.0, "unit": ""}, "fid 12.00"),
        ({"metric": "fid", "value": None, "unit": ""}, "-"),
    ],
)
def test_values_are_shown_in_their_unit(quality, text):
    assert shown(quality, name=True) == text


@pytest.mark.parametrize(
    ("direction", "loss", "said"), [("max", 0.3, "best r2 -0.3000"), ("min", 0.3, "best r2 0.3000")]
)
def test_the_best_so_far_has_its_sign(direction, loss, said):
    trials = [Trial(0, {}, None, "complete", (0.9,)), Trial(1, {}, None, "complete", (loss,))]
    materials = SimpleNamespace(objective="r2", objectives={"r2": direction})
    assert _best_note(materials, _best(materials, (None, *trials))) == said
    assert _best_note(materials, None) == ""
