import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    log_loss,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from kdsearch.builtin import metrics, torch_metrics
from kdsearch.errors import DataError, PluginError
from kdsearch.host import Host
from kdsearch.kinds import HIDDEN, Batch, NoOptions, Outputs

K, N = 7, 600  # more than two chunks


class Logits:
    """A data set whose one split holds labels and sample numbers."""

    def __init__(self, labels):
        self.labels = labels
        self.ids = [f"s{i}" for i in range(len(labels))]

    def split(self, name):
        return self

    def load(self, index, augment=False, seed=0):
        at = torch.as_tensor(list(index))
        labels = self.labels[index.start : index.stop]  # a view: who writes to it changes the data set
        return Batch(tuple(self.ids[i] for i in at.tolist()), {"row": at, "label": labels})


class Doors:
    """Services of a study with or without a teacher."""

    def __init__(self, teacher=None, error=PluginError):
        self.teacher, self.error = teacher, error

    def predict(self, model, batch):
        if self.teacher is None:
            raise self.error("unknown teacher")
        return Outputs({"logits": self.teacher[batch["row"]]})


@pytest.fixture
def case():
    rng = torch.Generator().manual_seed(5)
    logits = 3 * torch.randn(N, K, generator=rng)
    labels = torch.randint(1, K, (N,), generator=rng)  # class 0 never occurs
    labels = torch.where(torch.rand(N, generator=rng) < 0.4, logits.argmax(1).clamp(min=1), labels)
    return logits, labels, torch.randn(N, K, generator=rng)


def measure(cls, logits, labels, doors=None, options=None):
    metric = cls(options or cls.options_class())
    return metric.measure(lambda batch: {"logits": logits[batch["row"]]}, Logits(labels), "test", doors or Doors())


