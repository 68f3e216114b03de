"""Search space `vit`: depth, width, heads, MLP ratio, patch and pooling, with the cost by formula."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Cost, Model, Options, Range, SearchSpace, Tap, image_input, searched, vector_output
from kdsearch.kinds.space import each_value
from kdsearch_spaces.vit.net import Block, Pooling, Vit

STAGES = 3  # groups of blocks: as many taps as the convolutional spaces' networks have, so that they line up
MAX_TOKENS = 576  # 24 x 24 patches; attention is quadratic in them
PATCHES = (1, 2, 4, 7, 8, 14, 16, 32)  # pixels

Count = Annotated[int, Field(ge=1, le=64)]


class VitSpec(Options):
    depth: Annotated[Count, searched(3, 4, 6, 9, 12)] = Field(6, description="blocks")
    width: Annotated[int, searched(48, 64, 96, 128, 192, 256)] = Field(
        96, ge=1, le=4096, description="of a token, a multiple of heads"
    )
    heads: Annotated[Count, searched(2, 3, 4, 6)] = Field(3, description="attention heads of a block")
    mlp_ratio: Annotated[int, searched(1, 2, 3, 4)] = Field(
        4, ge=1, le=16, description="hidden width of a block's MLP per width"
    )
    patch: Annotated[int, searched(*PATCHES)] = Field(
        4, ge=1, le=256, description="pixels a side; it divides the image's height and width"
    )
    pool: Annotated[Pooling, searched("mean", "class")] = Field(
        "mean", description="of the tokens for the classifier: their mean, or a class token of its own"
    )


class VitSpace(SearchSpace[VitSpec]):
    """No two specs that can be built describe the same network, so every spec is its own canonical form.

    Taps: `stem`, `stage[0..2]` (the blocks in three groups, as maps of the patches), `tokens[0..2]` (the same with the class
    token first), `penultimate` (pooled vector), `logits` (its part is the classifier). With fewer blocks than three, a stage is
    a block.
    """

    def narrowed(self, io: IO) -> VitSpace:
        """Patches that divide the image into 2x2 or more; of the declared range those that make at most 576 tokens,
        where it has none any up to its largest (100x100: 5, 10, 20, 25)."""
        _, _, height, width = image_input(io, "vit")
        choices = next((dim.range.choices for dim in self.dims if dim.path.endswith("patch")), ())
        most = MAX_TOKENS if choices == PATCHES else height * width

        def keep(patch: int) -> bool:
            return not _misfit(patch, height, width) and height * width <= most * patch**2

        others = tuple(filter(keep, range(1, PATCHES[-1] + 1))) if choices == PATCHES else ()
        if others and not any(map(keep, PATCHES)):
            dims = (replace(dim, range=Range(others)) if dim.path.endswith("patch") else dim for dim in self.dims)
            return type(self)(replace(self.region, dims=tuple(dims)))
        expected = _fitting(height, width)
        if choices == PATCHES and any(not _misfit(patch, height, width) for patch in range(1, min(height, width) + 1)):
            expected = f"one that cuts the image into {MAX_TOKENS} or fewer; the study may name more: {expected}"
        return self.keeping("patch", keep, expected)

    def is_valid(self, spec: VitSpec) -> bool:
        return spec.width % spec.heads == 0

    def build(self, spec: VitSpec, io: IO) -> Model:
        """Raise DataError for inputs that are no image of fixed size or that the patch does not divide; StudyError for heads
        that do not divide the width."""
        name, channels, _, _ = image_input(io, "vit")
        grid, n_outputs = self._grid(spec, io), vector_output(io, "vit")
        groups = grouped(spec.depth)
        net = Vit(channels, grid, spec.patch, spec.width, spec.heads, spec.mlp_ratio, groups, spec.pool, n_outputs)
        return Model(
            net,
            (name,),
            _taps(spec, grid, len(groups), n_outputs),
            (io.outputs[0].name,),
            _blocks(net),
            name="vit",
            cost_of=lambda: self.cost(spec, io),
        )

    def cost(self, spec: VitSpec, io: IO) -> Cost:
        """params with norms, biases and positions; MACs of the patches, the linear layers and attention's two products."""
        _, channels, _, _ = image_input(io, "vit")
        grid, n_outputs = self._grid(spec, io), vector_output(io, "vit")
        d, hidden, has_class = spec.width, spec.mlp_ratio * spec.width, spec.pool == "class"
        patches = grid[0] * grid[1]
        n = patches + has_class
        embed = channels * spec.patch**2 * d
        linear = 4 * d * d + 2 * d * hidden  # weights of a block
        others = 4 * d + 4 * d + hidden + d  # its two norms, attention's four biases, the MLP's two
        stem = embed + d + (n + has_class) * d  # positions, and the class token
        params = stem + spec.depth * (linear + others) + 2 * d + (d + 1) * n_outputs
        macs = embed * patches + spec.depth * (linear * n + 2 * n * n * d) + d * n_outputs
        return Cost(params, macs)

    def teacher_spec(self) -> VitSpec:
        """12 blocks of width 192 with 3 heads (DeiT-Ti); patch, pooling and width as the study fixes them."""
        fixed = dict(self.region.fixed)
        patches = [value for dim in self.dims if dim.path.endswith("patch") for value in each_value(dim)]
        patch = fixed.get("patch", 4 if 4 in patches else patches[-1] if patches else 4)
        width = fixed.get("width", 192)
        heads = fixed.get("heads", 3)
        heads = heads if width % heads == 0 else 1
        return VitSpec(depth=12, width=width, heads=heads, patch=patch, pool=fixed.get("pool", "mean"))

    def _grid(self, spec: VitSpec, io: IO) -> tuple[int, int]:
        """(H, W) in patches."""
        _, _, height, width = image_input(io, "vit")
        if not self.is_valid(spec):
            raise StudyError(
                f"search space 'vit': width {spec.width} with {spec.heads} heads",
                expected="width as a multiple of heads",
            )
        misfit = _misfit(spec.patch, height, width)
        if misfit:
            raise DataError(
                f"search space 'vit': patch {spec.patch} {misfit} {height}x{width}", expected=_fitting(height, width)
            )
        return height // spec.patch, width // spec.patch


