"""Search space `masternet`: networks as structure strings, changed by the mutations of Zen-NAS; the cost by formula."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from torch import Generator

from kdsearch.errors import StudyError
from kdsearch.kinds import (
    IO,
    Cost,
    Dim,
    Model,
    Options,
    Searchable,
    SearchSpace,
    Tap,
    image_input,
    searched,
    vector_output,
)
from kdsearch.kinds.options import Value
from kdsearch_spaces.masternet.mutation import MOVES, crossed, mutated, pick
from kdsearch_spaces.masternet.net import MasterNet, ResidualUnit, convolutions, is_projected
from kdsearch_spaces.masternet.structure import Structure, Unit, n_layers, normal, read, stages, units, write

NAME = "masternet"
MIN_SIZE = 8  # pixels
INITIAL = {
    "small": "SuperConvK3BNRELU(3,16,1,1)SuperResK3K3(16,16,1,16,2)SuperResK3K3(16,32,2,32,2)"
    "SuperResK3K3(32,64,2,64,2)SuperResK3K3(64,128,2,128,2)",
    "resnet18": "SuperConvK7BNRELU(3,64,2,1)SuperResK3K3(64,64,2,64,2)SuperResK3K3(64,128,2,128,2)"
    "SuperResK3K3(128,256,2,256,2)SuperResK3K3(256,512,2,512,2)",
}
RESNET34 = (3, 4, 6, 3)  # sublayers of its stages


def _structure(text: str) -> str:
    return write(read(text))


def _initial(text: str) -> str:
    if text not in INITIAL and "(" not in text:
        raise ValueError("'small', 'resnet18' or a structure")
    return text if text in INITIAL else _structure(text)


class MasterNetSpec(Options):
    """`structure` and `residual` are the network; the rest says how it is searched, and is no part of a spec's JSON."""

    structure: Annotated[str, AfterValidator(_structure)] | None = Field(
        None,
        description="super blocks, such as SuperConvK3BNRELU(3,16,1,1)SuperResK3K3(16,32,2,32,2); none = `initial`",
    )
    residual: Annotated[bool, searched(True)] = Field(True, description="links around residual units; false = plain")
    initial: Annotated[str, AfterValidator(_initial)] = Field(
        "small",
        exclude=True,
        description="where mutations start: small = ResNet-18's shape at a quarter of its widths for images of about 32 "
        "pixels, resnet18 = for large ones, or a structure",
    )
    mutations: Annotated[Literal["wide", "narrow"], searched("wide")] = Field(
        "wide",
        exclude=True,
        description="wide = channels x 0.4 to 2.5, both kinds of units, +-2 sublayers; narrow = x 0.67 to 1.5, KxKx, +-1",
    )
    max_layers: int = Field(
        18, ge=2, exclude=True, description="sublayers of all blocks at most; a convolution counts as one"
    )