def test_values_agree_with_scikit_learn(case):
    logits, labels, _ = case
    probs, y, top = logits.double().softmax(1).numpy(), labels.numpy(), logits.argmax(1).numpy()
    assert measure(metrics.Accuracy, logits, labels) == {"accuracy": accuracy_score(y, top), "n": N}
    top5 = top_k_accuracy_score(y, logits.numpy(), k=5, labels=range(K))
    assert measure(metrics.Top5, logits, labels)["top5"] == pytest.approx(top5, abs=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class is predicted that never occurs: the case we want
        balanced = balanced_accuracy_score(y, top)
    assert measure(metrics.BalancedAccuracy, logits, labels)["balanced_accuracy"] == pytest.approx(balanced, abs=1e-9)
    nll = log_loss(y, probs, labels=range(K))
    assert measure(metrics.NegativeLogLikelihood, logits, labels)["nll"] == pytest.approx(nll, abs=1e-6)


@pytest.mark.parametrize("classes", [(1,), (2, 5), (0, 3, 6)])
def test_of_a_group_of_classes_they_are_scikit_learns_of_its_samples(classes, case):
    logits, labels, _ = case
    mine = np.isin(labels.numpy(), classes)
    y, top = labels.numpy()[mine], logits.argmax(1).numpy()[mine]
    probs = logits.double().softmax(1).numpy()[mine]
    known = [k for k in classes if k in y]
    wanted = {
        metrics.Accuracy: accuracy_score(y, top),
        metrics.Top5: top_k_accuracy_score(y, logits.numpy()[mine], k=5, labels=range(K)),
        metrics.BalancedAccuracy: recall_score(y, top, labels=known, average="macro"),
        metrics.NegativeLogLikelihood: log_loss(y, probs, labels=range(K)),
    }
    for cls, value in wanted.items():
        found = measure(cls, logits, labels)
        assert found.of_classes(classes) == pytest.approx(value, abs=1e-6), cls
        assert math.isnan(found.of_classes([0])), "class 0 never occurs"


@pytest.mark.parametrize("bins", [15, 4])
def test_calibration_error_is_the_gap_by_bin(case, bins):
    logits, labels, _ = case
    probs = logits.softmax(1).numpy().astype(np.float64)
    sure, hit = probs.max(1), probs.argmax(1) == labels.numpy()
    expected = 0.0
    for low in np.arange(bins) / bins:
        inside = (sure > low) & (sure <= low + 1 / bins)
        if inside.any():
            expected += inside.mean() * abs(hit[inside].mean() - sure[inside].mean())
    found = measure(metrics.CalibrationError, logits, labels, options=metrics.CalibrationOptions(bins=bins))
    assert found["ece"] == pytest.approx(expected, abs=1e-6)


def test_answers_that_are_sure_share_the_last_bin_with_nearly_sure_ones():
    """500 of confidence 1, 480 of them right, and 500 of 0.96, all right: 980 of 1,000 are right of a mean confidence of 0.98."""
    logits, labels = torch.zeros(1000, 2), torch.zeros(1000, dtype=torch.long)
    logits[:500, 0], logits[500:, 0], labels[:20] = 40.0, math.log(24), 1
    assert measure(metrics.CalibrationError, logits, labels)["ece"] == pytest.approx(0, abs=1e-7)


def test_the_teacher_stands_in_for_hidden_labels(case):
    logits, labels, teacher = case
    hidden = torch.arange(N) % 3 == 0
    shown = labels.masked_fill(hidden, HIDDEN)
    top, top_t = logits.argmax(1), teacher.argmax(1)
    found = measure(metrics.Accuracy, logits, shown, Doors(teacher))
    assert found["labeled_accuracy"] == pytest.approx(float((top == labels)[~hidden].double().mean()))
    assert found["teacher_agreement"] == pytest.approx(float((top == top_t)[hidden].double().mean()))
    assert found["accuracy"] == pytest.approx(float((top == torch.where(hidden, top_t, labels)).double().mean()))
    assert found["n"] == N
    assert torch.equal(shown[hidden], torch.full((int(hidden.sum()),), HIDDEN))  # the data set's tensor is untouched


@pytest.mark.parametrize("error", [PluginError, KeyError])
def test_without_a_teacher_hidden_samples_are_left_out(case, error):
    logits, labels, _ = case
    shown = labels.clone()
    shown[:500] = HIDDEN  # the first chunk has no label at all
    found = measure(metrics.Accuracy, logits, shown, Doors(error=error))
    assert found == {"accuracy": float((logits.argmax(1) == labels)[500:].double().mean()), "n": 100}


@pytest.mark.parametrize("width", [K - 1, K + 1])
def test_a_teacher_of_other_classes_stands_in_for_nothing(case, width):
    """Its likeliest class may be none of the data's."""
    logits, labels, teacher = case
    shown = labels.clone()
    shown[:500] = HIDDEN
    others = torch.nn.functional.pad(teacher, (0, width - K), value=99.0)
    assert measure(metrics.Accuracy, logits, shown, Doors(others)) == measure(metrics.Accuracy, logits, shown)


def test_a_split_that_nothing_can_judge_is_an_error(case):
    logits, labels, _ = case
    with pytest.raises(DataError, match="split 'test' has 600 samples and no label"):
        measure(metrics.Accuracy, logits, torch.full_like(labels, HIDDEN))


def test_only_labels_all_hidden_give_agreement_alone(case):
    logits, labels, teacher = case
    found = measure(metrics.Accuracy, logits, torch.full_like(labels, HIDDEN), Doors(teacher))
    assert found["accuracy"] == found["teacher_agreement"]
    assert "labeled_accuracy" not in found


def test_fewer_than_five_classes_are_all_in_the_top_five():
    assert measure(metrics.Top5, torch.randn(9, 3), torch.arange(9) % 3)["top5"] == 1


def test_directions():
    directions = {
        cls.__name__: cls(cls.options_class()).direction for cls in (metrics.Accuracy, metrics.CalibrationError)
    }
    assert directions == {"Accuracy": "max", "CalibrationError": "min"}
    assert metrics.NegativeLogLikelihood(NoOptions()).direction == "min"


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("F1", lambda y, p: f1_score(y, p.argmax(1), average="macro")),
        ("Precision", lambda y, p: precision_score(y, p.argmax(1), average="macro")),
        ("Recall", lambda y, p: recall_score(y, p.argmax(1), average="macro")),
        ("Auroc", lambda y, p: roc_auc_score(y, p, multi_class="ovr")),
        ("AveragePrecision", lambda y, p: average_precision_score(y, p, average="macro")),
        ("CohenKappa", lambda y, p: cohen_kappa_score(y, p.argmax(1))),
        ("Matthews", lambda y, p: matthews_corrcoef(y, p.argmax(1))),
    ],
)
def test_metrics_of_torchmetrics_agree_with_scikit_learn(name, theirs, case):
    logits, _, _ = case
    labels = torch.where(torch.arange(N) % 3 == 0, torch.arange(N) % K, logits.argmax(1))
    cls = getattr(torch_metrics, name)
    assert cls.__doc__
    found = measure(cls, logits, labels)
    expected = theirs(labels.numpy(), logits.double().softmax(1).numpy())
    assert found == {cls.name: pytest.approx(float(expected), abs=1e-6), "n": N}


def test_auroc_is_of_the_classes_that_the_split_has(case):
    logits, labels, _ = case
    found = measure(torch_metrics.Auroc, logits, labels)  # class 0 never occurs
    each = [roc_auc_score(labels.numpy() == k, logits.double().softmax(1)[:, k].numpy()) for k in range(1, K)]
    assert found["auroc"] == pytest.approx(np.mean(each), abs=1e-6)
    with pytest.raises(DataError, match="auroc: all 600 samples that are judged are of class 2"):
        measure(torch_metrics.Auroc, logits, torch.full_like(labels, 2))


def test_every_metric_is_registered_under_its_own_name():
    host = Host.load()
    ours = [cls for cls in vars(torch_metrics).values() if isinstance(cls, type) and hasattr(cls, "function")]
    assert len(ours) == 7
    assert all(host.load_class("metric", cls.name) is cls for cls in ours)
