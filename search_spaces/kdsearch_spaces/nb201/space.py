"""Search space `nb201`: the operations of a cell's six edges, with the cost by formula."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdsearch.kinds import IO, Cost, Model, Options, SearchSpace, Tap, image_input, searched, vector_output
from kdsearch_spaces.nb201.cells import OPS, expression, read, representatives, written
from kdsearch_spaces.nb201.net import Cell, Nb201Net

MIN_SIZE = 4  # pixels: the last stage then is one

Op = Literal["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]


class Nb201Spec(Options):
    edges: Annotated[tuple[Op, Op, Op, Op, Op, Op], searched(*OPS, each=6)] = Field(
        ("nor_conv_3x3",) * 6, description="operations of 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2"
    )
    width: int = Field(16, ge=1, le=1024, description="channels of the first stage; each further one has twice as many")
    cells: int = Field(5, ge=1, le=64, description="cells a stage")


class Nb201Space(SearchSpace[Nb201Spec]):
    """Isomorphic cells have one canonical form, the cheapest of them: dead branches are cut off.

    Taps: `stem`, `stage[0..2]` (the last one after its batch norm and ReLU), `penultimate` (pooled vector), `logits`.
    """

    def canonical(self, spec: Nb201Spec) -> Nb201Spec:
        return spec.model_copy(update={"edges": representatives()[expression(spec.edges)]})

    def encode(self, spec: Nb201Spec) -> str:
        """The benchmark's text where the network is as wide and deep as the benchmark's; else JSON."""
        usual = Nb201Spec(edges=spec.edges)
        return written(spec.edges) if spec == usual else spec.model_dump_json()

    def decode(self, text: str) -> Nb201Spec:
        """Cell texts have this study's width and cells, or the benchmark's where these are searched."""
        if text.startswith("{"):
            return super().decode(text)
        fixed = {name: value for name in ("width", "cells") if (value := self.region.fixed.get(name)) is not None}
        return self.parse({"edges": list(read(text)), **fixed})

    def build(self, spec: Nb201Spec, io: IO) -> Model:
        """Raise DataError unless the first input is an image of fixed size, 4 pixels or more, and the output is a vector."""
        name, channels, height, width = image_input(io, "nb201", MIN_SIZE)
        n_outputs = vector_output(io, "nb201")
        net = Nb201Net(channels, spec.edges, spec.width, spec.cells, n_outputs)
        taps = [Tap("stem", "stem", "map", (spec.width, height, width), stride=1)]
        for i in range(3):
            size = (-(-height // 2**i), -(-width // 2**i))
            taps.append(Tap(f"stage[{i}]", f"stages.{i}", "map", (spec.width * 2**i, *size), stride=2**i))
        taps.append(Tap("penultimate", "pool", "vector", (spec.width * 4,)))
        taps.append(Tap("logits", "classifier", "vector", (n_outputs,)))
        cells = tuple(path for path, module in net.named_modules() if isinstance(module, Cell))
        return Model(
            net,
            (name,),
            tuple(taps),
            (io.outputs[0].name,),
            cells,
            name="nb201",
            cost_of=lambda: self.cost(spec, io),
        )

    def cost(self, spec: Nb201Spec, io: IO) -> Cost:
        """params with batch norms and biases, MACs of convolutions and the linear layer; dead branches included.

        The benchmark's own MACs count the classifier's bias too: K more.
        """
        _, channels, height, width = image_input(io, "nb201", MIN_SIZE)
        n_outputs = vector_output(io, "nb201")
        params = macs = 0

        def conv(c_in: int, c_out: int, kernel: int, pixels: int, times: int = 1, norm: bool = True) -> None:
            nonlocal params, macs
            weights = kernel * kernel * c_in * c_out
            params += times * (weights + 2 * c_out * norm)
            macs += times * weights * pixels

        conv(channels, spec.width, 3, height * width)
        for i in range(3):
            c, pixels = spec.width * 2**i, -(-height // 2**i) * -(-width // 2**i)
            if i:
                conv(c // 2, c, 3, pixels)
                conv(c, c, 3, pixels)
                conv(c // 2, c, 1, pixels, norm=False)
            for op, kernel in (("nor_conv_3x3", 3), ("nor_conv_1x1", 1)):
                conv(c, c, kernel, pixels, times=spec.cells * spec.edges.count(op))
        params += 2 * 4 * spec.width  # the batch norm before the pooling
        return Cost(params + (4 * spec.width + 1) * n_outputs, macs + 4 * spec.width * n_outputs)

    def teacher_spec(self) -> Nb201Spec:
        """The cell of the benchmark's table at index 9930: all edges 3x3 convolutions but 3<-0, a skip."""
        return self.decode(
            "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
        )
