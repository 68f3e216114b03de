"""What the study's objective says of a network or a file, with its interval: one form for every task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from kdsearch.engine.measured import values_of
from kdsearch.errors import DataError
from kdsearch.kinds import Measurement, Metric, Predict, Services
from kdsearch.report.stats import wilson
from kdsearch.report.values import level
from kdsearch.store.hashing import derive
from kdsearch.training.materials import Materials

RESAMPLES = 1000
MOST = 2_000_000  # indices of resamples in memory at once
EQUALLY_GOOD = 0.005  # of a share; of any other metric that part of its value
DEFAULT_DROP = 0.01  # of a share; of any other metric that part of fp32's value
DEFAULT_AGREEMENT = 0.9  # of the answers: INT4 files of good students keep 0.97 and more
SHARE = "share"
ACCURACY = "accuracy"


@dataclass(frozen=True)
class Quality:
    """The objective's value.

    Args:
        unit: "share" = in [0, 1], shown as per cent; else the metric's own.
        interval: 95 %, where the metric has one. n: items that it judged, where it says. title: what people call the metric.
    """

    metric: str
    value: float | None
    direction: str
    unit: str = ""
    interval: tuple[float, float] | None = None
    n: int | None = None
    title: str = ""

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "interval": list(self.interval) if self.interval else None}


def measured(
    materials: Materials, predict: Predict, split: str, services: Services, decides_alone: bool = False
) -> tuple[dict[str, float], dict[str, Any]]:
    """Every value of the study's metrics on a split, and the objective's quality.

    `n` among the values is the objective's: other metrics may judge other items. What is no number on these is left out, and
    so is a metric that finds nothing to judge there, unless it is the objective. decides_alone: no scores
    are answered; what reads them is left out, too.
    """
    found: dict[str, float] = {}
    quality = _unknown(materials.objective, materials.reported[materials.objective])
    for name, metric in materials.reported.items():
        if decides_alone and metric.reads_scores:
            continue
        try:
            with materials.judging(name):
                values = values_of(name, metric, predict, materials.data, split, services)
        except DataError:
            if name == materials.objective:
                raise
            continue
        if name == materials.objective:
            quality = quality_of(name, metric, values, materials.seed)
        found |= {key: float(value) for key, value in values.items() if key != "n" and math.isfinite(value)}
    return {**found, **({"n": float(quality.n)} if quality.n is not None else {})}, quality.as_json()


def _unknown(name: str, metric: Metric[Any]) -> Quality:
    return Quality(name, None, metric.direction, metric.unit, title=metric.title)


def quality_of(name: str, metric: Metric[Any], values: Mapping[str, float], seed: int) -> Quality:
    """The metric's value with its 95 % interval: Wilson's of a proportion, else by resampling what each item adds, else none."""
    value, n = float(values[name]), values.get("n")
    count = int(n) if n is not None else None
    interval = None
    if metric.proportion and count and 0 <= value <= 1:
        interval = wilson(value, count)
    elif isinstance(values, Measurement) and values.rows is not None and len(values.rows) > 1:
        interval = bootstrap(values, derive(seed, "interval", name))
    return Quality(name, value, metric.direction, metric.unit, interval, count, metric.title)


def bootstrap(values: Measurement, seed: int) -> tuple[float, float] | None:
    """The middle 95 % of the metric over samples drawn with replacement (Efron, 1979); None where it is not finite."""
    from scipy.stats import bootstrap as resampled

    assert values.rows is not None
    rows, of = values.rows.detach().double().cpu(), values.of or float
    if not bool(rows.isfinite().all()):
        return None

    def statistic(index: Any) -> float:
        return of(rows[torch.from_numpy(np.asarray(index, dtype=np.int64))].mean(0))

    found = resampled(
        (np.arange(len(rows)),),
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, MOST // len(rows)),
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    low, high = float(found.low), float(found.high)
    return (low, high) if np.isfinite([low, high]).all() else None


def goodness(quality: Mapping[str, Any]) -> float:
    """The value, higher is better; minus infinity where there is none."""
    value = quality["value"]
    if value is None or value != value:
        return -float("inf")
    return float(value) if quality["direction"] == "max" else -float(value)


def tolerance(quality: Mapping[str, Any]) -> float:
    """The difference that decides nothing, on the metric's own scale."""
    value = quality["value"] or 0.0
    return EQUALLY_GOOD if quality["unit"] == SHARE else EQUALLY_GOOD * abs(value)


def allowed_drop(stated: float | str | None, fp32: Mapping[str, Any]) -> float:
    """How much worse than fp32 a file may be, in the metric's own unit. `stated`: such a number, or per cent of fp32's value."""
    value = abs(float(fp32["value"] or 0.0))
    if isinstance(stated, str):
        return float(stated.rstrip("% ")) / 100 * value
    if stated is not None:
        return stated
    return DEFAULT_DROP if fp32["unit"] == SHARE else DEFAULT_DROP * value


def allowed_agreement(stated: float | None) -> float:
    """The least share of answers that a file must have in common with torch."""
    return DEFAULT_AGREEMENT if stated is None else stated


def told(quality: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a row of the result says of a network or file: its `quality`, and `accuracy` where that is what it is."""
    is_accuracy = quality is not None and quality["metric"] == ACCURACY
    return {**({ACCURACY: quality["value"]} if quality and is_accuracy else {}), "quality": quality}


def measure(metric: Metric[Any]) -> dict[str, Any]:
    """What a reader needs to know of a metric's values: `title`, `unit` and `direction`."""
    return {"title": metric.title, "unit": metric.unit, "direction": metric.direction}


def shown(quality: Mapping[str, Any] | None, name: bool = False) -> str:
    """`98.1 %` of a share, `0.0312 nats` of anything else, `-` where there is none; with its metric's name if asked."""
    value = quality["value"] if quality else None
    if quality is None or value is None:
        return "-"
    text = f"{100 * value:.1f} %" if quality["unit"] == SHARE else f"{level(value)} {quality['unit']}".rstrip()
    return f"{quality.get('title') or quality['metric']} {text}" if name else text


def file_label(row: Mapping[str, Any]) -> str:
    """An exported file's format, with its role where several students ship by themselves."""
    return f"{row['role']} {row['format']}" if row.get("role") else str(row["format"])


def as_before(row: Mapping[str, Any]) -> str:
    """A sentence on a quantised file whose weights all have as many bits as fp32's; "" of others, or where nobody knows."""
    is_whole = row["weight_share"].get("32") == 1.0 and not row["format"].endswith("fp32")
    return f"{file_label(row)} stores no weight in fewer bits than fp32: it finds none that it can." if is_whole else ""


def no_smaller(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence on each quantised file with as many bytes as the fp32 file beside it, or more; of some `as_before` says why."""
    whole = {
        (row.get("role"), form.removesuffix("-fp32")): row for row in rows if (form := row["format"]).endswith("-fp32")
    }
    found = []
    for row in rows:
        fp32 = whole.get((row.get("role"), row["format"].rpartition("-")[0]))
        if fp32 is None or row is fp32 or row["bytes"] < fp32["bytes"] or as_before(row):
            continue
        found.append(f"{file_label(row)} is no smaller than fp32: what quantisation adds outweighs what it saves.")
    return found
