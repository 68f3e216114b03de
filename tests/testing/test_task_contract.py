"""Every installed task keeps the contract of tasks, and each rule finds the task that breaks it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.nn import functional as F

from kdsearch.builtin.classification import Classification
from kdsearch.errors import DataError
from kdsearch.host import Host
from kdsearch.kinds import HIDDEN, IO, Batch, Field, Figure, Graph, NoOptions, Product, Task
from kdsearch.testing.contract import failures
from kdsearch.testing.task import TaskContract
from kdsearch.testing.training import TensorSource
from tests.testing.open_lengths import SentenceSource, Tagging

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}])
def test_classification_conforms(options):
    assert failures(type("Contract", (TaskContract,), {"task": Classification, "options": options})) == {}


@pytest.mark.parametrize("name", sorted({*Host.load().names("task")} - {"classification"}))
def test_every_other_task_has_its_contract_on_data_of_its_own(name):
    cls = Host.load().load_class("task", name).__name__
    assert f"task = {cls}\n" in "".join(file.read_text(encoding="utf-8") for file in TESTS.rglob("test_*.py")), cls


class Regression(Task[NoOptions]):
    """Two numbers a sample, of floats that are NaN where they are not known."""

    objective: ClassVar[str] = "mse"

    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> IO:
        inputs = tuple(each for each in fields if each.use == "input")
        if not inputs or not any(each.name == "place" for each in fields):
            raise DataError("no inputs or no place")
        return IO(inputs, (Field("where", "vector", (2,)),))

    def loss(self, out, batch):
        known = ~batch["place"].isnan().any(1)
        far = (out["where"] - batch["place"].nan_to_num()).square().sum(1) * known
        return far.sum() / known.sum().clamp(min=1)

    def dummy(self, io, n, rng):
        return super().dummy(io, n, rng).having(place=torch.randn(n, 2, generator=rng))


class Places(TensorSource):
    @property
    def fields(self):
        return tuple(Field("place", "vector", (2,), use="target") if f.name == "place" else f for f in super().fields)


class TestRegression(TaskContract):
    task = Regression

    def source(self):
        rng = torch.Generator().manual_seed(2)
        drawn = {"seen": torch.randn(12, 5, generator=rng), "place": torch.randn(12, 2, generator=rng)}
        return Places({"train": drawn})


def breaking(base: type[Task[Any]] = Classification, source: Any = None, **members: Any) -> type[TaskContract]:
    """Classification, or another task on its own data, with these methods in place of its own."""
    broken = type("Broken", (base,), {"options_class": base.options_class, **members})
    return type("Contract", (TaskContract,), {"task": broken, **({"source": source} if source else {})})


def reads_labels(self, fields, facts):
    return IO(tuple(fields), (Field("logits", "logits", (4,)),))


def answers_nothing(self, fields, facts):
    return IO(Classification.io(self, fields, facts).inputs, ())


def takes_anything(self, fields, facts):
    return IO(tuple(each for each in fields if each.use == "input"), (Field("logits", "logits", (4,)),))


def each_sample(self, out, batch):
    return F.cross_entropy(out["logits"], batch["label"], ignore_index=HIDDEN, reduction="none")


def no_graph(self, out, batch):
    return Classification.loss(self, out, batch).detach()


def summed(self, out, batch):
    return F.cross_entropy(out["logits"], batch["label"], ignore_index=HIDDEN, reduction="sum")


def first_weighs_more(self, out, batch):
    return Classification.loss(self, out, batch) + out["logits"][0].square().mean()


def of_all_samples(self, out, batch):
    return F.cross_entropy(out["logits"], batch["label"], ignore_index=HIDDEN, reduction="sum") / len(batch)


def nothing_known_is_nan(self, out, batch):
    return F.cross_entropy(out["logits"], batch["label"], ignore_index=HIDDEN)


def hides_nothing(self, batch, hidden, targets):
    return batch


def hides_all(self, batch, hidden, targets):
    return Classification.hide(self, batch, torch.ones_like(hidden), targets)


def hides_in_place(self, batch, hidden, targets):
    batch["label"][hidden] = HIDDEN
    return batch


def one_group(self, batch, targets):
    return torch.zeros(len(batch), dtype=torch.int64)


def by_rank(self, batch, targets):
    labels = batch["label"]
    return torch.where(labels == HIDDEN, HIDDEN, torch.arange(len(labels)))


def floats(self, batch, targets):
    return batch["label"].float()


def global_noise(self, io, n, rng):
    return Batch(
        tuple(map(str, range(n))), {"image": torch.randn(n, 3, 8, 8), "label": torch.zeros(n, dtype=torch.int64)}
    )


def one_too_many(self, io, n, rng):
    return Classification.dummy(self, io, n + 1, rng)


def no_such_class(self, io, n, rng):
    return Classification.dummy(self, io, n, rng).having(label=torch.full((n,), HIDDEN - 1))


def noisy(self, batch, rng):
    return batch.having(image=batch["image"] + torch.randn(batch["image"].shape))


def turned(self, batch, rng):
    return batch.rows(torch.arange(len(batch)).flip(0))


def counted_floats(self, batch):
    return torch.ones(len(batch))


def idle_graph(self, model, io):
    made = Task.product(self, model, io)
    return Product({**made.graphs, "idle": Graph(model.module, io.inputs, io.outputs)}, made.call)


def halved(self, model, io):
    made = Task.product(self, model, io)
    return Product(made.graphs, lambda calls, batch: {k: v / 2 for k, v in made.call(calls, batch).items()})


def nan_figure(self, predict, data, split, services):
    return [Figure("a", "A", "a", [{"data": {"values": [{"x": float("nan")}]}}])]


def of_a_sample(self, batch):
    return batch["tags"][:, 0]


def one_more_class(self, batch):
    return batch["label"] + 1


def told_anyway(self, batch):
    return torch.zeros(len(batch), dtype=torch.int64)


def over_padding(task, out, batch):
    tags = batch["tags"].clamp(min=0)  # what nobody knows is tag 0
    return F.cross_entropy(out["logits"].transpose(1, 2), tags)


OPEN = {"source": lambda self: SentenceSource(), "base": Tagging}


class TestOpenLengths(TaskContract):
    task = Tagging

    def source(self):
        return SentenceSource()


FAULTS = [
    ({"io": reads_labels}, "test_io_is_of_the_data_and_has_an_answer", "is a target"),
    ({"io": answers_nothing}, "test_io_is_of_the_data_and_has_an_answer", "answer nothing"),
    ({"io": takes_anything}, "test_data_that_it_cannot_use_are_refused", "without any field are taken"),
    ({"objective": Task.objective, "metrics": ()}, "test_objective_is_named", "`objective` is not set"),
    ({**OPEN, "truth": of_a_sample}, "test_truth_is_a_class_at_each_position_of_logits", "expected 8 samples of"),
    ({"truth": one_more_class}, "test_truth_is_a_class_at_each_position_of_logits", "none of 4 classes"),
    ({"truth": told_anyway}, "test_truth_is_a_class_at_each_position_of_logits", "still tells what is hidden"),
    ({"loss": each_sample}, "test_loss_is_a_finite_scalar_with_a_gradient", "expected a scalar"),
    ({"loss": no_graph}, "test_loss_is_a_finite_scalar_with_a_gradient", "no graph"),
    ({"loss": summed}, "test_loss_is_a_mean_in_any_order", "of twice the samples"),
    ({"loss": first_weighs_more}, "test_loss_is_a_mean_in_any_order", "order of the samples"),
    ({"loss": of_all_samples}, "test_samples_without_a_target_count_nothing", "have no target"),
    ({"loss": nothing_known_is_nan}, "test_samples_without_a_target_count_nothing", "expected 0"),
    ({"hide": hides_nothing}, "test_hidden_samples_show_no_target", "still tells"),
    ({"hide": hides_all}, "test_hidden_samples_show_no_target", "hidden of others too"),
    ({"hide": hides_in_place}, "test_hidden_samples_show_no_target", "changes the batch"),
    ({"strata": one_group}, "test_strata_are_of_each_sample", "without a target"),
    ({"strata": by_rank}, "test_strata_are_of_each_sample", "depends on other samples"),
    ({"strata": floats}, "test_strata_are_of_each_sample", "float32"),
    ({"dummy": global_noise}, "test_dummies_are_samples", "global stream"),
    ({"dummy": one_too_many}, "test_dummies_are_samples", "5 samples were asked for"),
    ({"dummy": no_such_class}, "test_dummies_are_samples", "IndexError"),
    ({"prepare": noisy}, "test_preparing_repeats", "global stream"),
    ({"prepare": turned}, "test_preparing_repeats", "changes the samples"),
    ({"counted": counted_floats}, "test_counted_positions_are_marked", "expected bool"),
    ({"loss": over_padding, **OPEN}, "test_padding_counts_nothing", "three more places of padding"),
    ({"product": idle_graph}, "test_the_product_answers_as_the_model_does", "it calls model"),
    ({"product": halved}, "test_the_product_answers_as_the_model_does", "is not the model's"),
    ({"figures": nan_figure}, "test_figures_are_json", "JSON"),
]


@pytest.mark.parametrize(("members", "test", "says"), FAULTS, ids=lambda each: getattr(each, "__name__", None))
def test_a_faulty_task_is_found(members, test, says):
    found = failures(breaking(**members), test)
    assert says in found.get(test, "(it passed)"), found


def test_every_rule_has_a_task_that_breaks_it():
    assert {test for _, test, _ in FAULTS} == {each for each in dir(TaskContract) if each.startswith("test_")}
