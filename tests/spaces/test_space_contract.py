"""Both spaces keep the contract; spaces that break it are caught by the test that is for it."""

from typing import ClassVar

import pytest
import torch
from kdsearch_spaces.cifar_resnet.space import CifarResNetSpace, CifarResNetSpec
from kdsearch_spaces.timm_space.space import TimmSpace
from torch import nn

from kdsearch.kinds import Cost, Tap
from kdsearch.testing.contract import failures
from kdsearch.testing.space import SearchSpaceContract

SMALL = {"choices": [4, 6, 9]}


class TestCifarResNet(SearchSpaceContract):
    space = CifarResNetSpace
    spec: ClassVar = {"widths": SMALL, "depths": {"choices": [1, 2]}}


class TestCifarResNetOfFixedWidths(SearchSpaceContract):
    space = CifarResNetSpace
    spec: ClassVar = {"widths": [4, 8, 16], "depths": {"low": 1, "high": 3}}


class TestTimmResNet(SearchSpaceContract):
    space = TimmSpace
    spec: ClassVar = {"family": "resnet", "widths": SMALL, "depths": {"choices": [1, 2]}}
    samples = 2


class TestTimmMobileNet(SearchSpaceContract):
    space = TimmSpace
    spec: ClassVar = {"family": "mobilenet", "widths": SMALL, "depths": {"choices": [1, 2]}}
    samples = 2


class TestTimmConvNeXt(SearchSpaceContract):
    space = TimmSpace
    spec: ClassVar = {"family": "convnext", "widths": SMALL, "depths": {"choices": [1, 2]}}
    samples = 2


class TestTimmViT(SearchSpaceContract):
    space = TimmSpace
    spec: ClassVar = {"family": "vit", "dim": {"choices": [12, 16, 18]}, "depth": {"choices": [1, 2]}}
    samples = 2


class TestTimmOfAllFamilies(SearchSpaceContract):
    space = TimmSpace
    spec: ClassVar = {"widths": SMALL, "depths": {"choices": [1, 2]}}
    samples = 3


class WrongCost(CifarResNetSpace):
    def cost(self, spec, io):
        told = super().cost(spec, io)
        return Cost(told.params, told.macs + 1)


class WrongTap(CifarResNetSpace):
    def build(self, spec, io):
        built = super().build(spec, io)
        built.taps = (*built.taps[:1], Tap("stage[0]", "stages.0", "map", (spec.widths[0], 8, 8), 1))
        return built


class OwnSeed(CifarResNetSpace):
    def build(self, spec, io):
        built = super().build(spec, io)
        nn.init.normal_(built.module.classifier.weight, generator=torch.Generator().manual_seed(torch.seed() % 2**31))
        return built


class RestlessCanonical(CifarResNetSpace):
    def canonical(self, spec):
        return CifarResNetSpec(depths=tuple(depth % 3 + 1 for depth in spec.depths), widths=spec.widths)


class FarNeighbours(CifarResNetSpace):
    def neighbours(self, spec, rng, n):
        return [self.sample(rng) for _ in range(n)]


class DeadWeight(CifarResNetSpace):
    def build(self, spec, io):
        built = super().build(spec, io)
        built.module.unused = nn.Linear(2, 2)
        return built


class WrongSize(CifarResNetSpace):
    def size(self):
        return 7


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        (WrongCost, "test_the_cost_is_the_built_model_s"),
        (WrongTap, "test_taps_have_the_promised_shapes"),
        (OwnSeed, "test_equal_seeds_give_equal_weights"),
        (RestlessCanonical, "test_the_canonical_form_is_one_and_the_same_network"),
        (FarNeighbours, "test_neighbours_differ_in_one_dimension"),
        (DeadWeight, "test_every_weight_gets_a_gradient"),
        (WrongSize, "test_size_is_the_number_of_specs"),
    ],
)
def test_broken_spaces_are_caught(broken, caught):
    contract = type(
        "Broken", (TestCifarResNet,), {"space": broken, "spec": {**TestCifarResNet.spec, "widths": [4, 4, 8]}}
    )
    assert caught in failures(contract)
