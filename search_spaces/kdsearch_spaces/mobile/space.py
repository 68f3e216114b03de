"""Search space `mobile`: kernel, expansion, depth and width of five stages of inverted residuals, with the cost by formula."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Generator

from kdsearch.errors import StudyError
from kdsearch.kinds import IO, Cost, Model, Options, SearchSpace, Tap, image_input, searched, vector_output
from kdsearch_spaces.mobile.net import Activation, InvertedResidual, MobileNet, Shape

NAME = "mobile"
MIN_SIZE = 8  # pixels
LARGE = 96  # pixels of the shorter side from which the stem and the first stage halve the image
STRIDES = (1, 2, 2, 1, 2)  # of the stages, for small images
STRIDES_LARGE = (2, 2, 2, 1, 2)

Kernel = Literal[3, 5, 7]
Expansion = Annotated[int, Field(ge=1, le=16)]
Depth = Annotated[int, Field(ge=0, le=32)]
Width = Annotated[int, Field(ge=1, le=4096)]


class MobileSpec(Options):
    stem: Annotated[Width, searched(8, 16, 24, 32)] = Field(
        16, description="channels of the 3x3 convolution at the start"
    )
    kernels: Annotated[tuple[Kernel, Kernel, Kernel, Kernel, Kernel], searched(3, 5, 7, each=5)] = Field(
        (3, 3, 3, 3, 3), description="of each stage's depthwise convolutions, in pixels"
    )
    expansions: Annotated[
        tuple[Expansion, Expansion, Expansion, Expansion, Expansion], searched(1, 2, 3, 4, 6, each=5)
    ] = Field((1, 4, 4, 4, 4), description="of each stage: hidden channels of a block per channel that enters it")
    depths: Annotated[tuple[Depth, Depth, Depth, Depth, Depth], searched(0, 1, 2, 3, 4, each=5)] = Field(
        (1, 2, 2, 2, 2), description="blocks of each stage; 0 leaves the stage out, its stride too"
    )
    widths: Annotated[
        tuple[Width, Width, Width, Width, Width], searched(8, 16, 24, 32, 48, 64, 96, 128, 160, each=5)
    ] = Field((16, 24, 32, 48, 64), description="channels of each stage")
    head: Annotated[int, searched(64, 128, 256, 512)] = Field(
        256, ge=0, le=8192, description="channels of the 1x1 convolution before the mean; 0 = none"
    )
    squeeze_excite: bool = Field(False, description="in every block, a quarter of its hidden channels, at least 8")
    activation: Annotated[Activation, searched("relu6", "hardswish")] = Field(
        "relu6", description="everywhere but after a block's last convolution"
    )


class MobileSpace(SearchSpace[MobileSpec]):
    """Images of 96 pixels and more are halved by the stem and the first stage, smaller ones by neither.

    Taps: `stem`, `stage[i]` of the stages that are there (linear, before the head), `penultimate` (pooled vector), `logits`.
    """

    def is_valid(self, spec: MobileSpec) -> bool:
        return any(spec.depths)

    def canonical(self, spec: MobileSpec) -> MobileSpec:
        """A stage that is left out has kernel, expansion and width of the next one before it, or else after it, that is there.

        So they are of the study's ranges, whatever these are.
        """
        there = [i for i, depth in enumerate(spec.depths) if depth]
        if not there:
            return spec
        source = [max((j for j in there if j <= i), default=there[0]) for i in range(len(spec.depths))]
        own = {name: tuple(getattr(spec, name)[i] for i in source) for name in ("kernels", "expansions", "widths")}
        return spec.model_copy(update=own)

    def neighbours(self, spec: MobileSpec, rng: Generator, n: int) -> list[MobileSpec]:
        """Those that are other networks: not by a stage that is left out."""
        own = self.key(spec)
        return [other for other in super().neighbours(spec, rng, 4 * n) if self.key(other) != own][:n]

    def build(self, spec: MobileSpec, io: IO) -> Model:
        """Raise DataError unless the first input is an image of fixed size, 8 pixels or more, and the output is a vector.

        Raises:
            StudyError: every stage is left out.
        """
        name, channels, height, width = image_input(io, NAME, MIN_SIZE)
        n_outputs = vector_output(io, NAME)
        stem_stride, stages = self._stages(spec, height, width)
        net = MobileNet(channels, spec.stem, stem_stride, stages, spec.head, spec.activation, n_outputs)
        stride = stem_stride
        taps = [Tap("stem", "stem", "map", (spec.stem, -(-height // stride), -(-width // stride)), stride)]
        for i, stage in enumerate(stages):
            stride *= stage[0].stride
            shape = (stage[-1].c_out, -(-height // stride), -(-width // stride))
            taps.append(Tap(f"stage[{i}]", f"stages.{i}", "map", shape, stride))
        taps.append(Tap("penultimate", "pool", "vector", (spec.head or stages[-1][-1].c_out,)))
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

    def cost(self, spec: MobileSpec, io: IO) -> Cost:
        """params with batch norms and biases; MACs of convolutions and the linear layer for one image."""
        _, channels, height, width = image_input(io, NAME, MIN_SIZE)
        n_outputs = vector_output(io, NAME)
        stem_stride, stages = self._stages(spec, height, width)
        params = macs = 0

        def conv(c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
            nonlocal params, macs, height, width
            height, width = -(-height // stride), -(-width // stride)
            weights = kernel * kernel * c_in // groups * c_out
            params += weights + 2 * c_out  # and the scale and shift of its batch norm
            macs += weights * height * width

        conv(channels, spec.stem, 3, stem_stride)
        for block in (block for stage in stages for block in stage):
            if block.is_expanded:
                conv(block.c_in, block.hidden)
            conv(block.hidden, block.hidden, block.kernel, block.stride, block.hidden)
            gate = 2 * block.hidden * block.squeezed  # two 1x1 convolutions of one place, with biases
            params += gate + (block.hidden + block.squeezed if gate else 0)
            macs += gate
            conv(block.hidden, block.c_out)
        c_last = stages[-1][-1].c_out
        if spec.head:
            conv(c_last, spec.head)
        c_last = spec.head or c_last
        return Cost(params + (c_last + 1) * n_outputs, macs + c_last * n_outputs)

    def teacher_spec(self) -> MobileSpec:
        """MobileNetV2 without its first and last stage; the head as in the study where that fixes it."""
        return MobileSpec(
            stem=32,
            expansions=(6, 6, 6, 6, 6),
            depths=(2, 3, 4, 3, 3),
            widths=(24, 32, 64, 96, 160),
            head=self.region.fixed.get("head", 1280),
        )

    def _stages(self, spec: MobileSpec, height: int, width: int) -> tuple[int, list[list[Shape]]]:
        """The stem's stride, and the blocks of every stage that is there."""
        if not self.is_valid(spec):
            raise StudyError(
                f"search space '{NAME}': depths are {list(spec.depths)}", expected="a stage that is not left out"
            )
        is_large = min(height, width) >= LARGE
        stages, c_in = [], spec.stem
        each = zip(
            spec.kernels, spec.expansions, spec.depths, spec.widths, STRIDES_LARGE if is_large else STRIDES, strict=True
        )
        for kernel, expansion, depth, c_out, first in each:
            blocks = []
            for position in range(depth):
                hidden = expansion * c_in
                squeezed = max(hidden // 4, 8) if spec.squeeze_excite else 0
                blocks.append(Shape(c_in, c_out, hidden, kernel, 1 if position else first, squeezed))
                c_in = c_out
            stages += [blocks] if blocks else []
        return 2 if is_large else 1, stages


def _blocks(net: MobileNet) -> tuple[str, ...]:
    return tuple(path for path, part in net.named_modules() if isinstance(part, InvertedResidual))
