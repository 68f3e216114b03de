"""Search space `timm`: families of the timm library with explicit depths and widths, and any of its networks by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Cost, Model, Searchable, SearchSpace, image_input, vector_output
from kdsearch.kinds.found_taps import found_taps
from kdsearch.kinds.options import declared_range
from kdsearch.kinds.space import draw, each_value
from kdsearch_spaces.timm_space.spec import BY_NAME, OWN, TimmSpec

MIN_SIZE = 8  # pixels
DRAWS = 100  # each may cost a tenth of a second
BLOCKS = {
    "BasicBlock",
    "Bottleneck",
    "InvertedResidual",
    "DepthwiseSeparableConv",
    "ConvNeXtBlock",
    "Block",
    "MixerBlock",
}


class TimmSpace(SearchSpace[TimmSpec]):
    """Taps: `stem` where there is one, `stage[i]` (maps; of each block of vit and mixer, with `tokens[i]`), `penultimate`,
    `logits`."""

    family_fields: ClassVar[tuple[str, ...]] = ("family",)

    def __init__(self, region: Searchable | None = None) -> None:
        """Raise StudyError for a name that is none of timm's, for a family `named` that takes no depths and widths, and for fields
        that a network as it is does not read."""
        super().__init__(region)
        self._io = self.example_io()
        fixed, own = self.region.fixed, f"{self._prefix}." if self._prefix else ""
        if fixed.get("name") and "family" not in fixed:
            self._refuse_changes(own)
            fixed = {"family": "exact", "name": fixed["name"]}
            self.region = replace(self.region, fixed=fixed, dims=())
        if fixed.get("family") in BY_NAME:
            try:
                read = _read(TimmSpec(family=fixed["family"], name=fixed.get("name", "")))
            except StudyError as error:
                raise error.at(path=f"{own}name") from None
            kept = [dim for dim in self.dims if dim.path.removeprefix(own).partition("[")[0] in read]
            self.region = replace(self.region, dims=tuple(kept))

    def _refuse_changes(self, own: str) -> None:
        """A name without a family is the network as it is: fields that a study writes beside it would do nothing."""
        written = [name for name in self.region.fixed if name != "name"]
        for dim in self.dims:
            field = self._field(dim)
            declared = declared_range(TimmSpec, field)
            if declared is None or replace(dim.range, when=(), each=0) != replace(declared, when=(), each=0):
                written.append(field)
        if written:
            raise StudyError(
                f"{written[0]} of the network '{self.region.fixed['name']}', which is taken as timm has it",
                path=f"{own}{written[0]}",
                fix="Add `family: named` to search its sizes, or remove the key.",
            )

    def narrowed(self, io: IO) -> TimmSpace:
        """The same space; whether a spec of a network by name is valid shows when it reads these inputs."""
        own = type(self)(self.region)
        own._io = io
        return own

    def is_valid(self, spec: TimmSpec) -> bool:
        return self._refusal(spec) is None

    def sample(self, rng: Generator) -> TimmSpec:
        """As any space's; of a network by name raise StudyError, with timm's words, where nothing that is drawn runs."""
        if self.region.fixed.get("family") not in BY_NAME:
            return super().sample(rng)
        refusal: DataError | StudyError | None = None
        for _ in range(DRAWS):
            spec = self.at({dim.path: draw(dim, rng) for dim in self.dims})
            refusal = self._refusal(spec)
            if refusal is None:
                return spec
        assert refusal is not None
        if self.region.fixed["family"] == "exact":
            raise StudyError(refusal.problem, path=self._prefix, expected=refusal.expected) from refusal
        raise StudyError(
            f"{refusal.problem}; nor does anything else of {DRAWS} draws",
            path=self._prefix,
            fix="Give ranges that the network takes, such as widths that its heads divide.",
        ) from refusal

    def _refusal(self, spec: TimmSpec) -> DataError | StudyError | None:
        """Why there is no such network."""
        try:
            if spec.family in BY_NAME:
                _cost(spec, self._io)
            else:
                _check(spec)
        except (DataError, StudyError) as error:
            return error
        return None

    def canonical(self, spec: TimmSpec) -> TimmSpec:
        """Of grids that make equal patches, the largest."""
        own = {"grid": self._largest_grid(spec)} if "grid" in _read(spec) else {}
        return super().canonical(spec).model_copy(update=own)

    def ignores(self, spec: TimmSpec) -> Collection[str]:
        """What other families read."""
        return TimmSpec.model_fields.keys() - {"family", *_read(spec)}

    def _largest_grid(self, spec: TimmSpec) -> int:
        """Patches are the image's sides over the grid, rounded down: 7 and 8 are one network on 32 pixels."""
        from kdsearch_spaces.timm_space.families import patch_of

        _, _, height, width = image_input(self._io, "timm", MIN_SIZE)
        size = (min(height, width),) * 2 if spec.family == "named" else (height, width)
        dims = [dim for dim in self.dims if self._field(dim) == "grid"]
        grids = each_value(dims[0]) if dims else [spec.grid]
        patch = patch_of(size, spec.grid)
        return max((each for each in grids if patch_of(size, each) == patch), default=spec.grid)

    def key(self, spec: TimmSpec) -> str:
        """The fields that the family reads."""
        return json.dumps(self.read(spec), sort_keys=True, separators=(",", ":"))

    def decode(self, text: str) -> TimmSpec:
        """The inverse of `encode`: the text has the fields that the family reads."""
        return self.canonical(super().decode(text))

    def neighbours(self, spec: TimmSpec, rng: Generator, n: int) -> list[TimmSpec]:
        """Those of fields that the family reads: others would be the same network."""
        own = self.key(spec)
        return [other for other in super().neighbours(spec, rng, 4 * n) if self.key(other) != own][:n]

    def build(self, spec: TimmSpec, io: IO) -> Model:
        """Raise DataError unless the first input is an image of fixed size, 8 pixels or more, that the network reads; StudyError
        for a spec that makes no network."""
        name, channels, *size = image_input(io, "timm", MIN_SIZE)
        _cost(spec, io)  # what cannot be built or run is named here, at no expense
        net = _net(spec, io)
        with torch.random.fork_rng(devices=[]):  # a layer that draws in eval mode must not move the host's stream
            taps = found_taps(net, [torch.zeros(1, channels, *size)])
        return Model(
            net,
            (name,),
            taps,
            (io.outputs[0].name,),
            _blocks(net),
            name=f"timm-{spec.name if spec.family in BY_NAME else spec.family}",
            cost_of=lambda: self.cost(spec, io),
        )

    def cost(self, spec: TimmSpec, io: IO) -> Cost:
        """Counted on the meta device: no weights are made, no numbers computed."""
        return _cost(spec, io)


