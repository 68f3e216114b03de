"""What counts as classification is said by the target, not by how many numbers are answered."""

from types import SimpleNamespace

import pytest

from kdsearch.builtin.classification import Classification, ClassificationOptions
from kdsearch.kinds import IO, Field
from kdsearch.training.normalize import is_classification

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
