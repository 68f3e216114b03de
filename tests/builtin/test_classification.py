import numpy as np
import pytest
import torch

from kdsearch.builtin.classification import Classification, ClassificationOptions
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Batch, Field, Outputs

IMAGE = Field("image", "image", (3, 8, 8))
LABEL = Field("label", "label", (), "int64", "target")
FACTS = {"classes": ["a", "b", "c"]}


def task(**options):
    return Classification(ClassificationOptions(**options))


def loss_of(each, logits, labels):
    return each.loss(Outputs({"logits": logits}), Batch(tuple("abcdef")[: len(labels)], {"label": labels}))


def plain_cross_entropy(logits, labels, smoothing):
    z = logits.detach().numpy()
    log_probs = z - np.log(np.exp(z).sum(1, keepdims=True))
    losses = []
    for row, label in zip(log_probs, labels.tolist(), strict=True):
        if label == HIDDEN:
            continue
        target = np.full(z.shape[1], smoothing / z.shape[1])
        target[label] += 1 - smoothing
        losses.append(-(target * row).sum())
    return float(np.mean(losses))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_known_labels(smoothing):
    logits = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([0, HIDDEN, 2, 1, HIDDEN])
    found = loss_of(task(label_smoothing=smoothing), logits, labels)
    assert found.item() == pytest.approx(plain_cross_entropy(logits, labels, smoothing), abs=1e-12)
    found.backward()
    assert logits.grad[[1, 4]].abs().sum() == 0
    assert (logits.grad[[0, 2, 3]].abs().sum(1) > 0).all()


def test_without_known_labels_the_loss_is_zero_with_a_graph():
    logits = torch.randn(2, 3, requires_grad=True)
    found = loss_of(task(label_smoothing=0.1), logits, torch.full((2,), HIDDEN))
    assert found.item() == 0
    found.backward()
    assert torch.equal(logits.grad, torch.zeros(2, 3))


def test_the_loss_passes_gradcheck():
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, HIDDEN, 2, 1])
    assert torch.autograd.gradcheck(lambda z: loss_of(task(label_smoothing=0.2), z, labels), logits)


def test_io_takes_every_float_input_and_counts_classes():
    vector = Field("features", "vector", (7,))
    index = Field("index", "vector", (), "int64")
    io = task().io([IMAGE, vector, index, LABEL], FACTS)
    assert [each.name for each in io.inputs] == ["image", "features"]
    assert io.outputs == (Field("logits", "logits", (3,)),)


TOKENS = Field("tokens", "tokens", (None,), "int64", n_values=11)
MASK = Field("mask", "mask", (None,), "int64")


def test_io_takes_tokens_and_their_mask_and_no_other_integers():
    index, seen = Field("index", "vector", (), "int64"), Field("seen", "tokens", (4,), "int64", "extra")
    io = task().io([TOKENS, index, MASK, seen, LABEL], FACTS)
    assert io.inputs == (TOKENS, MASK)


def test_dummy_texts_are_of_the_vocabulary_with_valid_masks_and_labels():
    each = task()
    batch = each.dummy(each.io([TOKENS, MASK, LABEL], FACTS), 64, torch.Generator().manual_seed(3))
    assert batch["tokens"].unique().tolist() == list(range(11))
    assert batch["tokens"].shape == batch["mask"].shape == (64, 8)
    assert bool((batch["mask"].diff(dim=1) <= 0).all())
    assert bool((batch["mask"][:, 0] == 1).all())
    assert set(batch["label"].tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("fields", "facts", "expected"),
    [
        ([LABEL], FACTS, "float input"),
        ([MASK, LABEL], FACTS, "or tokens"),
        ([IMAGE], FACTS, "'label' of kind label"),
        ([IMAGE, LABEL], {}, "two or more names"),
        ([IMAGE, LABEL], {"classes": ["only"]}, "two or more names"),
        ([IMAGE, LABEL], {"classes": "abc"}, "two or more names"),
    ],
)
def test_io_names_what_is_missing(fields, facts, expected):
    with pytest.raises(DataError, match=expected):
        task().io(fields, facts)


def test_dummy_samples_have_labels_of_every_class_and_depend_on_the_stream_only():
    each = task()
    io = each.io([IMAGE, LABEL], FACTS)
    first, again = (each.dummy(io, 64, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first["image"].shape == (64, 3, 8, 8)
    assert set(first["label"].tolist()) == {0, 1, 2}
    assert torch.equal(first["label"], again["label"])
    assert torch.equal(first["image"], again["image"])
