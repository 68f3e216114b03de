"""Slots that go while trainings run: a machine that joined has left, and its trainings wait."""

from types import SimpleNamespace
from typing import Any

from kdsearch.training.trainings import Trainings


def test_none_is_free_where_more_run_than_there_are_slots():
    free: Any = Trainings.free
    assert free.fget(SimpleNamespace(slots=1, _running={"a": 0, "b": 0, "c": 0})) == 0
    assert free.fget(SimpleNamespace(slots=4, _running={"a": 0})) == 3
