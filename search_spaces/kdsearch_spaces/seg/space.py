"""Search space `seg`: widths, depth and decoder of small encoder-decoders, with the cost by formula."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kdsearch.kinds import IO, Cost, Model, Options, SearchSpace, Tap, image_input, map_output, searched
from kdsearch.kinds import Field as DataField
from kdsearch_spaces.seg.net import Seg

NAME = "seg"
MIN_SIZE = 8  # pixels

Width = Annotated[int, Field(ge=1, le=4096)]


class SegSpec(Options):
    widths: Annotated[tuple[Width, Width, Width], searched(8, 12, 16, 24, 32, 48, 64, 96, 128, each=3)] = Field(
        (16, 32, 64), description="channels of the stages, at strides 2, 4 and 8"
    )
    depth: Annotated[int, searched(1, 2, 3)] = Field(1, ge=1, le=16, description="convolutions of a stage")
    dec: Annotated[Width, searched(16, 24, 32, 48, 64)] = Field(32, description="channels of the decoder")


class SegSpace(SearchSpace[SegSpec]):
    """Answers are computed at half the image's height and width, and enlarged.

    No two specs describe the same network, so every spec is its own canonical form.

    Taps: `stem`, `stage[0..2]` (strides 2, 4, 8), `penultimate` (the map that the classifier reads), `logits`.
    """

    task: ClassVar[str] = "segmentation"

    def example_io(self) -> IO:
        """Colour images of 64x64, 11 classes."""
        logits = DataField("logits", "logits", (11, 64, 64), classes_at=0)
        return IO((DataField("image", "image", (3, 64, 64)),), (logits,))

    def build(self, spec: SegSpec, io: IO) -> Model:
        """Raise DataError unless the first input is an image of fixed size, 8 pixels or more, and the output a map of its size."""
        name, channels, height, width = image_input(io, NAME, MIN_SIZE)
        n_classes = map_output(io, NAME, (height, width))
        sizes = _sizes(height, width)
        net = Seg(channels, spec.widths, spec.depth, spec.dec, (height, width), sizes, n_classes)
        taps = [Tap("stem", "stem", "map", (spec.widths[0], *sizes[0]), 2)]
        for i, (c, size) in enumerate(zip(spec.widths, sizes, strict=True)):
            taps.append(Tap(f"stage[{i}]", f"stages.{i}", "map", (c, *size), 2 ** (i + 1)))
        taps.append(Tap("penultimate", "head", "map", (spec.dec, *sizes[0]), 2))
        taps.append(Tap("logits", "classifier", "map", (n_classes, height, width), 1))
        blocks = tuple(f"stages.{i}.{j}" for i in range(3) for j in range(spec.depth))
        cost = self.cost(spec, io)
        return Model(net, (name,), tuple(taps), (io.outputs[0].name,), blocks, name=NAME, cost_of=lambda: cost)

    def cost(self, spec: SegSpec, io: IO) -> Cost:
        """params with batch norms and biases; MACs of the convolutions for one image."""
        _, channels, height, width = image_input(io, NAME, MIN_SIZE)
        n_classes = map_output(io, NAME, (height, width))
        areas = [h * w for h, w in _sizes(height, width)]
        params = macs = 0

        def conv(c_in: int, c_out: int, area: int, kernel: int = 3, beside: int = 2) -> None:
            """`beside`: further numbers a channel: 2 of a batch norm, 1 bias."""
            nonlocal params, macs
            weights = kernel * kernel * c_in * c_out
            params += weights + beside * c_out
            macs += weights * area

        conv(channels, spec.widths[0], areas[0])
        c_in = spec.widths[0]
        for c_out, area in zip(spec.widths, areas, strict=True):
            conv(c_in, c_out, area)
            for _ in range(spec.depth - 1):
                conv(c_out, c_out, area)
            conv(c_out, spec.dec, area, 1, 1)
            c_in = c_out
        conv(spec.dec, spec.dec, areas[0])
        conv(spec.dec, n_classes, areas[0], 1, 1)
        return Cost(params, macs)

    def teacher_spec(self) -> SegSpec:
        return SegSpec(widths=(32, 64, 128), depth=2, dec=64)


def _sizes(height: int, width: int) -> list[tuple[int, int]]:
    return [(-(-height // stride), -(-width // stride)) for stride in (2, 4, 8)]
