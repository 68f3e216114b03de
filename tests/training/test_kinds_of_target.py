"""What counts as classification is said by the target, not by how many numbers are answered."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import kdsearch
from kdsearch.builtin.classification import Classification, ClassificationOptions
from kdsearch.errors import DataError
from kdsearch.host import Host
from kdsearch.kinds import IO, Field, Model, NoOptions, Task
from kdsearch.testing.training import TensorSplit
from kdsearch.training.materials import open_materials
from kdsearch.training.normalize import accuracy_of, is_classification

TASK = Classification(ClassificationOptions())
IMAGE, LOGITS = Field("image", "image", (1, 8, 8)), Field("logits", "logits", (4,))
ONE = Field("label", "label", (), "int64", "target")
MANY = Field("labels", "labels", (4,), "int64", "target")


@pytest.mark.parametrize(
    ("target", "output", "expected"),
    [
        (ONE, LOGITS, True),
        (MANY, LOGITS, False),  # K numbers of K labels
        (MANY, Field("scores", "scores", (4,)), False),
        (ONE, Field("embedding", "vector", (4,)), False),  # as wide as there are classes
        (ONE, Field("logits", "logits", (5,)), False),
        (Field("price", "value", (), use="target"), Field("price", "value", ()), False),
    ],
)
def test_the_target_decides(target, output, expected):
    data = SimpleNamespace(fields=(IMAGE, target), facts={"classes": list("abcd")})
    assert is_classification(SimpleNamespace(task=TASK, data=data, io=IO((IMAGE,), (output,)))) is expected


def test_accuracy_is_by_the_target_whatever_it_is_called():
    """Four samples of two numbers, the larger one's place is the answer: two of four are right."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    columns = {"x": x, "species": torch.tensor([0, 1, 1, 0])}

    class Species(Task[NoOptions]):
        def io(self, fields, facts):
            return IO((fields[0],), (Field("logits", "logits", (2,)),))

        def loss(self, out, batch):
            raise NotImplementedError

    fields = Field("x", "vector", (2,)), Field("species", "label", (), "int64", "target")
    split = TensorSplit("val", columns)
    split.labels = columns["species"]
    revealed = SimpleNamespace(split=lambda name: split)
    data = SimpleNamespace(fields=fields, facts={"classes": ["a", "b"]}, revealed=lambda: revealed)
    task = Species(NoOptions())
    materials = SimpleNamespace(data=data, task=task, io=task.io(fields, {}), torch_device=torch.device("cpu"))
    assert accuracy_of(materials, Model(nn.Identity(), ("x",))) == 0.5


def test_a_task_that_cannot_read_the_data_says_so_before_they_are_split():
    study = kdsearch.Study(
        data={"use": "bundled_table", "options": {"name": "auto_mpg"}}, task={"use": "multilabel"}, student="mlp"
    )
    with pytest.raises(DataError, match=r"multilabel: the data set has numbers .* Expected a target 'labels'"):
        open_materials(study, Host.load())
