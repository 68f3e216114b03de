"""Metrics of numbers and of several labels: against scikit-learn, with intervals from what each sample adds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as theirs

from kdsearch.builtin.tables.label_metrics import MacroF1, MeanAveragePrecision, MicroF1
from kdsearch.builtin.tables.value_metrics import R2, ErrorOptions, Mae, Rmse
from kdsearch.errors import DataError, UserError
from kdsearch.kinds import HIDDEN
from kdsearch.kinds.options import validate
from kdsearch.testing.training import TensorSource

N = 300


def source(**targets):
    n = len(next(iter(targets.values())))
    return TensorSource({"val": {"at": torch.arange(n), **targets}})


def measured(metric, answers, data):
    return metric(validate(metric.options_class, {})).measure(
        lambda batch: {name: each[batch["at"]] for name, each in answers.items()}, data, "val", None
    )


def numbers(seed=0):
    rng = torch.Generator().manual_seed(seed)
    target = torch.randn(N, 2, generator=rng) * torch.tensor([100.0, 0.1]) + torch.tensor([1e4, 0.0])
    return target + torch.randn(N, 2, generator=rng) * torch.tensor([30.0, 0.05]), target


OF_NUMBERS = [
    (Rmse, "rmse", theirs.root_mean_squared_error),
    (Mae, "mae", theirs.mean_absolute_error),
    (R2, "r2", theirs.r2_score),
]


@pytest.mark.parametrize(("metric", "name", "function"), OF_NUMBERS)
def test_of_numbers(metric, name, function):
    value, target = numbers()
    found = measured(metric, {"value": value}, source(target=target))
    assert found[name] == pytest.approx(function(target.double().numpy(), value.double().numpy()), rel=1e-9)
    assert found["n"] == N
    assert (found.of or float)(found.rows.double().mean(0)) == pytest.approx(found[name], rel=1e-6)
    with pytest.raises(DataError, match="300 samples and no known target"):
        measured(metric, {"value": value}, source(target=target * torch.nan))


@pytest.mark.parametrize(("metric", "name", "function"), OF_NUMBERS)
def test_each_target_is_judged_on_the_samples_that_know_it(metric, name, function):
    """No sample knows both; of a third target nothing is known, and two samples know none."""
    value, target = numbers()
    value, target = torch.cat([value, value[:, :1]], 1), torch.cat([target, target[:, :1]], 1)
    target[:200, 1] = target[200:, 0] = target[:, 2] = torch.nan
    target[[0, 299]] = torch.nan
    found = measured(metric, {"value": value}, source(target=target))
    y, z = target.double().numpy(), value.double().numpy()
    assert found[name] == pytest.approx(
        np.mean([function(y[rows, k], z[rows, k]) for k, rows in enumerate((slice(1, 200), slice(200, 299)))]), rel=1e-9
    )
    assert found["n"] == 298
    assert found.of(found.rows.mean(0)) == found[name]
    value[5, 0] = torch.nan
    assert np.isnan(measured(metric, {"value": value}, source(target=target))[name]), "an answer that is no number"


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1.0, 1e12])
def test_r2_does_not_depend_on_units(scale):
    value, target = (each.double() * scale for each in numbers())
    for answer in (value, torch.ones_like(target) * target.mean(0) + 5 * target.std(0)):
        found = measured(R2, {"value": answer}, source(target=target))
        assert found["r2"] == pytest.approx(theirs.r2_score(target.numpy(), answer.numpy()), rel=1e-9)


def test_r2_of_a_target_that_does_not_vary():
    target = torch.full((N, 1), 0.1, dtype=torch.float64)
    assert measured(R2, {"value": target}, source(target=target))["r2"] == 1
    assert measured(R2, {"value": target + 1e-9}, source(target=target))["r2"] == 0
    assert np.isnan(measured(R2, {"value": target * torch.nan}, source(target=target))["r2"])
    assert np.isnan(measured(R2, {"value": target}, source(target=target[:1]))["r2"]), "one number has no variance"


def test_an_error_has_the_unit_of_its_target():
    assert Rmse(validate(ErrorOptions, {})).unit == ""
    for unit in ("mpg", "°C", "miles a gallon"):
        assert (
            Rmse(validate(ErrorOptions, {"unit": unit})).unit
            == Mae(validate(ErrorOptions, {"unit": unit})).unit
            == unit
        )
    for unit in ("share", " ", "mpg ", "x" * 25, "a\nb"):
        with pytest.raises(UserError, match="unit"):
            validate(ErrorOptions, {"unit": unit})


def test_a_score_of_zero_says_no_and_a_label_of_nobody_counts_nothing():
    """By hand: F1 of the three labels is 2/3 (one of two is found), 0 (never said, never true) and 1."""
    scores, truth = torch.tensor([[0.0, -1, 1], [2, -1, 0]]), torch.tensor([[1, 0, 1], [1, 0, 0]])
    found = measured(MacroF1, {"scores": scores}, source(labels=truth))
    assert found["macro_f1"] == pytest.approx(5 / 9)
    assert found.of(found.rows.mean(0)) == pytest.approx(5 / 9)
    assert measured(MicroF1, {"scores": scores}, source(labels=truth))["micro_f1"] == pytest.approx(4 / 5)


def labels(seed=0):
    rng = torch.Generator().manual_seed(seed)
    truth = (torch.rand(N, 5, generator=rng) < torch.tensor([0.5, 0.3, 0.05, 0.9, 0.2])).long()
    return 2 * (truth - 0.5) + 1.5 * torch.randn(N, 5, generator=rng), truth


@pytest.mark.parametrize(
    ("metric", "name", "function"),
    [
        (MacroF1, "macro_f1", lambda y, z: theirs.f1_score(y, z > 0, average="macro")),
        (MicroF1, "micro_f1", lambda y, z: theirs.f1_score(y, z > 0, average="micro")),
        (MeanAveragePrecision, "map", lambda y, z: theirs.average_precision_score(y, z, average="macro")),
    ],
)
def test_of_labels(metric, name, function):
    scores, truth = labels()
    found = measured(metric, {"scores": scores}, source(labels=truth))
    assert found[name] == pytest.approx(function(truth.numpy(), scores.numpy()), abs=1e-6)
    if metric is not MeanAveragePrecision:
        assert found.of(found.rows.mean(0)) == pytest.approx(found[name], abs=1e-6)
    hidden = truth.clone()
    hidden[::2, 1] = HIDDEN
    again = measured(metric, {"scores": scores}, source(labels=hidden))
    each = [
        function(truth[rows, k : k + 1].numpy(), scores[rows, k : k + 1].numpy())
        for k in range(5)
        for rows in [slice(1, N, 2) if k == 1 else slice(N)]
    ]
    if name == "micro_f1":
        known = (hidden != HIDDEN).numpy()
        assert again[name] == pytest.approx(theirs.f1_score(truth.numpy()[known], scores.numpy()[known] > 0), abs=1e-6)
    elif name == "map":
        assert again[name] == pytest.approx(np.mean(each), abs=1e-6)
    if metric is not MeanAveragePrecision:
        assert again.of(again.rows.mean(0)) == pytest.approx(again[name], abs=1e-6)


def test_a_label_that_does_not_occur_counts_nothing_of_the_mean_precision():
    scores, truth = labels()
    truth[:, 2] = 0
    found = measured(MeanAveragePrecision, {"scores": scores}, source(labels=truth))
    others = [k for k in range(5) if k != 2]
    assert found["map"] == pytest.approx(
        theirs.average_precision_score(truth[:, others].numpy(), scores[:, others].numpy()), abs=1e-6
    )
    with pytest.raises(DataError, match="map: none of the 5 labels occurs in the 300 samples of split 'val'"):
        measured(MeanAveragePrecision, {"scores": scores}, source(labels=truth * 0))
