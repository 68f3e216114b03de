"""The contract of metrics, as tests.

# tests/test_my_metric.py in your package; needs pytest
from kdsearch.testing.metric import MetricContract
from my_package.metric import MyMetric


class TestMyMetric(MetricContract):
    metric = MyMetric
    name = "my_metric"  # as it is registered
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from kdsearch.engine.setup import Site
from kdsearch.errors import DataError
from kdsearch.kinds import Batch, DataSource, Field, Measurement, Metric, Predict, Services, Split
from kdsearch.kinds.options import validate
from kdsearch.kinds.targets import targets_of, without_targets
from kdsearch.testing.contract import require
from kdsearch.testing.models import noise_batch
from kdsearch.testing.padding import has_open, padded
from kdsearch.testing.training import TensorSource

CLASSES = 8  # more than five: a metric of the five best answers has wrong ones too


class MetricContract:
    """Inherit it as `TestX`, name the metric; override `source`, `answer` and `right` for others than one class a sample."""

    metric: ClassVar[type[Metric[Any]]]
    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}

    def source(self) -> DataSource:
        """With splits `val`, of some dozen samples, and `train`, every target known; fields may leave sizes open."""
        return TensorSource({split: noise_batch(40, CLASSES, seed=seed) for seed, split in enumerate(("train", "val"))})

    def answer(self, batch: Batch) -> Mapping[str, Tensor]:
        """What some network answers, each sample on its own: neither right nor wrong throughout."""
        image = batch["image"].flatten(1)
        return {"logits": image @ torch.randn(image.shape[1], CLASSES, generator=Generator().manual_seed(0))}

    def right(self, batch: Batch) -> Mapping[str, Tensor]:
        """The best answers that there are."""
        return {"logits": 20 * F.one_hot(batch["label"].clamp(min=0), CLASSES).float()}

    def decided(self, batch: Batch) -> Mapping[str, Tensor]:
        """As a file that gives `answer`'s class alone is read; nothing where the answers are no (N, K) `logits` of one class."""
        logits = self.answer(batch).get("logits")
        return (
            {}
            if logits is None or logits.dim() != 2
            else {"logits": F.one_hot(logits.argmax(1), logits.shape[1]).float()}
        )

    def services(self) -> Services:
        """Without a teacher."""
        return Site(seed=0, base=Path())

    def made(self) -> Metric[Any]:
        return self.metric(validate(self.metric.options_class, self.options))

    def measure(
        self, predict: Predict | None = None, source: DataSource | None = None, split: str = "val"
    ) -> dict[str, float]:
        return self.made().measure(predict or self.answer, source or self.source(), split, self.services())

    def value(self, predict: Predict | None = None, source: DataSource | None = None) -> float:
        return self.measure(predict, source)[self.name]

    def test_gives_its_value_and_how_many_it_judged(self) -> None:
        found = self.measure()
        for name in (self.name, "n"):
            require(name in found, f"no '{name}' among {', '.join(found)}")
        for name, value in found.items():
            require(
                isinstance(value, float) and math.isfinite(value), f"'{name}' is {value!r}, expected a finite float"
            )
        require(found["n"] >= 1 and found["n"].is_integer(), f"n is {found['n']}, expected a number of items")

    def test_the_value_is_of_its_kind(self) -> None:
        metric = self.made()
        require(metric.direction in ("max", "min"), f"direction is '{metric.direction}'")
        for predict in (self.answer, self.right):
            found = self.measure(predict)
            value = found[self.name]
            if metric.unit == "share":
                require(-1e-6 <= value <= 1 + 1e-6, f"a share of {value:.4g}")
            if metric.proportion:
                hits = value * found["n"]
                require(
                    abs(hits - round(hits)) < 1e-3, f"{hits:.4f} of {found['n']:.0f} items are right: no proportion"
                )

    def test_what_is_more_than_decided_is_said(self) -> None:
        if self.metric.reads_scores or not self.decided(self.source().split("val").load([0])):
            return
        value, decided = self.value(), self.value(self.decided)
        require(
            math.isclose(value, decided, rel_tol=1e-5, abs_tol=1e-6),
            f"{value:.6g}, of the decided classes alone {decided:.6g}: say `reads_scores = True`",
        )

    def test_right_answers_are_better(self) -> None:
        best, other = self.value(self.right), self.value()
        is_better = best > other if self.metric.direction == "max" else best < other
        require(is_better, f"right answers have {best:.4g}, others {other:.4g}: direction is '{self.metric.direction}'")

    def test_equal_answers_equal_values_and_global_stream_untouched(self) -> None:
        before = torch.get_rng_state()
        first, again = self.measure(), self.measure()
        require(first == again, "equal answers are measured differently")
        require(torch.equal(before, torch.get_rng_state()), "measuring draws from the global stream")

    def test_order_of_the_samples_does_not_matter(self) -> None:
        value, turned = (
            self.value(),
            self.value(source=_Changed(self.source(), lambda ids: list(range(len(ids)))[::-1])),
        )
        require(math.isclose(value, turned, rel_tol=1e-5, abs_tol=1e-6), f"{value:.6g}, in another order {turned:.6g}")

    def test_padding_does_not_matter(self) -> None:
        source = self.source()
        if not has_open(source.fields):
            return
        value = self.value()
        longer = self.value(source=_Changed(source, lambda ids: list(range(len(ids))), pads=3))
        require(math.isclose(value, longer, rel_tol=1e-5, abs_tol=1e-6), f"{value:.6g}, with more padding {longer:.6g}")

    def test_reads_the_split_that_it_is_asked_for(self) -> None:
        for split in ("val", "train"):
            source = _Changed(self.source(), lambda ids: list(range(len(ids))))
            self.measure(source=source, split=split)
            read = ", ".join(sorted(source.read)) or "nothing"
            require(source.read == {split}, f"asked for '{split}', it reads {read}")

    def test_what_items_add_makes_the_value(self) -> None:
        found = self.measure()
        if not isinstance(found, Measurement) or found.rows is None:
            return
        rows = found.rows.double()
        require(bool(torch.isfinite(rows).all()), "what an item adds is not finite")
        require(len(rows) > 1, f"{len(rows)} independent items give no interval")
        mean = rows.mean(0)
        require(found.of is not None or mean.shape == (), f"rows are {tuple(rows.shape)}; say by `of` what they mean")
        value = float(mean) if found.of is None else found.of(mean)
        require(
            math.isclose(value, found[self.name], rel_tol=1e-4, abs_tol=1e-6),
            f"the items' mean says {value:.6g}, the metric {found[self.name]:.6g}",
        )

    def test_without_a_teacher_hidden_samples_are_left_out(self) -> None:
        source = self.source()
        if not targets_of(source.fields):
            return
        hidden = _Changed(source, lambda ids: list(range(len(ids))), hides=lambda i: i % 3 == 1)
        known = _Changed(source, lambda ids: [i for i in range(len(ids)) if i % 3 != 1])
        some, rest = self.measure(source=hidden), self.measure(source=known)
        require(some["n"] == rest["n"], f"{some['n']:.0f} items are judged, {rest['n']:.0f} have a target")
        require(
            math.isclose(some[self.name], rest[self.name], rel_tol=1e-5, abs_tol=1e-6),
            f"samples without a target change the value from {rest[self.name]:.6g} to {some[self.name]:.6g}",
        )

    def test_a_split_without_any_target_is_refused(self) -> None:
        source = self.source()
        if not targets_of(source.fields):
            return
        try:
            found = self.measure(source=_Changed(source, lambda ids: list(range(len(ids))), hides=lambda i: True))
        except DataError:
            return
        raise AssertionError(f"no target is known, and the value is {found.get(self.name)}; raise DataError")


class _Changed:
    """A source whose splits hold samples of another's, some of them without a target, their open axes padded by `pads` and twice
    as much. `read`: the splits that were loaded.
    """

    def __init__(self, source: DataSource, order: Any, hides: Any = lambda i: False, pads: int = 0) -> None:
        self._source, self._order, self._hides, self._pads = source, order, hides, pads
        self.read: set[str] = set()

    @property
    def fields(self) -> tuple[Field, ...]:
        return self._source.fields

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._source.facts

    @property
    def splits(self) -> tuple[str, ...]:
        return self._source.splits

    def split(self, name: str) -> Split:
        split, outer = self._source.split(name), self
        order = self._order(split.ids)

        class Changed:
            ids = tuple(split.ids[i] for i in order)

            def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
                outer.read.add(name)
                at = [order[i] for i in index]
                hidden = torch.tensor([bool(outer._hides(i)) for i in at], dtype=torch.bool)
                more = outer._pads * (1 + at[0] % 2) if at else 0  # batches of several lengths
                batch = padded(split.load(at, augment, seed), outer.fields, more)
                return without_targets(batch, hidden, targets_of(outer.fields))

        return Changed()
