"""What a network's state is, for whatever keeps it in files."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from kdsearch.errors import UserError
from kdsearch.training.built import structure


class Extra(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"seen": 3}


def test_state_that_no_file_of_weights_holds_is_named() -> None:
    assert structure(nn.Linear(2, 3)) == {"weight": (3, 2), "bias": (3,)}
    with pytest.raises(UserError, match=r"'0\._extra_state' of the network's state is a dict\. Expected tensors alone"):
        structure(nn.Sequential(Extra(2, 3)))
