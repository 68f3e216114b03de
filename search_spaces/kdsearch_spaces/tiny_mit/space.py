"""Search space `tiny_mit`: widths, depths and reductions of small hierarchical transformers, with the cost by formula."""

from __future__ import annotations

from functools import partial
from operator import ge
from typing import Annotated, ClassVar, Self

from pydantic import Field

from kdsearch.errors import DataError
from kdsearch.kinds import IO, Cost, Model, Options, SearchSpace, Tap, image_input, map_output, searched
from kdsearch.kinds import Field as DataField
from kdsearch.kinds.options import Value
from kdsearch_spaces.tiny_mit.net import KERNELS, Block, TinyMit

NAME = "tiny_mit"
MIN_SIZE = 8  # pixels
HEAD = 16  # channels of an attention head; widths are its multiples

Width = Annotated[int, Field(ge=HEAD, le=4096, multiple_of=HEAD)]
Depth = Annotated[int, Field(ge=1, le=32)]
Reduction = Annotated[int, Field(ge=1, le=16)]


class TinyMitSpec(Options):
    widths: Annotated[tuple[Width, Width, Width], searched(16, 32, 48, 64, 96, 128, each=3)] = Field(
        (16, 32, 64), description="of a token in the stages, at strides 2, 4 and 8; multiples of 16, a head each"
    )
    depths: Annotated[tuple[Depth, Depth, Depth], searched(1, 2, 3, each=3)] = Field(
        (1, 1, 1), description="blocks of each stage"
    )
    reductions: Annotated[tuple[Reduction, Reduction, Reduction], searched(1, 2, 4, each=3)] = Field(
        (4, 2, 1), description="of each stage: keys and values are of a map so many times smaller a side"
    )
    mlp_ratio: Annotated[int, searched(2, 4)] = Field(
        2, ge=1, le=16, description="hidden width of a block's MLP per width"
    )
    dec: Annotated[int, searched(16, 32, 64)] = Field(32, ge=1, le=4096, description="channels of the decoder")


class TinyMitSpace(SearchSpace[TinyMitSpec]):
    """Answers are computed at half the image's height and width, and enlarged.

    No two specs describe the same network, so every spec is its own canonical form.

    Taps: `stem` (the first patches), `stage[0..2]` and `embed[0..2]` (strides 2, 4, 8), `penultimate` (the map that the classifier
    reads), `logits`.
    """

    task: ClassVar[str] = "segmentation"

    def narrowed(self, io: IO) -> Self:
        """Reductions that the stages' maps are large enough for: below 28 pixels not every one."""
        _, _, height, width = image_input(io, NAME, MIN_SIZE)
        most, space = [min(size) for size in _maps(height, width)], self
        for i, side in enumerate(most):
            space = space.keeping(f"reductions[{i}]", partial(ge, side), f"a reduction of at most {side}")

        def keep(value: Value) -> bool:
            return not isinstance(value, list | tuple) or all(map(ge, most, value))

        return space.keeping("reductions", keep, f"reductions of at most {most}")

    def example_io(self) -> IO:
        """Colour images of 64x64, 11 classes."""
        logits = DataField("logits", "logits", (11, 64, 64), classes_at=0)
        return IO((DataField("image", "image", (3, 64, 64)),), (logits,))

    def build(self, spec: TinyMitSpec, io: IO) -> Model:
        """Raise DataError unless the first input is an image of fixed size, 8 pixels or more, that no reduction exceeds, and the
        output a map of its size."""
        name, channels, height, width = image_input(io, NAME, MIN_SIZE)
        n_classes, sizes = map_output(io, NAME, (height, width)), _sizes(spec, height, width)
        heads = [each // HEAD for each in spec.widths]
        net = TinyMit(
            channels,
            spec.widths,
            spec.depths,
            heads,
            spec.reductions,
            spec.mlp_ratio,
            spec.dec,
            (height, width),
            sizes,
            n_classes,
        )
        taps = [Tap("stem", "embeds.0", "map", (spec.widths[0], *sizes[0]), 2)]
        for i, (c, size) in enumerate(zip(spec.widths, sizes, strict=True)):
            taps.append(Tap(f"embed[{i}]", f"embeds.{i}", "map", (c, *size), 2 ** (i + 1)))
            taps.append(Tap(f"stage[{i}]", f"stages.{i}", "map", (c, *size), 2 ** (i + 1)))
        taps.append(Tap("penultimate", "head", "map", (spec.dec, *sizes[0]), 2))
        taps.append(Tap("logits", "classifier", "map", (n_classes, height, width), 1))
        blocks = tuple(path for path, part in net.named_modules() if isinstance(part, Block))
        cost = self.cost(spec, io)
        return Model(net, (name,), tuple(taps), (io.outputs[0].name,), blocks, name=NAME, cost_of=lambda: cost)

    def cost(self, spec: TinyMitSpec, io: IO) -> Cost:
        """params with norms and biases; MACs of convolutions, linear layers and attention's two products for one image."""
        _, c_in, height, width = image_input(io, NAME, MIN_SIZE)
        n_classes, sizes = map_output(io, NAME, (height, width)), _sizes(spec, height, width)
        params = macs = 0

        def linear(c_in: int, c_out: int, places: int, beside: int = 1) -> None:
            """`beside`: further numbers an output: its bias, or the two of a batch norm."""
            nonlocal params, macs
            params += (c_in + beside) * c_out
            macs += c_in * c_out * places

        each = zip(spec.widths, spec.depths, spec.reductions, KERNELS, sizes, strict=True)
        for d, depth, reduction, kernel, (h, w) in each:
            n, few = h * w, (h // reduction) * (w // reduction)
            linear(c_in * kernel**2, d, n)
            for _ in range(depth):
                if reduction > 1:
                    linear(d * reduction**2, d, few)
                    params += 2 * d  # its norm
                for places in (n, few, few, n):  # query, key, value and what leaves
                    linear(d, d, places)
                macs += 2 * n * few * d
                hidden = spec.mlp_ratio * d
                linear(d, hidden, n)
                linear(9, hidden, n)
                linear(hidden, d, n)
                params += 4 * d  # two norms
            params += 4 * d  # the norms of patches and stage
            linear(d, spec.dec, n)
            c_in = d
        places = sizes[0][0] * sizes[0][1]
        linear(3 * spec.dec, spec.dec, places, 2)
        linear(spec.dec, n_classes, places)
        return Cost(params, macs)

    def teacher_spec(self) -> TinyMitSpec:
        return TinyMitSpec(widths=(32, 64, 128), depths=(2, 2, 2), mlp_ratio=4, dec=64)


def _maps(height: int, width: int) -> list[tuple[int, int]]:
    """(H, W) of each stage."""
    return [(-(-height // stride), -(-width // stride)) for stride in (2, 4, 8)]


def _sizes(spec: TinyMitSpec, height: int, width: int) -> list[tuple[int, int]]:
    sizes = _maps(height, width)
    for reduction, size in zip(spec.reductions, sizes, strict=True):
        if min(size) < reduction:
            shown = "x".join(map(str, size))
            problem = f"search space '{NAME}': a map of {shown} is to be {reduction} times smaller a side"
            raise DataError(problem, expected=f"a reduction of at most {min(size)}")
    return sizes