@lru_cache(maxsize=4096)
def _cost(spec: TimmSpec, io: IO) -> Cost:
    if spec.family in BY_NAME:
        values = ", ".join(f"{name} {getattr(spec, name)}" for name in _read(spec) if name != "name")
        return _fitting(_maker(spec), io, f"'{spec.name}'" + (f" with {values}" if values else ""))
    _check(spec)
    return _counted(_maker(spec), io)[0]


def _check(spec: TimmSpec) -> None:
    """Raise StudyError where values of a family do not go together."""
    if spec.family == "vit" and spec.dim % spec.heads:
        raise StudyError(
            f"search space 'timm': dim {spec.dim} with {spec.heads} heads", expected="dim as a multiple of heads"
        )
    if spec.family == "regnet" and _n_stages(spec) != 4:
        raise StudyError(
            f"search space 'timm': blocks {spec.blocks}, w0 {spec.w0}, wa {spec.wa}, wm {spec.wm} make "
            f"{_n_stages(spec)} stages",
            expected="values that make 4",
        )


Maker = Callable[[int, tuple[int, int], int], nn.Module]


def _maker(spec: TimmSpec) -> Maker:
    """(C, (H, W), K) -> the network."""
    from kdsearch_spaces.timm_space.families import FAMILIES

    return lambda *inputs: FAMILIES[spec.family](spec, *inputs)


def _net(spec: TimmSpec, io: IO) -> nn.Module:
    _, channels, height, width = image_input(io, "timm", MIN_SIZE)
    return _maker(spec)(channels, (height, width), vector_output(io, "timm"))


def _counted(make: Maker, io: IO) -> tuple[Cost, object]:
    """What it costs and what it answers, for one image on the meta device."""
    _, channels, height, width = image_input(io, "timm", MIN_SIZE)
    n_outputs = vector_output(io, "timm")
    with torch.device("meta"):
        net = make(channels, (height, width), n_outputs).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            out = net(torch.zeros(1, channels, height, width))
    return Cost(sum(each.numel() for each in net.parameters()), counter.get_total_flops() // 2), out


def _fitting(make: Maker, io: IO, what: str) -> Cost:
    """The cost of a network of timm's own making. Raise DataError, with timm's words, where it cannot be made or run."""
    _, channels, height, width = image_input(io, "timm", MIN_SIZE)
    n_outputs = vector_output(io, "timm")
    try:
        cost, out = _counted(make, io)
    except Exception as error:  # networks say in any way that values or images do not fit
        told = f"{type(error).__name__}: {error}".strip(": ").splitlines()[0]
        raise DataError(
            f"search space 'timm': {what} does not run on images of {channels}x{height}x{width} ({told[:200]})",
            expected="another size, other values or another network",
        ) from error
    if not isinstance(out, Tensor) or out.shape != (1, n_outputs):
        raise DataError(
            f"search space 'timm': {what} does not answer with logits", expected=f"one vector ({n_outputs},)"
        )
    return cost


def _read(spec: TimmSpec) -> tuple[str, ...]:
    """The fields that make a difference."""
    from kdsearch_spaces.timm_space.named import arguments, known

    if spec.family == "exact":
        known(spec.name)
    if spec.family != "named":
        return OWN[spec.family]

    takes = arguments(spec.name)
    return tuple(field for field in OWN["named"] if field == "name" or field in takes)


def _n_stages(spec: TimmSpec) -> int:
    """Different widths that regnet's rule gives to the blocks."""
    from timm.models.regnet import generate_regnet

    return int(generate_regnet(spec.wa, spec.w0, spec.wm, spec.blocks, spec.group_size)[1])


def _blocks(net: nn.Module) -> tuple[str, ...]:
    """By the names of timm's classes."""
    return tuple(path for path, part in net.named_modules() if type(part).__name__ in BLOCKS)
