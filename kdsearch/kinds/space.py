"""Search space: specs (typed options), how to build one, what it costs. The options ARE the spec."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import product
from typing import Any, ClassVar, Generic, Self

import torch
from torch import Generator

from kdsearch.errors import DataError, StudyError
from kdsearch.kinds.data import Field
from kdsearch.kinds.model import Cost, Model
from kdsearch.kinds.options import Capability, Dim, O, Options, Range, Searchable, Value, searchable
from kdsearch.kinds.task import IO


class SearchSpace(Capability, Generic[O]):
    """One small class makes a space: a spec (Options with searched fields) and `build`.

    `region` is what a study leaves open; sample, neighbours, crossover and size follow from its dimensions, and a space of
    blocks overrides them. Not its work: search.
    """

    task: ClassVar[str] = "classification"  # whose inputs and outputs `example_io` gives
    family_fields: ClassVar[tuple[str, ...]] = ()  # of a spec, that say its family, such as transformer or GRU

    def __init__(self, region: Searchable | None = None) -> None:
        if region is None:
            cls = self.options_class
            region = searchable(cls, dict.fromkeys(self._searched_fields(), "search"), "")
        self.region = region
        prefixes = [dim.path.split("[")[0] for dim in region.dims]
        self._prefix = prefixes[0].rpartition(".")[0] if prefixes else ""

    @classmethod
    def _searched_fields(cls) -> list[str]:
        from kdsearch.kinds.options import declared_range

        return [name for name in cls.options_class.model_fields if declared_range(cls.options_class, name)]

    @property
    def dims(self) -> tuple[Dim, ...]:
        return self.region.dims

    def at(self, values: dict[str, Value]) -> O:
        """The spec at these values (dimension path -> value)."""
        return self.region.at(values, self._prefix)  # type: ignore[return-value]

    def sample(self, rng: Generator) -> O:
        """A uniformly drawn valid spec. Raise StudyError where 1000 draws give none."""
        for _ in range(1000):
            spec = self.at({dim.path: draw(dim, rng) for dim in self.dims})
            if self.is_valid(spec):
                return spec
        raise StudyError(
            f"none of 1000 specs drawn from {type(self).__name__} is valid",
            path=self._prefix,
            expected="values that go together",
        )

    def values(self, spec: O) -> dict[str, Value]:
        """The values of the dimensions in `spec`: the inverse of `at`."""
        found: dict[str, Value] = {}
        for dim in self.dims:
            name = self._place(dim)
            base, bracket, index = name.partition("[")
            value = getattr(spec, base)
            found[dim.path] = value[int(index.rstrip("]"))] if bracket else value
        return found

    def unread(self, *names: str) -> dict[str, Value]:
        """For `canonical`: values of fields that a network does not read, of this region: its fixed one, the default, or its first.

        So what comes to be read by a later change is a value that the study allows.
        """
        found: dict[str, Value] = {}
        for name in names:
            value = self.options_class.model_fields[name].default
            dims = [dim for dim in self.dims if self._field(dim) == name]
            if name in self.region.fixed:
                value = self.region.fixed[name]
            elif dims and "[" in dims[0].path:
                had = value if isinstance(value, tuple) and len(value) == len(dims) else [None] * len(dims)
                value = tuple(_within(dim.range, each) for dim, each in zip(dims, had, strict=True))
            elif dims:
                value = _within(dims[0].range, value)
            found[name] = tuple(value) if isinstance(value, list) else value
        return found

    def _place(self, dim: Dim) -> str:
        return dim.path[len(self._prefix) :].lstrip(".")

    def _field(self, dim: Dim) -> str:
        return self._place(dim).partition("[")[0]

    def _values_here(self, spec: O) -> dict[str, Value]:
        """As `values`, of this region: the canonical form of one of its networks may have a value that it lacks.

        In its place one that makes the same network, else the first one.
        """
        values = self.values(spec)
        for dim in self.dims:
            if (near := _within(dim.range, values[dim.path])) != values[dim.path]:
                choices = ({**values, dim.path: value} for value in dim.range.choices)
                same = (each[dim.path] for each in choices if self.key(self.at(each)) == self.key(spec))
                values[dim.path] = next(same, near)
        return values

    def neighbours(self, spec: O, rng: Generator, n: int) -> list[O]:
        """n valid specs of the region that differ from `spec` in one dimension (fewer when there are none)."""
        found: list[O] = []
        current = self._values_here(spec)
        dims = [dim for dim in self.dims if dim.range.size != 1]
        for _ in range(50 * n):
            if len(found) == n or not dims:
                break
            dim = dims[_int(rng, len(dims))]
            value = draw(dim, rng)
            if value == current[dim.path]:
                continue
            other = self.at({**current, dim.path: value})
            if self.is_valid(other):
                found.append(other)
        return found

    def crossover(self, a: O, b: O, rng: Generator) -> O:
        """Every dimension from one of the two parents; the first where the child is not valid or there are no dimensions."""
        if not self.dims:
            return a
        left, right = self._values_here(a), self._values_here(b)
        child = self.at({path: (left if _int(rng, 2) else right)[path] for path in left})
        return child if self.is_valid(child) else a

    def size(self) -> int | None:
        """How many specs the region holds (before `canonical`); None when it is not finite.

        A space that declares no ranges and has neighbours of its own is not finite unless it says so.
        """
        if not self.dims and not self._searched_fields() and type(self).neighbours is not SearchSpace.neighbours:
            return None
        sizes = [dim.range.size for dim in self.dims]
        return None if any(size is None for size in sizes) else math.prod(size for size in sizes if size is not None)

    def every(self) -> Iterator[O]:
        """All valid specs of a finite region, in a fixed order."""
        for combination in product(*(each_value(dim) for dim in self.dims)):
            spec = self.at({dim.path: value for dim, value in zip(self.dims, combination, strict=True)})
            if self.is_valid(spec):
                yield spec

    def narrowed(self, io: IO) -> Self:
        """The space of what can be built for these inputs and outputs; the host works with it. Default: the space itself."""
        return self

    def keeping(self, name: str, keep: Callable[[Value], bool], expected: str) -> Self:
        """This space with those values of the field `name` alone that pass `keep`; a fixed value stays, for `build` to judge.

        `name` may be one place of a field of several, `widths[2]`; a study that chooses such a field whole has no such place.

        Raise StudyError, naming the field's path and what was `expected`, where none passes.
        """
        dims = []
        for dim in self.dims:
            if name in (self._field(dim), self._place(dim)):
                choices = tuple(value for value in each_value(dim) if keep(value))
                if not choices:
                    shown = ", ".join(str(value) for value in each_value(dim))
                    raise StudyError(f"none of {shown} can be built", path=dim.path, expected=expected)
                dim = replace(dim, range=Range(choices))
            dims.append(dim)
        return type(self)(replace(self.region, dims=tuple(dims)))

    def is_valid(self, spec: O) -> bool:
        """Whether it can be built. Default: what validates can."""
        return True

    def ignores(self, spec: O) -> Collection[str]:
        """The fields that this spec's network does not read, such as `heads` where nothing attends. Default: none."""
        return ()

    def family(self, spec: O) -> str:
        """Its values of `family_fields`. Scores say little across families, so that a search tries the best-scored of each."""
        return " ".join(str(getattr(spec, name)) for name in self.family_fields)

    def canonical(self, spec: O) -> O:
        """The representative of all isomorphic specs: equal canonical form, equal network.

        Default: what the network ignores has the values of `unread`.
        """
        return spec.model_copy(update=self.unread(*self.ignores(spec)))

    def read(self, spec: O) -> dict[str, Any]:
        """What the network reads of a spec, as JSON values: what reports say of it. `parse` makes the same network of them."""
        return self.canonical(spec).model_dump(mode="json", exclude=set(self.ignores(spec)))

    def key(self, spec: O) -> str:
        """Canonical form as a string: the candidate's identity everywhere."""
        return json.dumps(self.canonical(spec).model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def encode(self, spec: O) -> str:
        """The spec as text, as papers and tables write it; default: its key. Different networks have different texts."""
        return self.key(spec)

    def decode(self, text: str) -> O:
        """The inverse of `encode`; it also reads the spec as JSON. Raise StudyError for other text."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            example = self.key(self.sample(Generator().manual_seed(0)))
            raise StudyError(f"'{text[:60]}' is no architecture", expected=f"a spec as JSON, such as {example}")
        return self.parse(value)

    def example_io(self) -> IO:
        """What networks are built for where there are no data: images of 3x32x32, 10 classes."""
        return IO((Field("image", "image", (3, 32, 32)),), (Field("logits", "logits", (10,)),))

    def parse(self, spec: Any) -> O:
        """A spec from JSON values, or raise StudyError."""
        from kdsearch.kinds.options import validate

        return validate(self.options_class, spec)  # type: ignore[return-value]

    @abstractmethod
    def build(self, spec: O, io: IO) -> Model:
        """A freshly initialised network with stages named for taps. Draws from torch's global generator, seeded by the host."""

    def cost(self, spec: O, io: IO) -> Cost | None:
        """params and MACs without building, equal to the built model's; None where there is no formula."""
        return None

    def teacher_spec(self) -> Options | None:
        """The spec of the default random teacher of a training-free score; None = the largest of a random sample."""
        return None


def _within(range: Range, value: Value) -> Value:
    """The value, or the first one of the range where it is not of it."""
    if range.choices:
        return value if value in range.choices else range.choices[0]
    assert range.low is not None
    assert range.high is not None
    is_of = isinstance(value, int | float) and range.low <= value <= range.high
    return value if is_of else int(range.low) if range.integer else range.low


def image_input(io: IO, space: str, min_size: int = 1) -> tuple[str, int, int, int]:
    """(name, C, H, W) of the first input field. Raise DataError unless it is an image of fixed size, `min_size` pixels or more."""
    if not io.inputs:
        raise DataError("the task has no input field", expected="an image (C, H, W)")
    name, shape = io.inputs[0].name, io.inputs[0].shape
    problem = f"search space '{space}': input '{name}' is {'x'.join(str(size) for size in shape)}"
    if len(shape) != 3 or None in shape:
        raise DataError(problem, expected="an image (C, H, W) of fixed size")
    channels, height, width = (size or 0 for size in shape)
    if min(height, width) < min_size:
        raise DataError(problem, expected=f"height and width of at least {min_size}")
    return name, channels, height, width


def vector_output(io: IO, space: str) -> int:
    """K of the one output field (K,); raise DataError for other outputs."""
    if len(io.outputs) != 1 or len(io.outputs[0].shape) != 1 or io.outputs[0].shape[0] is None:
        shown = ", ".join(f"{each.name} {each.shape}" for each in io.outputs)
        raise DataError(f"search space '{space}': the task's outputs are {shown}", expected="one vector (K,)")
    return io.outputs[0].shape[0]


def map_output(io: IO, space: str, size: tuple[int, int]) -> int:
    """K of the one output field (K, H, W), which is as large as `size`; raise DataError for other outputs."""
    shape = io.outputs[0].shape if len(io.outputs) == 1 else ()
    if len(shape) != 3 or shape[0] is None or shape[1:] != size:
        shown = ", ".join(f"{each.name} {each.shape}" for each in io.outputs)
        expected = f"one map (K, {size[0]}, {size[1]}), as large as the image"
        raise DataError(f"search space '{space}': the task's outputs are {shown}", expected=expected)
    return shape[0]


def _int(rng: Generator, n: int) -> int:
    return int(torch.randint(n, (1,), generator=rng).item())


def draw(dim: Dim, rng: Generator) -> Value:
    """A value of the dimension, uniformly (in the logarithm where the range is log)."""
    ranged = dim.range
    if ranged.choices:
        return ranged.choices[_int(rng, len(ranged.choices))]
    assert ranged.low is not None
    assert ranged.high is not None
    if ranged.integer and not ranged.log:
        return int(ranged.low) + _int(rng, int(ranged.high - ranged.low) + 1)
    u = float(torch.rand(1, generator=rng, dtype=torch.float64).item())
    low, high = (math.log(ranged.low), math.log(ranged.high)) if ranged.log else (ranged.low, ranged.high)
    value = low + u * (high - low)
    value = math.exp(value) if ranged.log else value
    return round(value) if ranged.integer else min(max(value, ranged.low), ranged.high)


def each_value(dim: Dim) -> list[Value]:
    """Every value of a finite dimension."""
    if dim.range.choices:
        return list(dim.range.choices)
    assert dim.range.integer
    assert dim.range.low is not None
    assert dim.range.high is not None
    return list(range(int(dim.range.low), int(dim.range.high) + 1))
