"""What is searched of timm's networks: one spec for all families, and which fields each reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdsearch.kinds import Options, searched

Family = Literal[
    "resnet",
    "mobilenet",
    "mobilenetv3_small",
    "mobilenetv3_large",
    "efficientnet",
    "regnet",
    "convnext",
    "vit",
    "mixer",
    "named",
    "exact",
]
OWN = {  # the fields that a family reads; `named` reads those of the rest that its network takes
    "resnet": ("depths", "widths", "block"),
    "mobilenet": ("depths", "widths", "expansion"),
    "mobilenetv3_small": ("width_multiplier", "depth_multiplier"),
    "mobilenetv3_large": ("width_multiplier", "depth_multiplier"),
    "efficientnet": ("width_multiplier", "depth_multiplier"),
    "regnet": ("blocks", "w0", "wa", "wm", "group_size", "squeeze_excite"),
    "convnext": ("depths", "widths"),
    "vit": ("depth", "dim", "heads", "grid"),
    "mixer": ("depth", "dim", "grid"),
    "named": ("name", "depths", "widths", "depth", "dim", "heads", "grid"),
    "exact": ("name",),
}
BY_NAME = ("named", "exact")  # where a study gives a name
TABLED = tuple(family for family in OWN if family not in BY_NAME)


def _reading(field: str) -> dict[str, tuple[str, ...]]:
    return {"family": tuple(family for family, fields in OWN.items() if field in fields)}


Count = Annotated[int, Field(ge=1, le=64)]
Width = Annotated[int, Field(ge=1, le=4096)]
Multiplier = Annotated[float, Field(gt=0, le=8)]


class TimmSpec(Options):
    family: Annotated[Family, searched(*TABLED)] = Field(
        "resnet",
        description="whose blocks; named = any network of timm, by `name`, at other sizes; exact = that network as it is, which a "
        "name without a family means",
    )
    name: str = Field("", description="of named and exact: as in timm.list_models()")
    depths: Annotated[tuple[Count, Count, Count, Count], searched(1, 2, 3, each=4, when=_reading("depths"))] = Field(
        (2, 2, 2, 2), description="blocks of each stage"
    )
    widths: Annotated[
        tuple[Width, Width, Width, Width], searched(8, 16, 24, 32, 48, 64, 96, each=4, when=_reading("widths"))
    ] = Field((16, 32, 48, 64), description="channels of each stage; a bottleneck's output has four times as many")
    block: Annotated[Literal["basic", "bottleneck"], searched("basic", "bottleneck", when=_reading("block"))] = Field(
        "basic", description="of resnet"
    )
    expansion: Annotated[int, searched(2, 4, 6, when=_reading("expansion"))] = Field(
        4, ge=1, le=16, description="of mobilenet: hidden channels of a block per channel"
    )
    width_multiplier: Annotated[Multiplier, searched(0.25, 0.35, 0.5, 0.75, 1.0, when=_reading("width_multiplier"))] = (
        Field(1.0, description="of mobilenetv3 and efficientnet: of all channels, which are rounded to multiples of 8")
    )
    depth_multiplier: Annotated[Multiplier, searched(0.5, 1.0, 1.4, when=_reading("depth_multiplier"))] = Field(
        1.0, description="of mobilenetv3 and efficientnet: of each stage's blocks"
    )
    blocks: Annotated[Count, searched(8, 10, 13, 16, 20, when=_reading("blocks"))] = Field(
        13, description="of regnet: blocks of its four stages together"
    )
    w0: Annotated[int, searched(8, 16, 24, 32, 48, when=_reading("w0"))] = Field(
        24, ge=8, le=512, multiple_of=8, description="of regnet: channels of the first block"
    )
    wa: Annotated[float, searched(8.0, 12.0, 16.0, 24.0, 36.0, when=_reading("wa"))] = Field(
        36.0,
        gt=0,
        le=512,
        description="of regnet: channels that each block has more than the one before, before rounding",
    )
    wm: Annotated[float, searched(2.0, 2.25, 2.5, 2.75, when=_reading("wm"))] = Field(
        2.5, gt=1, le=8, description="of regnet: channels are rounded to w0 times powers of it, a stage each"
    )
    group_size: Annotated[Width, searched(8, 16, when=_reading("group_size"))] = Field(
        8, description="of regnet: channels of a group of the 3x3 convolutions"
    )
    squeeze_excite: Annotated[bool, searched(False, True, when=_reading("squeeze_excite"))] = Field(
        False, description="of regnet: in every block, a quarter of the block's input channels"
    )
    depth: Annotated[Count, searched(2, 4, 6, 8, when=_reading("depth"))] = Field(
        4, description="blocks of vit and mixer"
    )
    dim: Annotated[Width, searched(48, 64, 96, 128, 192, when=_reading("dim"))] = Field(
        96, description="of vit and mixer: width of a token, a multiple of heads"
    )
    heads: Annotated[Count, searched(2, 4, when=_reading("heads"))] = Field(4, description="attention heads of vit")
    grid: Annotated[Count, searched(4, 7, 8, when=_reading("grid"))] = Field(
        8, description="of vit and mixer: patches along a side; with a remainder there may be more"
    )
