"""Search space `mlp`: depth, widths, activation, norm and shortcuts, with the cost by formula."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any

import torch
from pydantic import Field as Option
from torch import Generator

from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Cost, Field, Model, Options, SearchSpace, Tap, searched, vector_output
from kdsearch_spaces.mlp.net import Activation, Join, Layer, Mlp, Norm

Width = Annotated[int, Option(ge=1, le=65536)]


class MlpSpec(Options):
    depth: Annotated[int, searched(2, 3, 4, 6)] = Option(
        2, ge=1, le=32, description="hidden layers, at most as many as widths"
    )
    widths: Annotated[tuple[Width, ...], searched(16, 32, 64, 128, 256, 512, each=6)] = Option(
        (128, 128),
        min_length=1,
        max_length=32,
        description="units of each hidden layer; those beyond the depth are not read",
    )
    activation: Annotated[Activation, searched("relu", "gelu", "silu")] = Option(
        "relu", description="of every hidden layer"
    )
    norm: Annotated[Norm, searched("none", "batch", "layer")] = Option(
        "batch", description="before every activation; with one, the linear layer before it has no bias"
    )
    residual: bool = Option(
        False, description="a shortcut around each hidden layer, after the first, that keeps the width"
    )
    dropout: float = Option(0.0, ge=0, lt=1, description="share of units left out after every activation, in training")
    embedding: int = Option(
        8, ge=1, le=1024, description="width of the vector that stands for a category; not read without categories"
    )


class MlpSpace(SearchSpace[MlpSpec]):
    """Every input field is flattened and they are joined, in the task's order; integers (categories) are embedded first.

    Taps: `stage[i]` (hidden layer i, a vector), `penultimate` (the last of them), `logits` (its part is the classifier).
    """

    def narrowed(self, io: IO) -> MlpSpace:
        """Depths with a width for every layer. Raise StudyError where the study's depth has too few widths."""
        fixed = self.region.fixed
        whole = [len(value) for dim in self.dims if dim.path.endswith("widths") for value in dim.range.choices]
        single = sum(dim.path.endswith("]") for dim in self.dims)
        n = max(whole, default=single or len(fixed.get("widths", MlpSpec().widths)))
        if fixed.get("depth", 0) > n:
            raise StudyError(f"search space 'mlp': depth {fixed['depth']} with {n} widths", expected=f"at most {n}")
        return self.keeping("depth", lambda depth: depth <= n, f"at most {n}, the number of widths")

    def is_valid(self, spec: MlpSpec) -> bool:
        return spec.depth <= len(spec.widths)

    def canonical(self, spec: MlpSpec) -> MlpSpec:
        """Widths beyond the depth repeat the last one that is read; no shortcuts where no width is kept, if the study has that."""
        read = spec.widths[: spec.depth]
        rest = read[-1:] * (len(spec.widths) - len(read))
        has_shortcut = any(a == b for a, b in pairwise(read))
        own = {"residual": spec.residual} if has_shortcut else self.unread("residual")
        return spec.model_copy(update={"widths": read + rest, **own})

    def read(self, spec: MlpSpec) -> dict[str, Any]:
        """Without the widths beyond the depth."""
        return {**super().read(spec), "widths": list(spec.widths[: spec.depth])}

    def neighbours(self, spec: MlpSpec, rng: Generator, n: int) -> list[MlpSpec]:
        """Other networks only: none that differ in what is not read."""
        own = self.key(spec)
        return [other for other in super().neighbours(spec, rng, 4 * n) if self.key(other) != own][:n]

    def example_io(self) -> IO:
        """A vector of 64 values, 10 classes."""
        return IO((Field("vector", "vector", (64,)),), (Field("logits", "logits", (10,)),))

    def build(self, spec: MlpSpec, io: IO) -> Model:
        """Raise DataError for inputs that are neither floats nor categories, StudyError for more layers than widths."""
        d_in, n_outputs = _n_inputs(io, spec.embedding), vector_output(io, "mlp")
        widths = _read(self, spec)
        values = {at: each.n_values or 0 for at, each in enumerate(io.inputs) if _is_category(each)}
        flags = [at for at, each in enumerate(io.inputs) if each.torch_dtype == torch.bool]
        join = Join(values, spec.embedding, flags, [at for at, each in enumerate(io.inputs) if not each.shape])
        net = Mlp(d_in, widths, spec.activation, spec.norm, spec.dropout, spec.residual, n_outputs, join)
        taps = [Tap(f"stage[{i}]", f"layers.{i}", "vector", (width,)) for i, width in enumerate(widths)]
        taps.append(Tap("penultimate", f"layers.{spec.depth - 1}", "vector", widths[-1:]))
        taps.append(Tap("logits", "classifier", "vector", (n_outputs,)))
        return Model(
            net,
            tuple(each.name for each in io.inputs),
            tuple(taps),
            (io.outputs[0].name,),
            _blocks(net),
            name="mlp",
            cost_of=lambda: self.cost(spec, io),
        )

    def cost(self, spec: MlpSpec, io: IO) -> Cost:
        """params with norms, biases and embeddings; MACs of the linear layers."""
        sizes = (_n_inputs(io, spec.embedding), *_read(self, spec))
        embedded = spec.embedding * sum(each.n_values or 0 for each in io.inputs if _is_category(each))
        n_outputs = vector_output(io, "mlp")
        macs = sum(a * b for a, b in pairwise(sizes)) + sizes[-1] * n_outputs
        beside = 1 if spec.norm == "none" else 2  # a bias, or a norm's scale and shift
        return Cost(macs + embedded + beside * sum(sizes[1:]) + n_outputs, macs)

    def teacher_spec(self) -> MlpSpec:
        """Four layers of 512 with shortcuts; activation and norm as the study fixes them."""
        fixed = {name: value for name, value in self.region.fixed.items() if name in ("activation", "norm")}
        return self.parse({"depth": 4, "widths": [512] * 4, "residual": True, **fixed})


def _read(space: MlpSpace, spec: MlpSpec) -> tuple[int, ...]:
    """The widths that are read."""
    if not space.is_valid(spec):
        raise StudyError(
            f"search space 'mlp': {spec.depth} hidden layers with {len(spec.widths)} widths",
            expected="a width for each layer",
        )
    return spec.widths[: spec.depth]


def _is_category(field: Field) -> bool:
    return not field.torch_dtype.is_floating_point and field.n_values is not None


def _n_inputs(io: IO, embedding: int) -> int:
    """Values of all inputs of a sample, categories as vectors of so many."""
    for each in io.inputs:
        is_read = each.torch_dtype.is_floating_point or each.kind == "present" or _is_category(each)
        if None in each.shape or not is_read:
            shown = "x".join(str(size) for size in each.shape)
            problem = f"search space 'mlp': input '{each.name}' is {shown} of {each.dtype}"
            raise DataError(problem, expected="floats, or categories whose number is known, of fixed size")
    if not io.inputs:
        raise DataError("the task has no input field", expected="a vector, or an image to flatten")
    width = {each.name: embedding if _is_category(each) else 1 for each in io.inputs}
    return sum(width[each.name] * math.prod(size or 0 for size in each.shape) for each in io.inputs)


def _blocks(net: Mlp) -> tuple[str, ...]:
    return tuple(path for path, part in net.named_modules() if isinstance(part, Layer))