def grouped(depth: int) -> tuple[int, ...]:
    """Blocks of each stage: as equal as can be, the later ones larger."""
    n = min(STAGES, depth)
    return tuple(depth * (i + 1) // n - depth * i // n for i in range(n))


def _misfit(patch: int, height: int, width: int) -> str:
    """Why there are no patches of this size; "" where there are."""
    if height % patch or width % patch:
        return "does not divide"
    return "leaves fewer than 2x2 patches of" if min(height, width) < 2 * patch else ""


def _fitting(height: int, width: int) -> str:
    found = [str(patch) for patch in range(1, min(height, width) // 2 + 1) if not _misfit(patch, height, width)]
    return f"a patch of {', '.join(found)}" if found else "an image of 2x2 pixels or more"


def _taps(spec: VitSpec, grid: tuple[int, int], n_stages: int, n_outputs: int) -> tuple[Tap, ...]:
    d, n = spec.width, grid[0] * grid[1] + (spec.pool == "class")
    paths = [("stem", "stem"), *((f"stage[{i}]", f"stages.{i}") for i in range(n_stages))]
    maps = [Tap(name, path, "map", (d, *grid), spec.patch, grid) for name, path in paths]
    tokens = [Tap(f"tokens[{i}]", f"stages.{i}", "tokens", (n, d), grid=grid) for i in range(n_stages)]
    vectors = [Tap("penultimate", "pool", "vector", (d,)), Tap("logits", "classifier", "vector", (n_outputs,))]
    return (*maps, *tokens, *vectors)


def _blocks(net: Vit) -> tuple[str, ...]:
    return tuple(path for path, part in net.named_modules() if isinstance(part, Block))
