"""What a study leaves open of options: ranges that are off, spaces narrowed to what can be built."""

from typing import Annotated

import pytest
import torch

from kdsearch.errors import StudyError
from kdsearch.kinds import Options, SearchSpace, searched
from kdsearch.kinds.options import searchable


class Spec(Options):
    kind: Annotated[str, searched("a", "b")] = "a"
    size: Annotated[int, searched(1, 2, 3, when={"kind": ("b",)})] = 7
    sides: Annotated[tuple[int, int], searched(low=1, high=4, each=2)] = (1, 1)


class Space(SearchSpace[Spec]):
    def build(self, spec, io):
        raise NotImplementedError


def paths(**written):
    raw = {**dict.fromkeys(Spec.model_fields, "search"), **written}
    return [dim.path for dim in searchable(Spec, raw, "spec").dims]


def test_a_range_that_a_fixed_value_puts_off_is_no_dimension():
    sides = ["spec.sides[0]", "spec.sides[1]"]
    assert paths() == ["spec.kind", "spec.size", *sides]
    assert paths(kind="b") == ["spec.size", *sides]
    assert paths(kind="a") == sides
    assert paths(kind="a", size={"choices": [4, 5]}) == ["spec.size", *sides]  # the study's own range has no condition
    assert searchable(Spec, {"kind": "a", "size": "search"}, "spec").at({}) == Spec()


def test_a_space_keeps_the_values_that_pass():
    region = searchable(Spec, {"kind": "b", "size": "search", "sides": "search"}, "student.spec")
    narrow = Space(region).keeping("sides", lambda side: side % 2 == 0, "even sides").keeping("size", (1, 3).count, "")
    assert narrow.size() == 2 * 2 * 2
    assert {spec.sides for spec in narrow.every()} == {(2, 2), (2, 4), (4, 2), (4, 4)}
    rng = torch.Generator().manual_seed(0)
    assert {narrow.sample(rng).size for _ in range(30)} == {1, 3}
    assert Space(region).size() == 3 * 4 * 4  # the space itself is as it was
    with pytest.raises(StudyError, match=r"student\.spec\.sides\[0\]: none of 1, 2, 3, 4 can be built. Expected odd"):
        Space(region).keeping("sides", lambda side: side > 4, "odd")


def test_a_region_without_a_valid_spec_is_named():
    class Never(Space):
        def is_valid(self, spec):
            return False

    region = searchable(Spec, {"sides": "search"}, "student.spec")
    with pytest.raises(StudyError, match=r"student\.spec: none of 1000 specs drawn from Never is valid"):
        Never(region).sample(torch.Generator().manual_seed(0))


def test_fixed_values_are_left_to_the_build():
    space = Space(searchable(Spec, {"sides": [1, 3], "kind": "search"}, ""))
    assert space.keeping("sides", lambda side: False, "none").dims == space.dims
