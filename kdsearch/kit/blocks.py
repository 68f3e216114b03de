"""A network as an ordered list of residual blocks with named components, and their removal: reversible, or by a plan that is JSON.

Removing says what stays, by `removal` (HierarchicalPrune, arXiv 2508.04663; its released code has "identity"):

- "identity": the component answers with what it is handed, so that the residual addition still adds that. A layer, RMS or group
  norm becomes the same one without weights; a batch norm passes its input.
- "zero": the component's branch adds nothing.

A block without any component left is one that answers with what it is handed, and leaves no node in an exported file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.errors import PluginError, one_of

__all__ = [
    "ALL",
    "Block",
    "Part",
    "Skipped",
    "Structured",
    "dead_parameters",
    "edits_of",
    "is_norm",
    "removed",
    "replacements",
    "surgery",
    "weights_of",
]

Removal = Literal["identity", "zero"]
Part = tuple[int, str]  # index of a block, and a component of it or ALL
ALL = "all"


@dataclass(frozen=True)
class Block:
    """One residual block.

    Args:
        index: its depth, over blocks of every kind.
        path: of the submodule.
        components: name -> paths of its submodules, in the order in which they are defined. Of a branch that is no single part:
            all of it; else the part, and what follows it in the branch.
        kind: dual and single are those of multimodal diffusion transformers; plain is any other.
        streams: names of what it answers, in order.
    """

    index: int
    path: str
    components: Mapping[str, tuple[str, ...]]
    kind: Literal["plain", "dual", "single"] = "plain"
    streams: tuple[str, ...] = ("h",)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Block:
        parts = {name: tuple(paths) for name, paths in stored["components"].items()}
        return cls(stored["index"], stored["path"], parts, stored["kind"], tuple(stored["streams"]))


@runtime_checkable
class Structured(Protocol):
    """A network that says itself what its blocks are, and what stands for a component that is removed."""

    def block_list(self) -> Sequence[Block]: ...

    def make_identity(self, block: Block, component: str, removal: Removal) -> Mapping[str, nn.Module]:
        """Path -> the submodule that takes the place of what is there. `component` may be ALL."""


class Skipped(nn.Module):
    """A block that is not there: answers with its first arguments, one a stream."""

    def __init__(self, streams: int = 1) -> None:
        super().__init__()
        self.streams = streams

    def forward(self, *args: Any, **_: Any) -> Any:
        return args[0] if self.streams == 1 else args[: self.streams]


class _Passed(nn.Module):
    """A component that is not there: answers with what it is handed first. `answers`: how many values, where these are a tuple."""

    def __init__(self, answers: int = 0) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Any:
        return (x, *[None] * (self.answers - 1)) if self.answers else x


class _Nothing(nn.Module):
    """A branch that adds nothing. What it answers has a shape, since networks reshape it; so a file keeps an addition of zeros."""

    def __init__(self, answers: int = 0) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Any:
        zero = torch.zeros_like(x)
        return (zero, *[None] * (self.answers - 1)) if self.answers else zero


class _PlainNorm(nn.Module):
    """The norm without weights.

    Args:
        norm: over the last sizes, which are `shape` (exporters want numbers), of mean 0 and variance 1, or of mean square 1 (rms);
            or over channels of a group.
        first: the normalised axis is that of the channels of (B, C, H, W).
    """

    def __init__(
        self,
        norm: Literal["layer", "rms", "group"],
        shape: tuple[int, ...],
        eps: float | None,
        groups: int = 1,
        first: bool = False,
    ) -> None:
        super().__init__()
        self.norm, self.shape, self.groups, self.first = norm, shape, groups, first
        self.eps = torch.finfo(torch.float32).eps if eps is None else eps

    @classmethod
    def of(cls, part: nn.Module) -> _PlainNorm | None:
        """None of what has statistics of its own, or is not known."""
        if isinstance(part, nn.GroupNorm):
            return cls("group", (part.num_channels,), part.eps, part.num_groups)
        name, shape = type(part).__name__.lower(), getattr(part, "normalized_shape", None)
        if shape is None or not (isinstance(part, nn.LayerNorm) or "rms" in name):
            return None
        first = name.endswith("2d")  # timm's and torchvision's, of maps
        return cls("rms" if "rms" in name else "layer", tuple(shape), getattr(part, "eps", None), first=first)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm == "group":
            return F.group_norm(x, self.groups, eps=self.eps)
        x = x.movedim(1, -1) if self.first else x
        if self.norm == "layer":
            x = F.layer_norm(x, self.shape, eps=self.eps)
        else:
            axes = tuple(range(-len(self.shape), 0))
            x = x * (x.square().mean(axes, keepdim=True) + self.eps).rsqrt()
        return x.movedim(-1, 1) if self.first else x


def is_norm(part: nn.Module) -> bool:
    """By the name of its class: LayerNorm, RMSNorm, BatchNorm2d and the like."""
    return "norm" in type(part).__name__.lower() and len(list(part.children())) <= 2


def weights_of(module: nn.Module, block: Block, component: str) -> int:
    """How many weights a component has; ALL: the block."""
    paths = [block.path] if component == ALL else block.components[component]
    return sum(each.numel() for path in paths for each in module.get_submodule(path).parameters())


def replacements(
    module: nn.Module, blocks: Sequence[Block], parts: Sequence[Part], removal: Removal
) -> dict[str, nn.Module]:
    """Path -> what takes its place. All components of a block together are the block."""
    by_block: dict[int, list[str]] = {}
    for index, component in parts:
        by_block.setdefault(index, []).append(component)
    known = {block.index: block for block in blocks}
    make: Callable[[Block, str, Removal], Mapping[str, nn.Module]]
    make = module.make_identity if isinstance(module, Structured) else lambda *asked: _plain_identity(module, *asked)
    found: dict[str, nn.Module] = {}
    for index, components in by_block.items():
        if index not in known:
            raise PluginError(f"no block {index}", expected=f"0 to {len(known) - 1}")
        block = known[index]
        if unknown := [each for each in components if each != ALL and each not in block.components]:
            raise PluginError(f"block {index} has no component '{unknown[0]}'", expected=one_of(block.components))
        if ALL in components or set(components) == set(block.components):
            components = [ALL]
        for component in components:
            found.update(make(block, component, removal))
    return found


def _plain_identity(module: nn.Module, block: Block, component: str, removal: Removal) -> dict[str, nn.Module]:
    if component == ALL:
        return {block.path: Skipped(len(block.streams))}
    path, *after = block.components[component]
    part = module.get_submodule(path)
    answers = 2 if isinstance(part, nn.MultiheadAttention) else 0
    if component.startswith("branch"):
        whole = block.components[component]
        return {**{each: _Passed() for each in whole[:-1]}, whole[-1]: _Nothing()}
    if removal == "zero":  # the whole branch: no weights that answer nothing are left in it
        before = [paths[0] for paths in block.components.values() if path in paths[1:]]
        last = next((each for each in after if each in _firsts(block)), path)
        own = [*before, *(each for each in (path, *after) if each != last and not _is_shared(block, each))]
        answers = 2 if isinstance(module.get_submodule(last), nn.MultiheadAttention) else 0
        return {**{each: _Passed() for each in own}, last: _Nothing(answers)}
    if is_norm(part):
        return {path: _PlainNorm.of(part) or _Passed()}
    return {path: _Passed(answers)}


def _firsts(block: Block) -> list[str]:
    return [paths[0] for paths in block.components.values()]


def _is_shared(block: Block, path: str) -> bool:
    """Whether several branches of the block go through it, as through a dropout."""
    mains = {
        next((each for each in reversed(paths) if each in _firsts(block)), "")
        for paths in block.components.values()
        if path in paths
    }
    return len(mains) > 1


def _swap(module: nn.Module, path: str, part: nn.Module) -> Callable[[], None]:
    """Put `part` in the place of a submodule, in its mode; returns what undoes it."""
    owner, _, name = path.rpartition(".")
    parent = module.get_submodule(owner)
    before = module.get_submodule(path)
    parent._modules[name] = part.train(before.training)
    undo = _unfused(module, path)
    attention: Any = before if isinstance(before, nn.MultiheadAttention) else getattr(before, "self_attn", None)
    if hasattr(attention, "batch_first"):  # what torch's layers and encoders ask of an attention, be it gone
        asked = {"batch_first": attention.batch_first, "in_proj_bias": None}
        vars(part).update(asked if attention is before else {"self_attn": SimpleNamespace(**asked)})

    def back() -> None:
        parent._modules[name] = before
        undo()

    return back


def _unfused(module: nn.Module, path: str) -> Callable[[], None]:
    """Keep torch's transformer layers around a path from computing all at once, past their parts; returns what undoes it."""
    names = path.split(".")
    around = [module.get_submodule(".".join(names[:n])) for n in range(len(names))]
    switches = {nn.TransformerEncoderLayer: "activation_relu_or_gelu", nn.TransformerEncoder: "use_nested_tensor"}
    off = [(each, name) for each in around for kind, name in switches.items() if isinstance(each, kind)]
    before = [(each, name, getattr(each, name)) for each, name in off if hasattr(each, name)]
    for each, name, value in before:
        setattr(each, name, type(value)(0))

    def back() -> None:
        for each, name, value in before:
            setattr(each, name, value)

    return back


