"""The task `causal_lm` and its metrics: the contract, values against torchmetrics, and padding that counts nowhere."""

import math

import pytest
import torch
from torch.nn import functional as F

from kdsearch.builtin import passes
from kdsearch.builtin.text.causal_lm import CausalLm
from kdsearch.builtin.text.sequence_figures import foretold
from kdsearch.builtin.text.sequence_metrics import NextTokenAccuracy, Perplexity
from kdsearch.builtin.text.sequence_options import SequenceOptions, pieces_of
from kdsearch.builtin.text.sequence_source import SequenceSource, windows
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Batch, Field, NoOptions, Outputs
from kdsearch.testing.metric import MetricContract
from kdsearch.testing.task import TaskContract

OPTIONS = SequenceOptions(min_count=1, max_length=9)
WORDS = ("ab", "abc", "bca", "cab ab", "a", "bbb", "abcabcabcabc", "c a b", "ca", "ccba", "acb", "bab")


def source(packed=False):
    texts = {
        split: {f"{split}{i}": pieces_of(OPTIONS, w * k) for i, w in enumerate(WORDS)}
        for split, k in (("train", 1), ("val", 2))
    }
    return SequenceSource(
        {name: windows(each, OPTIONS.max_length, packed, name) for name, each in texts.items()},
        OPTIONS,
        {"source": "drawn"},
    )


class TestTask(TaskContract):
    task = CausalLm

    def source(self):
        return source()


class OfNextTokens(MetricContract):
    def source(self):
        return source()

    def answer(self, batch):
        """Of each token by itself."""
        n_values = source().fields[0].n_values
        table = torch.randn(n_values, n_values, generator=torch.Generator().manual_seed(0))
        return {"logits": table[batch["tokens"]]}

    def right(self, batch):
        return {"logits": 20 * F.one_hot(batch["next"].clamp(min=0), source().fields[0].n_values).float()}


class TestPerplexity(OfNextTokens):
    metric = Perplexity
    name = "perplexity"


class TestNextTokenAccuracy(OfNextTokens):
    metric = NextTokenAccuracy
    name = "next_token_accuracy"


@pytest.mark.parametrize("packed", [False, True])
def test_metrics_are_torchmetrics(packed):
    from torchmetrics.functional.classification import multiclass_accuracy
    from torchmetrics.functional.text import perplexity

    data = source(packed)
    batch = data.split("val").load(range(len(data.split("val").ids)))
    logits = OfNextTokens().answer(batch)["logits"]
    expected = float(perplexity(logits, batch["next"], ignore_index=HIDDEN))
    found = Perplexity(NoOptions()).measure(OfNextTokens().answer, data, "val", None)
    assert found["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert found["tokens"] == int(batch["mask"].sum())
    assert found["n"] == len(batch)
    flat = multiclass_accuracy(
        logits.flatten(0, 1), batch["next"].flatten(), logits.shape[-1], average="micro", ignore_index=HIDDEN
    )
    assert NextTokenAccuracy(NoOptions()).measure(OfNextTokens().answer, data, "val", None)[
        "next_token_accuracy"
    ] == pytest.approx(float(flat))


def test_a_pass_answers_no_more_logits_than_memory_is_kept_for(monkeypatch):
    """Of a large vocabulary and long texts 64 samples would be gigabytes."""
    data, answer = source(), OfNextTokens().answer
    numbers = []

    def counted(batch):
        found = answer(batch)
        numbers.append(found["logits"].numel())
        return found

    def found():
        numbers.clear()
        return dict(Perplexity(NoOptions()).measure(counted, data, "val", None)), foretold(counted, data, "val")

    value, told = found()
    whole = max(numbers)
    monkeypatch.setattr(passes, "NUMBERS", whole // 3)
    again, told_again = found()
    assert max(numbers) <= whole // 3
    assert again == pytest.approx(value)
    assert torch.allclose(told_again.nll, told.nll, equal_nan=True)
    assert torch.equal(told_again.hits, told.hits)


def test_a_network_that_knows_nothing_has_the_perplexity_of_the_vocabulary():
    def even(batch):
        return {"logits": torch.zeros(*batch["tokens"].shape, 7)}

    found = Perplexity(NoOptions()).measure(even, source(), "val", None)
    assert found["perplexity"] == pytest.approx(7)
    found = CausalLm(NoOptions()).loss(
        Outputs(even(source().split("train").load([0, 6]))), source().split("train").load([0, 6])
    )
    assert float(found) == pytest.approx(math.log(7))


def test_teachers_are_heard_at_tokens_alone():
    """`kd` reads rows of what the task says that it counts: no row of padding, and every one of a text without a label."""
    task, data = CausalLm(NoOptions()), source()
    batch = data.split("train").load([0, 2, 4])  # "ab", "bca", "a" with the boundary before
    io = task.io(data.fields, data.facts)
    logits = torch.randn(*batch["tokens"].shape, io.output("logits").shape[-1])
    rows = io.output("logits").rows(logits, task.counted(batch))
    assert rows.shape == (3 + 4 + 2, logits.shape[-1])
    assert torch.equal(rows[3:7], logits[1, :4])
    hidden = task.hide(batch, torch.tensor([True, False, True]), task.targets(data.fields))
    assert bool((hidden["next"][[0, 2]] == HIDDEN).all())
    assert torch.equal(task.counted(hidden), task.counted(batch))
    assert task.strata(hidden, task.targets(data.fields)).tolist() == [HIDDEN, 0, HIDDEN]


def test_padding_changes_no_gradient():
    task, data = CausalLm(NoOptions()), source()
    batch = data.split("train").load([0, 6])
    logits = torch.randn(2, batch["tokens"].shape[1], 7, requires_grad=True)
    task.loss(Outputs({"logits": logits}), batch).backward()
    assert bool((logits.grad[batch["mask"] == 0] == 0).all())
    assert bool((logits.grad[batch["mask"] == 1] != 0).all())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ((Field("image", "image", (3, 8, 8)),), "an input 'tokens' of kind tokens"),
        ((Field("tokens", "tokens", (None,), "int64"),), "says its vocabulary"),
        ((Field("tokens", "tokens", (None,), "int64", n_values=5),), "an input 'mask'"),
        (
            (Field("tokens", "tokens", (None,), "int64", n_values=5), Field("mask", "mask", (None,), "int64")),
            "a target 'next': what follows each token",
        ),
    ],
)
def test_data_that_it_cannot_use_are_told(fields, says):
    with pytest.raises(DataError) as found:
        CausalLm(NoOptions()).io(fields, {})
    assert says in str(found.value)


def test_what_no_sample_knows_is_an_error():
    class Unknown:
        ids = ("a",)

        def load(self, index, augment=False, seed=0):
            return Batch(("a",), {"tokens": torch.ones(1, 2, dtype=torch.int64), "next": torch.full((1, 2), HIDDEN)})

    class Source:
        fields = ()

        def split(self, name):
            return Unknown()

    with pytest.raises(DataError, match="no token to foretell"):
        Perplexity(NoOptions()).measure(lambda batch: {"logits": torch.zeros(1, 2, 5)}, Source(), "val", None)
