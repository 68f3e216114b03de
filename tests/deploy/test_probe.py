"""What a card keeps of a file's answers: torch's own error where the questions show that the bound is finer than its rounding."""

import pytest
import torch
from torch import nn

from kdsearch.deploy.probe import differences, record
from kdsearch.deploy.verify import _near
from kdsearch.kinds import Field, Graph

GRAPH = Graph(nn.Identity(), (Field("x", "vector", (40,)),), (Field("y", "vector", (40,)),))


def rounded(x):
    return {"y": torch.round(x, decimals=2)}


def exactly(x):
    return {"y": x}


def run(feeds):
    return {"y": feeds["x"]}


def test_a_file_nearer_to_the_truth_than_torch_is_not_refused_later():
    """Torch rounds to .01, so a file that does not is off by up to .005 of a scale of 1, which 1e-4 would refuse."""
    kept = record(GRAPH, rounded, exactly, bound=1e-4, exact=lambda: exactly)
    own = kept["outputs"][0]["torch_fp32_to_fp64"]
    assert 0.004 < own <= 0.005 + 1e-6
    found = differences(kept, run, "torch")
    assert _near("", found, 1e-4, own).ok
    assert not _near("", found, 1e-4, None).ok


@pytest.mark.parametrize("far", [exactly, rounded])
def test_what_is_near_needs_no_second_pass(far):
    def never():
        raise AssertionError("not needed")

    kept = record(GRAPH, far, far, bound=1e-4, exact=never)
    assert "torch_fp32_to_fp64" not in kept["outputs"][0]


def test_a_network_without_fp64_says_nothing():
    def no_such_form():
        raise RuntimeError("only float")

    kept = record(GRAPH, rounded, exactly, bound=1e-4, exact=no_such_form)
    assert kept["outputs"][0]["torch_fp32_to_fp64"] is None
