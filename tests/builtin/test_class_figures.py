"""Class by class and confusion, against scikit-learn."""

import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from kdsearch.builtin.classification import Classification, ClassificationOptions
from kdsearch.kinds import Batch

N = 600


class Data:
    def __init__(self, labels, classes):
        self.labels, self.ids, self.facts = labels, [str(i) for i in range(len(labels))], {"classes": classes}

    def split(self, name):
        return self

    def load(self, index, augment=False, seed=0):
        at = torch.as_tensor(list(index))
        return Batch(tuple(self.ids[i] for i in at.tolist()), {"row": at, "label": self.labels[at]})


def drawn(n_classes, right=0.6):
    rng = torch.Generator().manual_seed(3)
    logits = torch.randn(N, n_classes, generator=rng)
    labels = torch.randint(1, n_classes, (N,), generator=rng)  # class 0 never occurs, but is answered
    labels = torch.where(torch.rand(N, generator=rng) < right, logits.argmax(1).clamp(min=1), labels)
    names = [f"class {k}" for k in range(n_classes)]
    data = Data(labels, names)
    task = Classification(ClassificationOptions())
    found = task.figures(lambda batch: {"logits": logits[batch["row"]]}, data, "test", None)
    return {each.slug: each for each in found}, labels.numpy(), logits.argmax(1).numpy(), names


def test_figures_agree_with_scikit_learn():
    found, truth, answer, names = drawn(5)
    kinds = range(5)
    recall = recall_score(truth, answer, labels=kinds, average=None, zero_division=0)
    precision = precision_score(truth, answer, labels=kinds, average=None, zero_division=0)
    rows = found["classes"].panels[0]["data"]["values"]
    assert [row["name"] for row in rows] == [names[k] for k in sorted(range(1, 5), key=lambda k: recall[k])]
    for row in rows:
        k = names.index(row["name"])
        assert (row["value"], row["other"]) == (pytest.approx(recall[k]), pytest.approx(precision[k]))
        assert row["n"] == (truth == k).sum()
    matrix = confusion_matrix(truth, answer, labels=kinds)
    cells = {(row["truth"], row["answer"]): row["n"] for row in found["confusion"].panels[0]["data"]["values"]}
    assert cells == {(names[i], names[j]): matrix[i, j] for i in range(1, 5) for j in range(5)}
    worst = found["confusion"].tables[0].rows[0]
    off = matrix.copy()
    off[range(5), range(5)] = 0
    assert worst[2] == off.max()
    assert off[names.index(worst[0]), names.index(worst[1])] == off.max()


@pytest.mark.parametrize("n_classes", [3, 14, 26])
def test_digits_in_a_matrix_can_be_read_and_stay_in_their_field(n_classes):
    """At any width of the page; where there is no room for such digits there are none."""
    found, *_ = drawn(n_classes)
    chart = found["confusion"].panels[0]
    longest = max(len(str(row["n"])) for row in chart["data"]["values"])
    (text,) = (layer["mark"] for layer in chart["layer"] if layer["mark"]["type"] == "text")
    narrow, _, sizes = text["fontSize"]["expr"].partition(" ? ")
    none, _, wide = sizes.partition(" : ")
    for width in range(150, 1200, 10):
        size = eval(none if eval(narrow, {"width": width}) else wide, {"width": width, "min": min})
        assert size == 0 or 8 <= size <= 11
        assert longest * 0.6 * size <= width / n_classes
    assert size > 0


def test_a_bar_says_how_long_it_is():
    found, *_ = drawn(5)
    chart = found["classes"].panels[0]
    bar, text = chart["layer"]
    assert (bar["mark"]["type"], text["mark"]["type"]) == ("bar", "text")
    assert text["encoding"]["text"]["field"] == chart["encoding"]["x"]["field"] == "value"
    assert text["encoding"]["text"]["format"] == ".1%", "99.7 % of a thousand samples is not 100 %"


def test_many_classes_stand_in_the_table():
    found, *_ = drawn(80)
    assert len(found["classes"].panels[0]["data"]["values"]) == 30
    assert len(found["classes"].tables[0].rows) > 70
    assert "80 classes" in found["confusion"].missing
    assert not found["confusion"].panels
    assert len(found["confusion"].tables[0].rows) == 20


def test_nothing_without_names_and_no_mistake_without_mistakes():
    found, *_ = drawn(3, right=2.0)
    assert (
        found["confusion"]
        .panels[0]["description"]
        .startswith(f"{sum(r[2] for r in found['confusion'].tables[0].rows)} of")
    )
    labels = torch.tensor([0, 1, 1])
    task = Classification(ClassificationOptions())

    def sure(batch):
        return {"logits": torch.eye(2)[batch["label"]]}

    _, confusion = task.figures(sure, Data(labels, ["a", "b"]), "test", None)
    assert (confusion.tables, confusion.notes) == ((), ("There is no mistake.",))
    assert not task.figures(sure, Data(labels, []), "test", None)
