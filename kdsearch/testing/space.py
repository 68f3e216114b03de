"""The search-space contract as tests.

# tests/test_my_space.py in your package; needs pytest
from kdsearch.testing.space import SearchSpaceContract
from my_package.space import MySpace


class TestMySpace(SearchSpaceContract):
    space = MySpace
    spec = {"widths": [8, 16, 32]}  # as in a study's `student.spec:`; what is left out is searched
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise, product
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from kdsearch.deploy.cost import count
from kdsearch.kinds import IO, Field, Model, Options, SearchSpace
from kdsearch.kinds.forward import recorded
from kdsearch.kinds.options import declared_range, searchable
from kdsearch.kinds.space import each_value
from kdsearch.kinds.units import in_units
from kdsearch.testing.contract import require


class SearchSpaceContract:
    """Inherit it as `TestX` and name the space; override `io` for other inputs and outputs than small images."""

    space: ClassVar[type[SearchSpace[Any]]]
    spec: ClassVar[Mapping[str, Any]] = {}
    samples: ClassVar[int] = 4
    enumerable: ClassVar[int] = 2000  # regions up to this size are enumerated

    def io(self) -> IO:
        return IO((Field("image", "image", (3, 16, 16)),), (Field("logits", "logits", (5,)),))

    def made(self) -> SearchSpace[Any]:
        cls = self.space.options_class
        left_out = [name for name in cls.model_fields if declared_range(cls, name) and name not in self.spec]
        region = searchable(cls, {**self.spec, **dict.fromkeys(left_out, "search")}, "student.spec")
        return self.space(region).narrowed(self.io())

    def specs(self) -> list[Options]:
        space, rng = self.made(), Generator().manual_seed(0)
        return [space.sample(rng) for _ in range(self.samples)]

    def built(self, spec: Options, seed: int = 0) -> Model:
        """As a host builds: torch's global generator is seeded before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.made().build(spec, self.io())

    def batch(self, n: int) -> dict[str, Tensor]:
        rng = Generator().manual_seed(1)
        return {each.name: each.noise(n, rng) for each in self.io().inputs}

    def test_what_a_sample_lacks_tells_nothing(self) -> None:
        """Where `present_<field>` among the inputs is 0, the answer is the same whatever stands in the field, or in its mask."""
        io, batch = self.io(), self.batch(6)
        gates = [each.name for each in io.inputs if each.kind == "present"]
        for spec in self.specs() if gates else ():
            model = in_units(self.built(spec), io)
            model.module.eval()
            for gate in gates:
                name = gate.removeprefix("present_")
                lacking = {**batch, gate: torch.zeros_like(batch[gate])}
                beside = [each for each in (name, f"{name}_mask") if each in batch]
                other = {**lacking, **{each: batch[each].flip(0) for each in beside}}
                with torch.no_grad():
                    one, two = (model.module(*[each[key] for key in model.inputs]) for each in (lacking, other))
                require(torch.equal(one, two), f"'{name}' is read in samples that lack it")

    def test_samples_are_valid_and_a_function_of_the_stream(self) -> None:
        space = self.made()
        first, again = self.specs(), self.specs()
        require(first == again, "equal generators draw different specs")
        for spec in first:
            require(space.is_valid(spec), f"a drawn spec is not valid: {spec!r}")

    def test_specs_survive_json_and_values(self) -> None:
        space = self.made()
        for spec in self.specs():
            require(space.parse(spec.model_dump(mode="json")) == spec, f"not equal after JSON: {spec!r}")
            if not is_of_blocks(space):
                require(space.at(space.values(spec)) == spec, f"at(values(spec)) is another spec: {spec!r}")

    def test_specs_survive_their_text(self) -> None:
        space = self.made()
        for spec in map(space.canonical, self.specs()):
            text = space.encode(spec)
            require(space.decode(text) == spec, f"decode(encode(spec)) is another spec: {spec!r} -> {text}")
            require(space.decode(space.key(spec)) == spec, f"decode does not read the JSON of {spec!r}")

    def test_neighbours_differ_in_one_dimension(self) -> None:
        """In a space of blocks, which has no dimensions, they are other networks."""
        space, rng = self.made(), Generator().manual_seed(2)
        for spec in self.specs():
            here = space.values(spec)
            for other in space.neighbours(spec, rng, 4):
                there = space.values(other)
                changed = [path for path in here if here[path] != there[path]]
                if is_of_blocks(space):
                    changed = ["blocks"] if space.key(other) != space.key(spec) else []
                require(len(changed) == 1, f"a neighbour changes {changed or 'nothing'}: {spec!r} -> {other!r}")
                require(space.is_valid(other), f"a neighbour is not valid: {other!r}")

    def test_children_take_every_value_from_a_parent(self) -> None:
        space, rng = self.made(), Generator().manual_seed(3)
        parents = self.specs()
        for a, b in pairwise(parents):
            child = space.crossover(a, b, rng)
            left, right, made = space.values(a), space.values(b), space.values(child)
            foreign = [path for path, value in made.items() if value not in (left[path], right[path])]
            require(not foreign, f"the child has values of neither parent at {foreign}")
            require(space.is_valid(child), f"the child is not valid: {child!r}")
            only = space.crossover(a, a, rng)
            require(space.key(only) == space.key(a), f"equal parents have another child: {a!r} -> {only!r}")

    def test_the_canonical_form_is_one_and_the_same_network(self) -> None:
        space, io = self.made(), self.io()
        for spec in self.specs():
            canonical = space.canonical(spec)
            require(space.canonical(canonical) == canonical, f"canonical is not idempotent: {spec!r}")
            require(space.key(canonical) == space.key(spec), f"spec and canonical form have different keys: {spec!r}")
            require(self.made().key(spec) == space.key(spec), "two instances of the space give different keys")
            said = space.parse(space.read(spec))
            drawn, kept, read = (count(self.built(each), io) for each in (spec, canonical, said))
            cheaper = kept.params <= drawn.params and kept.macs <= drawn.macs
            require(cheaper, f"the canonical form costs more, {kept} and not {drawn}: {spec!r}")
            again = space.read(said) == space.read(spec) and read == kept
            require(again, f"what is read makes another network, {read} and not {kept}: {spec!r} -> {space.read(spec)}")
            others = [each for each in self.specs() if space.read(each) == space.read(spec)]
            require(len({space.key(each) for each in others}) == 1, f"other networks read the same: {others}")

    def test_models_read_and_answer_the_task_s_fields(self) -> None:
        io, inputs = self.io(), self.batch(3)
        for spec in self.specs():
            model = self.built(spec)
            require(set(model.inputs) <= set(inputs), f"inputs {model.inputs} are not the task's")
            require(model.outputs == tuple(each.name for each in io.outputs), f"outputs are {model.outputs}")
            with torch.no_grad():
                out = model.module.eval()(*[inputs[name] for name in model.inputs])
                alone = model.module(*[inputs[name][:1] for name in model.inputs])
            outs, alones = (each if isinstance(each, tuple) else (each,) for each in (out, alone))
            for field, whole, one in zip(io.outputs, outs, alones, strict=True):
                require(whole.shape == (3, *field.shape), f"'{field.name}' is {tuple(whole.shape)} for 3 samples")
                close = torch.allclose(whole[:1], one, atol=1e-4, rtol=1e-4)
                require(close, f"'{field.name}' of a sample depends on the others in eval mode")

    def test_taps_have_the_promised_shapes(self) -> None:
        inputs = self.batch(2)
        for spec in self.specs():
            model = self.built(spec)
            require(
                any(tap.name.startswith("stage[") for tap in model.taps), "no stage is named: distillers need stage[i]"
            )
            check_taps(model, [inputs[name] for name in model.inputs])

    def test_every_weight_gets_a_gradient(self) -> None:
        inputs = self.batch(4)
        for spec in map(self.made().canonical, self.specs()):
            model = self.built(spec)
            out = model.module.train()(*[inputs[name] for name in model.inputs])
            sum(each.square().sum() for each in (out if isinstance(out, tuple) else (out,))).backward()
            idle = [name for name, each in model.module.named_parameters() if each.grad is None]
            require(not idle, f"no gradient reaches {', '.join(idle[:5])}")

    def test_equal_seeds_give_equal_weights(self) -> None:
        for spec in self.specs()[:2]:
            first, again, other = (self.built(spec, seed).module.state_dict() for seed in (0, 0, 1))
            same = [torch.equal(first[name], again[name]) for name in first]
            require(all(same), "equal seeds of torch's global generator give different weights")
            require(any(not torch.equal(first[name], other[name]) for name in first), "the seed changes nothing")

    def test_the_cost_is_the_built_model_s(self) -> None:
        space, io = self.made(), self.io()
        for spec in self.specs():
            told = space.cost(spec, io)
            if told is not None:
                counted = count(self.built(spec), io)
                require(told == counted, f"cost says {told}, the built model has {counted}: {spec!r}")

    def test_size_is_the_number_of_specs(self) -> None:
        space = self.made()
        size = space.size()
        if size is None or size > self.enumerable:
            return
        every = [repr(spec) for spec in space.every()]
        require(len(set(every)) == len(every), "every() repeats specs")
        require(len(every) <= size, f"size() is {size}, every() gives {len(every)}")
        if all(space.is_valid(spec) for spec in every_combination(space)):
            require(len(every) == size, f"size() is {size}, every() gives {len(every)}")

    def test_the_teacher_spec_is_a_spec(self) -> None:
        space = self.made()
        spec = space.teacher_spec()
        if spec is not None:
            require(isinstance(spec, self.space.options_class), f"teacher_spec() is a {type(spec).__name__}")
            require(space.is_valid(spec), f"teacher_spec() is not valid: {spec!r}")


def is_of_blocks(space: SearchSpace[Any]) -> bool:
    """Whether specs are more than values of dimensions: the space has none, and yet not one network alone."""
    return not space.dims and space.size() != 1


def every_combination(space: SearchSpace[Any]) -> list[Options]:
    paths = [dim.path for dim in space.dims]
    return [
        space.at(dict(zip(paths, values, strict=True))) for values in product(*(each_value(dim) for dim in space.dims))
    ]


def check_taps(model: Model, inputs: list[Tensor]) -> None:
    """Run the model on two samples and require every tap's shape to be the promised one (None = any)."""
    model.module.eval()
    with torch.no_grad(), recorded(model, model.taps) as seen:
        model.module(*inputs)
    for tap in model.taps:
        require(tap.name in seen, f"tap '{tap.name}' is not reached")
        got = tuple(seen[tap.name].shape[1:])
        fits = len(got) == len(tap.shape) and all(b in (None, a) for a, b in zip(got, tap.shape, strict=True))
        require(fits, f"tap '{tap.name}' is {got} a sample; promised: {tap.shape}")
