"""Search space `cifar_resnet`: depths and widths of three stages, with the cost by formula."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdsearch.kinds import IO, Cost, Model, Options, SearchSpace, Tap, image_input, searched, vector_output
from kdsearch_spaces.cifar_resnet.net import BasicBlock, CifarResNet

NAME = "cifar_resnet"
MIN_SIZE = 8  # pixels: the last stage then is 2x2

Depth = Annotated[int, Field(ge=1, le=64)]
Width = Annotated[int, Field(ge=1, le=2048)]


class CifarResNetSpec(Options):
    depths: Annotated[tuple[Depth, Depth, Depth], searched(1, 3, 5, 7, each=3)] = Field(
        (3, 3, 3), description="basic blocks of each stage"
    )
    widths: Annotated[tuple[Width, Width, Width], searched(4, 8, 16, 24, 32, 48, 64, 96, each=3)] = Field(
        (16, 32, 64), description="channels of each stage; the stem has the first stage's"
    )
    block: Literal["basic"] = Field("basic", description="two 3x3 convolutions with a shortcut")


class CifarResNetSpace(SearchSpace[CifarResNetSpec]):
    """No two specs describe the same network, so every spec is its own canonical form.

    Taps: `stem`, `stage[0..2]` (after the last ReLU), `penultimate` (pooled vector), `logits` (its part is the classifier).
    """

    def build(self, spec: CifarResNetSpec, io: IO) -> Model:
        """Raise DataError unless the first input is an image of fixed size, 8 pixels or more, and the output is a vector."""
        name, channels, height, width = image_input(io, NAME, MIN_SIZE)
        n_outputs = vector_output(io, NAME)
        net = CifarResNet(channels, spec.depths, spec.widths, n_outputs)
        sizes = _sizes(height, width)
        taps = [Tap("stem", "stem", "map", (spec.widths[0], *sizes[0]), stride=1)]
        for i in range(3):
            taps.append(Tap(f"stage[{i}]", f"stages.{i}", "map", (spec.widths[i], *sizes[i]), stride=2**i))
        taps.append(Tap("penultimate", "pool", "vector", (spec.widths[2],)))
        taps.append(Tap("logits", "classifier", "vector", (n_outputs,)))
        return Model(
            net,
            (name,),
            tuple(taps),
            (io.outputs[0].name,),
            _blocks(net),
            name="cifar_resnet",
            cost_of=lambda: self.cost(spec, io),
        )

    def cost(self, spec: CifarResNetSpec, io: IO) -> Cost:
        """params with batch norms and biases; MACs of convolutions and the linear layer for one image."""
        _, channels, height, width = image_input(io, NAME, MIN_SIZE)
        n_outputs = vector_output(io, NAME)
        params = macs = 0

        def conv(c_in: int, c_out: int, kernel: int, size: tuple[int, int]) -> None:
            nonlocal params, macs
            weights = kernel * kernel * c_in * c_out
            params += weights + 2 * c_out  # and the scale and shift of its batch norm
            macs += weights * size[0] * size[1]

        sizes = _sizes(height, width)
        conv(channels, spec.widths[0], 3, sizes[0])
        c_in = spec.widths[0]
        for i, (depth, c_out) in enumerate(zip(spec.depths, spec.widths, strict=True)):
            if i:  # the first stage has the stem's width and stride 1: no projection
                conv(c_in, c_out, 1, sizes[i])
            conv(c_in, c_out, 3, sizes[i])
            for _ in range(2 * depth - 1):
                conv(c_out, c_out, 3, sizes[i])
            c_in = c_out
        return Cost(params + (c_in + 1) * n_outputs, macs + c_in * n_outputs)

    def teacher_spec(self) -> CifarResNetSpec:
        """18 blocks a stage (ResNet-110) at the study's widths, or 16, 32, 64 where these are searched."""
        widths = self.region.fixed.get("widths", (16, 32, 64))
        return CifarResNetSpec(depths=(18, 18, 18), widths=tuple(widths))


def _sizes(height: int, width: int) -> list[tuple[int, int]]:
    """(H, W) of each stage: a stride of 2 with padding 1 rounds up."""
    return [(-(-height // 2**i), -(-width // 2**i)) for i in range(3)]


def _blocks(net: CifarResNet) -> tuple[str, ...]:
    return tuple(path for path, module in net.named_modules() if isinstance(module, BasicBlock))
