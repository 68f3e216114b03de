"""Search space `timm`: families of the timm library with explicit depths and widths."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, nn
from torch.utils.flop_counter import FlopCounterMode

from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Block, Cost, Model, Options, SearchSpace, searched
from kdsearch.kinds.found_taps import found_taps
from kdsearch_spaces.timm_space.families import FAMILIES

STAGED = ("resnet", "mobilenet", "convnext")
OWN = {  # the fields that a family reads
    "resnet": ("depths", "widths", "block"),
    "mobilenet": ("depths", "widths", "expansion"),
    "convnext": ("depths", "widths"),
    "vit": ("depth", "dim", "heads", "grid"),
}
MIN_SIZE = 8  # pixels

Count = Annotated[int, Field(ge=1, le=64)]
Width = Annotated[int, Field(ge=1, le=4096)]


class TimmSpec(Options):
    family: Literal["resnet", "mobilenet", "convnext", "vit"] = Field("resnet", description="whose blocks")
    depths: Annotated[tuple[Count, Count, Count, Count], searched(1, 2, 3, each=4, when={"family": STAGED})] = Field(
        (2, 2, 2, 2), description="blocks of each stage"
    )
    widths: Annotated[
        tuple[Width, Width, Width, Width], searched(8, 16, 24, 32, 48, 64, 96, each=4, when={"family": STAGED})
    ] = Field((16, 32, 48, 64), description="channels of each stage; a bottleneck's output has four times as many")
    block: Annotated[Literal["basic", "bottleneck"], searched("basic", "bottleneck", when={"family": ("resnet",)})] = (
        Field("basic", description="of resnet")
    )
    expansion: Annotated[int, searched(2, 4, 6, when={"family": ("mobilenet",)})] = Field(
        4, ge=1, le=16, description="of mobilenet: hidden channels of a block per channel"
    )
    depth: Annotated[Count, searched(2, 4, 6, 8, when={"family": ("vit",)})] = Field(4, description="blocks of vit")
    dim: Annotated[Width, searched(48, 64, 96, 128, 192, when={"family": ("vit",)})] = Field(
        96, description="of vit: width of a token, a multiple of heads"
    )
    heads: Annotated[Count, searched(2, 4, when={"family": ("vit",)})] = Field(4, description="attention heads of vit")
    grid: Annotated[Count, searched(4, 7, 8, when={"family": ("vit",)})] = Field(
        8, description="of vit: patches along a side; with a remainder there may be more"
    )


class TimmSpace(SearchSpace[TimmSpec]):
    """Taps: `stem` where there is one, `stage[i]` (maps; tokens after each block of vit), `penultimate`, `logits`."""

    def is_valid(self, spec: TimmSpec) -> bool:
        return spec.family != "vit" or spec.dim % spec.heads == 0

    def canonical(self, spec: TimmSpec) -> TimmSpec:
        """Fields that the family does not read have their defaults."""
        kept = {name: getattr(spec, name) for name in OWN[spec.family]}
        return TimmSpec(family=spec.family, **kept)

    def neighbours(self, spec: TimmSpec, rng: Generator, n: int) -> list[TimmSpec]:
        """Those of fields that the family reads: others would be the same network."""
        own = self.key(spec)
        return [other for other in super().neighbours(spec, rng, 4 * n) if self.key(other) != own][:n]

    def build(self, spec: TimmSpec, io: IO) -> Model:
        """Raise DataError unless the first input is an image of fixed size, 8 pixels or more; StudyError for uneven heads."""
        name, channels, size = _image(io)
        net = self._net(spec, io)
        with torch.random.fork_rng(devices=[]):  # a layer that draws in eval mode must not move the host's stream
            taps = found_taps(net, [torch.zeros(1, channels, *size)])
        return Model(
            net,
            (name,),
            taps,
            (io.outputs[0].name,),
            _blocks(net),
            name=f"timm-{spec.family}",
            cost_of=lambda: self.cost(spec, io),
        )

    def cost(self, spec: TimmSpec, io: IO) -> Cost:
        """Counted on the meta device: no weights are made, no numbers computed."""
        _, channels, size = _image(io)
        with torch.device("meta"):
            net = self._net(spec, io).eval()
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                net(torch.zeros(1, channels, *size))
        return Cost(sum(each.numel() for each in net.parameters()), counter.get_total_flops() // 2)

    def _net(self, spec: TimmSpec, io: IO) -> nn.Module:
        _, channels, size = _image(io)
        if not self.is_valid(spec):
            raise StudyError(
                f"search space 'timm': dim {spec.dim} with {spec.heads} heads", expected="dim as a multiple of heads"
            )
        n_outputs = io.outputs[0].shape[0]
        assert n_outputs is not None
        return FAMILIES[spec.family](spec, channels, size, n_outputs)


def _image(io: IO) -> tuple[str, int, tuple[int, int]]:
    shown = ", ".join(f"'{each.name}' {'x'.join(str(size) for size in each.shape)}" for each in io.inputs) or "nothing"
    shape = io.inputs[0].shape if io.inputs else ()
    if len(shape) != 3 or None in shape or min(size or 0 for size in shape[1:]) < MIN_SIZE:
        raise DataError(
            f"search space 'timm': the input is {shown}",
            expected=f"an image (C, H, W) of fixed size, {MIN_SIZE} pixels or more",
        )
    if len(io.outputs) != 1 or len(io.outputs[0].shape) != 1:
        raise DataError(f"search space 'timm': the outputs are {io.outputs}", expected="one vector (K,)")
    channels, height, width = (size or 0 for size in shape)
    return io.inputs[0].name, channels, (height, width)


def _blocks(net: nn.Module) -> tuple[Block, ...]:
    """timm's blocks by class name: their children are the components."""
    kinds = {"BasicBlock", "Bottleneck", "InvertedResidual", "DepthwiseSeparableConv", "ConvNeXtBlock", "Block"}
    found = [(path, part) for path, part in net.named_modules() if type(part).__name__ in kinds]
    return tuple(
        Block(index, type(part).__name__, path, {name: f"{path}.{name}" for name, _ in part.named_children()})
        for index, (path, part) in enumerate(found)
    )
