"""Every installed metric keeps the contract of metrics, and each rule finds the metric that breaks it."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from kdsearch.builtin.metrics import Accuracy, NegativeLogLikelihood
from kdsearch.host import Host
from kdsearch.kinds import HIDDEN, Measurement, Metric, NoOptions
from kdsearch.testing.contract import failures
from kdsearch.testing.metric import MetricContract
from tests.testing.open_lengths import SentenceSource, Tagged

TESTS = Path(__file__).parents[1]
OF_CLASSES = ("kdsearch.builtin.metrics", "kdsearch.builtin.torch_metrics")
HOST = Host.load()
INSTALLED = {name: HOST.load_class("metric", name) for name in HOST.names("metric")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", [name for name, cls in INSTALLED.items() if cls.__module__ in OF_CLASSES])
def test_metrics_of_classes_conform(name):
    assert failures(type("Contract", (MetricContract,), {"metric": INSTALLED[name], "name": name})) == {}


@pytest.mark.parametrize("name", [name for name, cls in INSTALLED.items() if cls.__module__ not in OF_CLASSES])
def test_every_other_metric_is_tested_on_data_of_its_own(name):
    text = "".join(file.read_text(encoding="utf-8") for file in (TESTS / "builtin").rglob("test_*.py"))
    assert re.search(rf"\b{INSTALLED[name].__name__}\b", text), INSTALLED[name].__name__


def breaking(measure: Any, **members: Any) -> type[MetricContract]:
    """Accuracy whose values are changed by `measure(found, predict, data, split)`."""

    def changed(self, predict, data, split, services):
        return measure(Accuracy.measure(self, predict, data, split, services), predict, data, split)

    broken = type("Broken", (Accuracy,), {"options_class": NoOptions, "measure": changed, **members})
    return type("Contract", (MetricContract,), {"metric": broken, "name": "accuracy"})


def as_is(found, *_):
    return found


def under_another_name(found, *_):
    return {"acc": found["accuracy"], "n": found["n"]}


def as_tensor(found, *_):
    return {**found, "accuracy": torch.tensor(found["accuracy"])}


def per_cent(found, *_):
    return {**found, "accuracy": 100 * found["accuracy"]}


def smoothed(found, *_):
    return {**found, "accuracy": (found["accuracy"] * found["n"] + 0.3) / (found["n"] + 1)}


def noisy(found, *_):
    return {**found, "accuracy": found["accuracy"] * (1 - 0.1 * float(torch.rand(())))}


def first_half(found, predict, data, split):
    batch = data.split(split).load(range(10))
    known = batch["label"] != HIDDEN
    hits = (predict(batch)["logits"].argmax(1) == batch["label"])[known]
    return {"accuracy": float(hits.float().mean()), "n": found["n"]} if known.any() else found


def beside_train(found, predict, data, split):
    data.split("train").load([0])
    return found


def always_val(found, predict, data, split):
    data.split("val").load([0])
    return found


def other_rows(found, *_):
    return Measurement(found, torch.zeros(int(found["n"])))


def one_row(found, *_):
    return Measurement(found, torch.tensor([found["accuracy"]]))


class OfAll(Metric[NoOptions]):
    """Counts samples without a label as wrong."""

    unit = "share"

    def measure(self, predict, data, split, services):
        batch = data.split(split).load(range(len(data.split(split).ids)))
        hits = predict(batch)["logits"].argmax(1) == batch["label"]
        return {"accuracy": float(hits.float().mean()), "n": float(len(hits))}


class OfTags(MetricContract):
    metric, name = Tagged, "tagged"

    def source(self):
        return SentenceSource()

    def answer(self, batch):
        return {"logits": torch.randn(6, 3, generator=torch.Generator().manual_seed(0))[batch["tokens"]]}

    def right(self, batch):
        return {"logits": torch.eye(3)[batch["tokens"] % 3]}


class TestOpenLengths(OfTags):
    pass


class OverPadding(Tagged):
    """Padding is never right."""

    def hits(self, answers, batch):
        return (answers == batch["tags"])[(batch["tags"] != -100).any(1)].flatten()


OVER_PADDING = type("OverPaddingContract", (OfTags,), {"metric": OverPadding})
OF_ALL = type("OfAllContract", (MetricContract,), {"metric": OfAll, "name": "accuracy"})
UNSAID = type("Unsaid", (NegativeLogLikelihood,), {"reads_scores": False})
FAULTS = [
    (
        type("UnsaidContract", (MetricContract,), {"metric": UNSAID, "name": "nll"}),
        "test_what_is_more_than_decided_is_said",
        "say `reads_scores = True`",
    ),
    (breaking(under_another_name), "test_gives_its_value_and_how_many_it_judged", "no 'accuracy'"),
    (breaking(as_tensor), "test_gives_its_value_and_how_many_it_judged", "expected a finite float"),
    (breaking(per_cent), "test_the_value_is_of_its_kind", "a share of"),
    (breaking(smoothed), "test_the_value_is_of_its_kind", "no proportion"),
    (breaking(as_is, direction="up"), "test_the_value_is_of_its_kind", "direction is 'up'"),
    (breaking(as_is, direction="min"), "test_right_answers_are_better", "direction is 'min'"),
    (breaking(noisy), "test_equal_answers_equal_values_and_global_stream_untouched", "measured differently"),
    (breaking(first_half), "test_order_of_the_samples_does_not_matter", "in another order"),
    (OVER_PADDING, "test_padding_does_not_matter", "with more padding"),
    (breaking(beside_train), "test_reads_the_split_that_it_is_asked_for", "reads train, val"),
    (breaking(always_val), "test_reads_the_split_that_it_is_asked_for", "asked for 'train', it reads train, val"),
    (breaking(other_rows), "test_what_items_add_makes_the_value", "the items' mean says 0"),
    (breaking(one_row), "test_what_items_add_makes_the_value", "give no interval"),
    (OF_ALL, "test_without_a_teacher_hidden_samples_are_left_out", "have a target"),
    (OF_ALL, "test_a_split_without_any_target_is_refused", "raise DataError"),
]


@pytest.mark.parametrize(("contract", "test", "says"), FAULTS)
def test_a_faulty_metric_is_found(contract, test, says):
    found = failures(contract, test)
    assert says in found.get(test, "(it passed)"), found


def test_every_rule_has_a_metric_that_breaks_it():
    assert {test for _, test, _ in FAULTS} == {each for each in dir(MetricContract) if each.startswith("test_")}