class MasterNetSpace(SearchSpace[MasterNetSpec]):
    """A space of blocks: it has no dimensions, so it is searched by mutation (strategy evolution) or at random.

    With `structure` in a study it holds that network alone. Taps: `stem`, `stage[i]` (the last map of each resolution),
    `penultimate` (pooled vector), `logits` (its part is the classifier).

    Raises:
        StudyError: an option is given as a range, or `initial` has more than `max_layers`.
    """

    def __init__(self, region: Searchable | None = None) -> None:
        super().__init__(region)
        for dim in self.region.dims:
            if dim.range.size != 1:
                raise StudyError(
                    "got a range", path=dim.path, expected=f"one value; '{NAME}' mutates blocks, no options"
                )
        only = {dim.path: dim.range.ends[0] for dim in self.region.dims}
        self.settings: MasterNetSpec = self.region.at(only, self._prefix)  # type: ignore[assignment]
        self.start = self.canonical(self.settings)
        if not self.is_fixed and not self.is_valid(self.start):
            prefix = f"{self._prefix}." if self._prefix else ""
            raise StudyError(
                f"the initial network has {n_layers(self.blocks(self.start))} layers",
                path=f"{prefix}max_layers",
                expected=f"at most {self.settings.max_layers}, as this says",
            )

    @property
    def dims(self) -> tuple[Dim, ...]:
        return ()

    @property
    def is_fixed(self) -> bool:
        return self.settings.structure is not None

    def blocks(self, spec: MasterNetSpec) -> Structure:
        """The spec's blocks; those of its initial network where it says none."""
        return read(spec.structure or INITIAL.get(spec.initial, spec.initial))

    def at(self, values: dict[str, Value]) -> MasterNetSpec:
        return self.start

    def sample(self, rng: Generator) -> MasterNetSpec:
        """The initial network after 1 to 2n mutations in a row, as many as drawn, n its blocks; invalid ones are skipped."""
        spec = self.start
        if self.is_fixed:
            return spec
        for _ in range(1 + pick(rng, range(2 * len(self.blocks(spec))))):
            spec = next(iter(self.neighbours(spec, rng, 1)), spec)
        return spec

    def neighbours(self, spec: MasterNetSpec, rng: Generator, n: int) -> list[MasterNetSpec]:
        """n valid other networks, each `spec` with one block mutated (fewer when there are none)."""
        found: list[MasterNetSpec] = []
        blocks, own = normal(self.blocks(spec)), self.canonical(spec)
        for _ in range(0 if self.is_fixed else 50 * n):
            other = own.model_copy(update={"structure": write(mutated(blocks, MOVES[self.settings.mutations], rng))})
            if other != own and self.is_valid(other):
                found.append(other)
            if len(found) == n:
                break
        return found

    def crossover(self, a: MasterNetSpec, b: MasterNetSpec, rng: Generator) -> MasterNetSpec:
        """The stem and each stage from one of the parents; `a` where the stages are others or the child has too many layers."""
        blocks = crossed(self.blocks(a), self.blocks(b), rng)
        if blocks is None:
            return a
        child = self.canonical(MasterNetSpec(structure=write(blocks), residual=a.residual))
        return child if self.is_valid(child) else a

    def size(self) -> int | None:
        return 1 if self.is_fixed else None

    def every(self) -> Iterator[MasterNetSpec]:
        if not self.is_fixed:
            raise ValueError(f"'{NAME}' is not finite")
        yield self.start

    def is_valid(self, spec: MasterNetSpec) -> bool:
        return self.is_fixed or n_layers(self.blocks(spec)) <= self.settings.max_layers

    def canonical(self, spec: MasterNetSpec) -> MasterNetSpec:
        """Blocks that continue the one before are joined with it, and what is joined is split as mutations split it."""
        return MasterNetSpec(structure=write(normal(self.blocks(spec))), residual=spec.residual)

    def encode(self, spec: MasterNetSpec) -> str:
        """The structure string; a network without links, which that cannot say, as JSON."""
        return write(self.blocks(spec)) if spec.residual else self.key(spec)

    def decode(self, text: str) -> MasterNetSpec:
        return super().decode(text) if text.lstrip().startswith("{") else self.parse({"structure": text})

    def build(self, spec: MasterNetSpec, io: IO) -> Model:
        """Raise DataError unless the first input is an image of fixed size, 8 pixels or more, and the output is a vector."""
        name, channels, height, width = image_input(io, NAME, MIN_SIZE)
        n_outputs = vector_output(io, NAME)
        stem, parts = _units(self.blocks(spec), channels)
        net = MasterNet(stem, parts, spec.residual, n_outputs)
        taps, stride = [], 1
        for path, tap, part in [("stem", "stem", [stem])] + [
            (f"stages.{i}", f"stage[{i}]", part) for i, part in enumerate(parts)
        ]:
            for unit in part:
                stride *= unit.stride
            taps.append(Tap(tap, path, "map", (part[-1].c_out, -(-height // stride), -(-width // stride)), stride))
        taps.append(Tap("penultimate", "pool", "vector", (parts[-1][-1].c_out,)))
        taps.append(Tap("logits", "classifier", "vector", (n_outputs,)))
        return Model(
            net,
            (name,),
            tuple(taps),
            (io.outputs[0].name,),
            _blocks(net),
            name=NAME,
            cost_of=lambda: self.cost(spec, io),
        )

    def cost(self, spec: MasterNetSpec, io: IO) -> Cost:
        """params with batch norms and biases; MACs of convolutions and the linear layer for one image."""
        _, channels, height, width = image_input(io, NAME, MIN_SIZE)
        n_outputs = vector_output(io, NAME)
        params = macs = 0

        def conv(c_in: int, c_out: int, kernel: int) -> None:
            nonlocal params, macs
            weights = kernel * kernel * c_in * c_out
            params += weights + 2 * c_out  # and the scale and shift of its batch norm
            macs += weights * height * width

        stem, parts = _units(self.blocks(spec), channels)
        for unit in [stem, *(unit for part in parts for unit in part)]:
            for c_in, c_out, kernel, stride in convolutions(unit):
                height, width = -(-height // stride), -(-width // stride)
                conv(c_in, c_out, kernel)
            if spec.residual and is_projected(unit):
                conv(unit.c_in, unit.c_out, 1)
        c_last = parts[-1][-1].c_out
        return Cost(params + (c_last + 1) * n_outputs, macs + c_last * n_outputs)

    def teacher_spec(self) -> MasterNetSpec | None:
        """ResNet-34's depths at the initial widths; None where a study has its own initial network or a lower limit."""
        if self.settings.initial not in INITIAL:
            return None
        stem, *rest = read(INITIAL[self.settings.initial])
        deeper = [replace(block, sublayers=n) for block, n in zip(rest, RESNET34, strict=True)]
        spec = self.canonical(MasterNetSpec(structure=write((stem, *deeper)), residual=self.settings.residual))
        return spec if self.is_valid(spec) else None


def _units(blocks: Structure, channels: int) -> tuple[Unit, list[list[Unit]]]:
    """The stem, and the sublayers of each stage."""
    (stem,), c_in = units(blocks[:1], channels), blocks[0].c_out
    parts = []
    for stage in stages(blocks):
        parts.append(units(stage, c_in))
        c_in = stage[-1].c_out
    return stem, parts


def _blocks(net: MasterNet) -> tuple[str, ...]:
    return tuple(path for path, part in net.named_modules() if isinstance(part, ResidualUnit))