@contextmanager
def surgery(
    module: nn.Module, blocks: Sequence[Block], parts: Sequence[Part], removal: Removal = "identity"
) -> Iterator[nn.Module]:
    """Within, the network without these parts; afterwards, whatever happens, it is the very same as before."""
    undo: list[Callable[[], None]] = []
    try:
        for path, part in replacements(module, blocks, parts, removal).items():
            undo.append(_swap(module, path, part))
        yield module
    finally:
        for back in reversed(undo):
            back()


def removed(module: nn.Module, edits: Mapping[str, Any]) -> nn.Module:
    """Remove for good, in place, what `edits_of` says."""
    blocks = [Block.of(each) for each in edits["blocks"]]
    parts = [(index, component) for index, component in edits["removed"]]
    for path, part in replacements(module, blocks, parts, edits["removal"]).items():
        _swap(module, path, part)
    return module


def edits_of(blocks: Sequence[Block], parts: Sequence[Part], removal: Removal) -> dict[str, Any]:
    """As JSON values: what `removed` replays on any network of the architecture."""
    touched = {index for index, _ in parts}
    return {
        "removal": removal,
        "blocks": [asdict(block) for block in blocks if block.index in touched],
        "removed": [list(part) for part in parts],
    }


def dead_parameters(module: nn.Module, inputs: Sequence[Tensor]) -> list[str]:
    """Names of the weights that no answer depends on, frozen ones too: they are nobody's savings, and need not be exported."""
    frozen = [each for each in module.parameters() if not each.requires_grad and each.is_floating_point()]
    try:
        for each in frozen:
            each.requires_grad_(True)
        return _without_gradient(module, inputs)
    finally:
        for each in frozen:
            each.requires_grad_(False)


def _without_gradient(module: nn.Module, inputs: Sequence[Tensor]) -> list[str]:
    with torch.enable_grad():
        out = module(*inputs)
        values = out.values() if isinstance(out, Mapping) else [out] if isinstance(out, Tensor) else out
        total = sum(each.float().sum() for each in values if isinstance(each, Tensor))
        named = {name: each for name, each in module.named_parameters() if each.requires_grad}
        assert isinstance(total, Tensor)
        found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return [name for name, gradient in zip(named, found, strict=True) if gradient is None]
