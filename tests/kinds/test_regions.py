"""What a study leaves open of options: ranges that are off, spaces narrowed to what can be built."""

from typing import Annotated

import pytest
import torch
from pydantic import BaseModel, Field

from kdsearch.errors import StudyError
from kdsearch.kinds import Distiller, Options, SearchSpace, searched
from kdsearch.kinds.options import searchable, validate
from kdsearch.kinds.space import draw
from kdsearch.store.hashing import stream


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


class Numbers(Options):
    plain: float = 1.0
    bounded: Annotated[float, Field(ge=0)] = 1.0
    maybe: float | None = None
    several: Annotated[tuple[float, float], searched(low=0, high=1, each=2)] = (0.0, 0.0)
    chosen: Annotated[float, searched(1.0, 2.0)] = 1.0
    whole: int = 1
    either: int | float = 1


def test_a_range_of_whole_numbers_is_as_continuous_as_its_field():
    region = searchable(Numbers, {name: {"low": 0, "high": 2} for name in Numbers.model_fields}, "")
    names = ["whole", "either"]
    assert [dim.path for dim in region.dims if dim.range.integer] == names
    assert [dim.path for dim in region.dims if dim.range.size is not None] == names
    drawn = [draw(dim, stream(0, dim.path)) for dim in region.dims if not dim.range.integer]
    assert not any(float(value).is_integer() for value in drawn)


def test_a_default_keeps_its_own_bounds():
    class Negative(Options):
        power: float = Field(-1.0, gt=0)
        pair: tuple[int, ...] = (1, 2)

    with pytest.raises(StudyError, match=r"o\.power: got -1\.0\. Expected greater than 0"):
        validate(Negative, {}, "o")
    assert validate(Negative, {"power": 1.0}).pair == (1, 2)


def test_options_of_another_base_are_refused():
    class Loose(BaseModel):
        power: float = 1.0

    with pytest.raises(TypeError, match=r"Lax: its options Loose are no subclass of kdsearch\.kinds\.Options"):

        class Lax(Distiller[Loose]):
            pass


class Declared(Options):
    plain: Annotated[float, searched(low=0, high=2)] = 1.0
    several: Annotated[tuple[float, float], searched(low=0, high=2, each=2)] = (0.0, 0.0)
    whole: Annotated[int, searched(low=0, high=2)] = 1


def test_a_declared_range_is_as_continuous_as_its_field():
    region = searchable(Declared, dict.fromkeys(Declared.model_fields, "search"), "")
    assert [dim.path for dim in region.dims if dim.range.integer] == ["whole"]
    drawn = [draw(dim, stream(0, dim.path)) for dim in region.dims if dim.path != "whole"]
    assert len(drawn) == 3
    assert not any(float(value).is_integer() for value in drawn)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"low": 2.0, "high": 1.0}, "low is not below high"),
        ({"low": 1.0, "high": 1.0}, "low is not below high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "starts above 0"),
        ({"low": 1.0}, "either choices or low and high"),
    ],
)
def test_a_range_that_holds_nothing_cannot_be_declared(given, says):
    with pytest.raises(ValueError, match=says):
        searched(**given)


def test_a_declared_range_counts_by_an_option_of_the_same_class():
    with pytest.raises(ValueError, match="'t' of Lost is searched when 'nosuch', which is none of its options"):

        class Lost(Options):
            t: Annotated[float, searched(low=0.1, high=1.0, when={"nosuch": (1,)})] = 0.5


def test_a_range_that_a_fixed_value_puts_off_is_no_dimension():
    sides = ["spec.sides[0]", "spec.sides[1]"]
    assert paths() == ["spec.kind", "spec.size", *sides]
    assert paths(kind="b") == ["spec.size", *sides]
    assert paths(kind="a") == sides
    assert paths(kind="a", size={"choices": [4, 5]}) == paths(kind="a", size={"low": 4, "high": 5}) == sides
    of_size = next(dim for dim in searchable(Spec, {"kind": "search", "size": {"choices": [4, 5]}}, "spec").dims[1:])
    assert of_size.when == (("spec.kind", ("b",)),), "a range of the study's own counts where the declared one does"
    assert searchable(Spec, {"kind": "a", "size": "search"}, "spec").at({}) == Spec()


class Chained(Spec):
    mark: Annotated[int, searched(1, 2, when={"size": (1, 2, 3)})] = 5


def test_a_range_that_a_default_puts_off_is_no_dimension():
    """`kind` is `a` unless it is written, which reads no `size`; and 7, the size that is left, reads no `mark`."""
    assert searchable(Spec, {"size": "search"}, "spec").dims == ()
    assert searchable(Chained, {"size": "search", "mark": "search"}, "spec").dims == ()
    all_on = searchable(Chained, {"kind": "b", "size": "search", "mark": "search"}, "spec")
    assert [dim.path for dim in all_on.dims] == ["spec.size", "spec.mark"]


class Ops(Options):
    edges: Annotated[tuple[str, str], searched("none", "conv", "pool", each=2)] = ("conv", "conv")


def test_choices_of_words_hold_for_each_element_and_choices_of_lists_for_all():
    each = searchable(Ops, {"edges": {"choices": ["none", "conv"]}}, "spec")
    assert [(dim.path, dim.range.choices) for dim in each.dims] == [
        ("spec.edges[0]", ("none", "conv")),
        ("spec.edges[1]", ("none", "conv")),
    ]
    whole = searchable(Ops, {"edges": {"choices": [["none", "conv"], ["pool", "pool"]]}}, "spec")
    assert [(dim.path, dim.range.choices) for dim in whole.dims] == [
        ("spec.edges", (("none", "conv"), ("pool", "pool")))
    ]


def test_what_is_not_read_has_a_value_of_the_region():
    def unread(**written):
        return Space(searchable(Spec, written, "student.spec")).unread("size", "sides")

    assert unread() == {"size": 7, "sides": (1, 1)}
    assert unread(size=2, sides=[3, 4]) == {"size": 2, "sides": (3, 4)}
    assert unread(kind="b", size="search", sides="search") == {"size": 1, "sides": (1, 1)}
    assert unread(kind="b", size={"choices": [9, 7]}, sides={"low": 2, "high": 4}) == {"size": 7, "sides": (2, 2)}
    assert unread(sides={"choices": [[2, 3], [4, 4]]})["sides"] == (2, 3)


def test_a_space_keeps_the_values_that_pass():
    region = searchable(Spec, {"kind": "b", "size": "search", "sides": "search"}, "student.spec")
    narrow = Space(region).keeping("sides", lambda side: side % 2 == 0, "even sides").keeping("size", (1, 3).count, "")
    assert narrow.size() == 2 * 2 * 2
    assert {spec.sides for spec in narrow.every()} == {(2, 2), (2, 4), (4, 2), (4, 4)}
    rng = torch.Generator().manual_seed(0)
    assert {narrow.sample(rng).size for _ in range(30)} == {1, 3}
    assert Space(region).size() == 3 * 4 * 4  # the space itself is as it was
    assert {spec.sides[0] for spec in Space(region).keeping("sides[1]", (3).__eq__, "3").every()} == {1, 2, 3, 4}
    assert {spec.sides[1] for spec in Space(region).keeping("sides[1]", (3).__eq__, "3").every()} == {3}
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
